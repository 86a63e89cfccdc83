"""Who may log in how, and how each side proves it.  Dry: no sockets, no clocks."""
