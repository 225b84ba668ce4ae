"""Real servers for tests: redis-server and PostgreSQL, each in a directory and on a port of its own."""
