"""The fleet in numbers."""
