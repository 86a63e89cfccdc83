"""The moving of bytes between a client and its upstream: the hot path."""
