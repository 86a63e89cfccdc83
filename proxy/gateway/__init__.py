"""pgwire answered by ourselves: the maintenance database and whatever is not PostgreSQL."""
