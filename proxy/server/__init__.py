"""The daemon: the life of a client, the worker around it, what is shown to operators."""
