"""Switchboard, PgBouncer and a direct connection, compared in interleaved rounds."""
