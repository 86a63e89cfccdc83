"""A plugin's SQLite file, behind PostgreSQL's protocol."""
