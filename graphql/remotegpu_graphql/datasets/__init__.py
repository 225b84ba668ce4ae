"""Datasets, grants on them, and where they are mounted."""
