"""When a lease goes back to its pool."""

from __future__ import annotations

import enum


class Mode(enum.StrEnum):
    SESSION = "session"
    TRANSACTION = "transaction"
    STATEMENT = "statement"
    AUTO = "auto"
