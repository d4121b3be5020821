"""From audio to text: the speech contract, the embedded recogniser, its workers."""
