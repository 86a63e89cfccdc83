"""Sockets, TLS and deadlines: the wet half of every dialogue."""
