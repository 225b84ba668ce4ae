"""Tests of `remotegpu_core`, on SQLite and PostgreSQL, in process and on a real Redis."""
