"""Four replicas of a real Backstage share twelve connections in mode `auto`, and no plugin meets anything of another.

`python -m tests.backstage` is the same by hand, and longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backstage.backend import Unavailable, install
from tests.backstage.replicas import CONNECTIONS, DIVISIONS, play
from tests.servers import Postgres

pytestmark = pytest.mark.backstage


@pytest.fixture(scope="module")
def modules() -> Path:
    try:
        return install()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def server() -> Iterator[Postgres]:
    found = Postgres()
    yield found
    found.remove()


def plays(server: Postgres, modules: Path, folder: Path, division: str, rounds: int, bells: int) -> None:
    found = play(server, modules, folder, division, rounds=rounds, bells=bells)
    print(found)
    assert found.faults == []
    assert 1 < found.most <= CONNECTIONS
    assert found.cancels > 0
    assert found.events == 3 * bells


@pytest.mark.parametrize("division", ["schema", "role"])
def test_replicas(modules: Path, server: Postgres, tmp_path: Path, division: str) -> None:
    """`role` is database mode, where each plugin's things belong to a role of their own besides."""
    plays(server, modules, tmp_path, division, rounds=4, bells=4)


@pytest.mark.long
@pytest.mark.parametrize("division", DIVISIONS)
def test_replicas_for_long(modules: Path, server: Postgres, tmp_path: Path, division: str) -> None:
    plays(server, modules, tmp_path, division, rounds=150, bells=40)
