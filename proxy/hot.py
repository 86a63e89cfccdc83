"""Is the compiled twin of the hot path there, and wanted?

`hot` is the module proxy._hot (built from proxy/_hot.c where a C compiler was at hand), or None: then the Python texts that
specify it do the work.  SWITCHBOARD_PURE=1 chooses those.
"""

from __future__ import annotations

import importlib
import os
from typing import Any


def _twin() -> Any:
    if os.environ.get("SWITCHBOARD_PURE", "0") not in ("", "0"):
        return None
    try:
        return importlib.import_module("proxy._hot")
    except ImportError:
        return None


hot: Any = _twin()
PATH = "compiled" if hot is not None else "pure"
"""Which one runs, for people to see."""
