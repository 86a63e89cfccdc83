"""Fuzzers of every parser of strangers' bytes, one invariant each: bytes parse or raise our own fault, nothing else."""
