"""Real peers for tests, demos and drills: they speak vendors' protocols byte for byte, and misbehave on demand."""
