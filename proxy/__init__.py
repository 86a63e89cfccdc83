"""Switchboard: one DSN in, every Backstage plugin database out.  Read README.md in this folder first."""

__version__ = "0.1.0"
