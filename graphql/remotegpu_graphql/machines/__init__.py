"""Machines and GPUs."""
