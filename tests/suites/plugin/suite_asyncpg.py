"""asyncpg's tests name the database `postgres` here and there: in both runs they mean the one that PGDATABASE names."""

import os
from typing import Any

from asyncpg import _testbase

own = _testbase.ClusterTestCase.get_connection_spec.__func__


def elsewhere(cls: Any, kwargs: Any = {}) -> Any:  # noqa: B006 - as the original
    spec = own(cls, kwargs)
    if spec.get("database") == "postgres":
        spec["database"] = os.environ["PGDATABASE"]
    return spec


_testbase.ClusterTestCase.get_connection_spec = classmethod(elsewhere)
