"""Backstage itself, and what it is given to eat."""
