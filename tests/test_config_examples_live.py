"""The guide's examples as they stand, hosts and the superuser's password aside, run by a daemon on a real server."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.servers import ROOT, Postgres, daemon

MEMORY = "backstage_plugin_"
# plugin -> user, database; the embedded server's user is its own affair.
WANT: dict[str, dict[str, tuple[str | None, str]]] = {
    "in-memory": {"auth": (None, f"{MEMORY}auth"), "catalog": (None, f"{MEMORY}catalog")},
    "postgresql": {"auth": ("postgres", "pg_auth_set_by_user"), "catalog": ("postgres", "backstage_plugin_catalog")},
    "prefix": {"auth": ("postgres", "example_prefix_auth"), "catalog": ("postgres", "example_prefix_catalog")},
    "connection-per-plugin": {"auth": ("fort", "unwitting_fox_jumps"), "catalog": ("bank", "shuffle_ransack_playback")},
    "postgresql-and-sqlite": {"auth": (None, f"{MEMORY}auth"), "catalog": ("foo", "backstage_plugin_catalog")},
}
ROLES = {"fort": "knox", "bank": "reserve", "foo": "bar"}


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """With the roles of the examples, and the databases that somebody else made for two of them."""
    running = Postgres()
    for user, word in ROLES.items():
        running.sql(f"create role {user} login {'createdb' if user == 'foo' else ''} password '{word}'")
    running.sql("create database unwitting_fox_jumps owner fort")
    running.sql("create database shuffle_ransack_playback owner bank")
    yield running
    running.remove()


@pytest.fixture
def folder() -> Iterator[Path]:
    """That the owner of our own PostgreSQL can enter."""
    made = Path(tempfile.mkdtemp(prefix="sb-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.parametrize("name", WANT)
def test_the_guides_examples(server: Postgres, folder: Path, name: str) -> None:
    text = (ROOT / "config/examples" / f"{name}.yaml").read_text()
    text = text.replace("db.example.com:5432", f"127.0.0.1:{server.port}").replace("db.example.com", "127.0.0.1").replace(
        "port: 5432", f"port: {server.port}").replace("password: password", f"password: {server.password}")
    with daemon(folder, yaml.safe_load(text)["backend"]["database"], embedded={"state_dir": str(folder / "own")}) as running:
        for plugin, (user, database) in WANT[name].items():
            with running.connect(plugin) as connection:
                row = connection.execute("select current_user, current_database()").fetchone()
                assert row is not None
                assert row[1] == database
                assert user in (None, row[0])
