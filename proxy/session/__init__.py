"""The dialogues and the bookkeeping of one connection.  Dry: no sockets, no clocks."""
