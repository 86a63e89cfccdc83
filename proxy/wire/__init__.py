"""The PostgreSQL wire format: bytes to records and back.  Dry: no sockets, no clocks."""
