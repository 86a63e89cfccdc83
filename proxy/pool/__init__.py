"""Who holds which upstream connection, and how databases come to exist."""
