"""Accounts that allocations have on this host, and the keys that sign in to them."""
