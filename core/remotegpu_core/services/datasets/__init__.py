"""Datasets: who may use them, and where they are mounted."""
