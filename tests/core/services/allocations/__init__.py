"""Allocations, from asking to the receipt."""
