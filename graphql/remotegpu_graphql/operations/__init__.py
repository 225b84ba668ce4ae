"""What takes time, step by step."""
