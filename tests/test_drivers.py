"""Programs that people use: psql, pgbench, pg_dump, node-postgres and knex."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.servers import Daemon, Postgres, until

pytestmark = pytest.mark.drivers


@pytest.fixture
def psql(postgres: Postgres) -> Path:
    return postgres.cluster.binaries


def run(*command: object, **more: object) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_psql(proxy: Daemon, psql: Path, tmp_path: Path) -> None:
    dsn = proxy.dsn("catalog")
    assert "backstage_plugin_catalog" in run(psql / "psql", dsn, "-c", r"\l")
    run(psql / "psql", dsn, "-c", "drop table if exists shown", "-c", "create table shown (a int primary key, b text)")
    assert "shown_pkey" in run(psql / "psql", dsn, "-c", r"\d shown")
    (tmp_path / "rows").write_text("1\tone\n2\ttwo\n")
    run(psql / "psql", dsn, "-c", rf"\copy shown from '{tmp_path}/rows'")
    assert run(psql / "psql", dsn, "-Atc", "copy shown to stdout") == "1\tone\n2\ttwo\n"
    assert "postgres" in run(psql / "psql", proxy.dsn("postgres"), "-c", r"\l")


def test_psql_ctrl_c(proxy: Daemon, psql: Path, postgres: Postgres) -> None:
    process = subprocess.Popen([psql / "psql", proxy.dsn("catalog"), "-c", "select pg_sleep(60) as slept"], stderr=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, text=True)
    until(lambda: postgres.sql("select 1 from pg_stat_activity where query like '%as slept' and state = 'active' "
                               "and pid <> pg_backend_pid()"), "the query")
    with proxy.connect("catalog") as second:
        assert second.execute("select 1").fetchone() == (1,)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=20)
    assert "canceling statement due to user request" in text


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_pgbench(proxy: Daemon, psql: Path, protocol: str) -> None:
    dsn = proxy.dsn("bench")
    run(psql / "pgbench", "-i", "-q", "-s", "1", dsn)
    told = run(psql / "pgbench", "-n", "-M", protocol, "-c", "4", "-t", "100", dsn)
    assert "number of failed transactions: 0" in told
    assert "400/400" in told


def test_pg_dump_into_another_plugin(proxy: Daemon, psql: Path) -> None:
    with proxy.connect("catalog") as connection:
        connection.execute("drop table if exists dumped; create table dumped as select generate_series(1, 1000) a")
    text = run(psql / "pg_dump", "-t", "dumped", "--clean", "--if-exists", proxy.dsn("catalog"))
    run(psql / "psql", "-q", "-v", "ON_ERROR_STOP=1", proxy.dsn("scaffolder"), input=text)
    with proxy.connect("scaffolder") as connection:
        assert connection.execute("select count(*) from dumped").fetchone() == (1000,)


KNEX = """
const knex = require('knex')({client: 'pg', connection: process.env.DSN, pool: {min: 0, max: 4}});
(async () => {
  await knex.schema.dropTableIfExists('k'); await knex.schema.createTable('k', t => { t.increments(); t.text('name'); });
  await knex.transaction(async trx => { for (let i = 0; i < 50; i++) await trx('k').insert({name: 'n' + i}); });
  const rows = await Promise.all(Array.from({length: 40}, (_, i) => knex('k').where({name: 'n' + i}).first()));
  let cancelled = null;
  try { await knex.raw('select pg_sleep(30)').timeout(200, {cancel: true}); } catch (e) { cancelled = e.name; }
  const left = await knex('k').count();
  console.log(JSON.stringify({rows: rows.length, cancelled, left: left[0].count}));
  await knex.destroy();
})().catch(e => { console.error(e); process.exit(1); });
"""


def test_knex_and_node_postgres(proxy: Daemon, tmp_path: Path) -> None:
    """`.timeout({cancel: true})` asks the server to cancel the pid of BackendKeyData: true in session mode only."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no Node on this machine")
    folder = Path(os.environ.get("SWITCHBOARD_NODE", Path(__file__).parent / "drivers"))
    if not (folder / "node_modules/knex").exists():
        done = subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, capture_output=True,
                              check=False, timeout=240)
        if done.returncode:
            pytest.skip("npm could not install knex and pg")
    script = KNEX if "session" in proxy.config.read_text() else KNEX.replace("cancel: true", "cancel: false").replace(
        "pg_sleep(30)", "pg_sleep(1)")
    printed = run("node", "-e", script, cwd=folder, env={**os.environ, "DSN": proxy.dsn("catalog")})
    told = json.loads(printed.splitlines()[-1])        # knex chats before
    assert told == {"rows": 40, "cancelled": "KnexTimeoutError", "left": "50"}
