"""Real peers for tests, demos and drills: they speak the vendors' protocols byte for byte, and can misbehave on demand."""
