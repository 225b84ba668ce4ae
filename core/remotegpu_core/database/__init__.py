"""The database: SQLite by default, PostgreSQL to scale, one set of models on both."""
