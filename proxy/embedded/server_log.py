"""The server's own log, bounded: past a size its last part moves to `postgres.log.1` and the file begins anew.

The server writes to a descriptor in append mode that it got at its start, so the file is shortened where it lies; what it
says between the copy and the cut is lost, a few lines once per 16 MB.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

LARGEST = 16 << 20      # bytes
KEPT = 1 << 20          # bytes of the end that move
PAUSE = 60.0            # seconds between two looks


class ServerLog:
    def __init__(self, path: Path, largest: int = LARGEST) -> None:
        self.path = path
        self.largest = largest
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def bound(self) -> bool:
        """Shorten it if it has grown too large."""
        try:
            with self.path.open("r+b") as file:
                size = os.fstat(file.fileno()).st_size
                if size <= self.largest:
                    return False
                file.seek(max(0, size - KEPT))
                tail = file.read(KEPT)
                older = self.path.with_name(f"{self.path.name}.1")
                older.unlink(missing_ok=True)
                with open(os.open(older, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as kept:
                    kept.write(tail)
                file.truncate(0)
                return True
        except OSError:
            return False    # a full disk must not end the daemon; the next look tries again

    def watch(self) -> None:
        """Look now and then, in a thread: an event loop has no business with a megabyte of log."""
        self._over.clear()
        self._thread = threading.Thread(target=self._watch, name="server log", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            self._thread = None

    def _watch(self) -> None:
        while not self._over.wait(PAUSE):
            self.bound()

    def last_line(self) -> str | None:
        """What the server said last, of at most the last 4 KB."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
                lines = file.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            return None
        return lines[-1] if lines else None
