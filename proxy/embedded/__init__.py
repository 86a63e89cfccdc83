"""A PostgreSQL cluster of our own, run as a child process."""
