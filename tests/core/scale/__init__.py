"""Databases as a large fleet leaves them, made by SQL, and the plans of the statements on them."""
