"""Data sets that allocations have mounted on this host."""
