"""Programs and drivers of MySQL, directly and through the proxy: the mysql client, mysql2 and knex, npm's old mysql, PyMySQL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pymysql.cursors import SSDictCursor

from tests import mariadb
from tests.mariadb import Through, run_client
from tests.servers import until

pytestmark = [mariadb.needed, pytest.mark.drivers]


def test_the_command_line_client(through: Through, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.write_text("1\tone\n2\ttwo\n")
    through.connect("catalog").close()
    done = run_client(through, f"""
        SHOW DATABASES LIKE 'backstage_plugin_c%';
        USE catalog;
        CREATE OR REPLACE TABLE shown (a int primary key, b text);
        LOAD DATA LOCAL INFILE '{rows}' INTO TABLE shown;
        SELECT * FROM shown;
        DESCRIBE shown;
        status
        DELIMITER //
        CREATE OR REPLACE PROCEDURE twice() BEGIN SELECT 1; SELECT 2; END//
        DELIMITER ;
        CALL twice();
        use search
        SELECT 'not reached';
        """, "--local-infile=1", database="")
    assert done.stdout.startswith("backstage_plugin_catalog\n1\tone\n2\ttwo\na\tint(11)\tNO\tPRI\tNULL\t\n")
    assert done.stdout.rstrip().endswith("1\n2")
    assert "Current database:\tbackstage_plugin_catalog" in done.stdout
    assert "ERROR 1044 (42000)" in done.stderr
    assert "this connection is plugin catalog's" in done.stderr


def test_a_dump_into_another_plugin(through: Through) -> None:
    program = mariadb.client()
    if program is None or not Path(program + "-dump").exists():
        pytest.skip("needs mariadb-dump (Debian: mariadb-client)")
    run_client(through, "CREATE OR REPLACE TABLE dumped AS SELECT 1 AS a UNION SELECT 2; SELECT 1", database="catalog")
    plugins = mariadb.plugin_dir()
    words = [program + "-dump", "--no-defaults", "-h127.0.0.1", f"-P{through.daemon.mysql_port}", "-ubackstage", "--single-transaction",
             *([f"--plugin-dir={plugins}"] if plugins else []), "backstage_plugin_catalog", "dumped"]
    dump = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60,
                          env=mariadb.environment() | {"MYSQL_PWD": "s3cret"})
    assert dump.returncode == 0, dump.stderr
    assert run_client(through, dump.stdout + "SELECT sum(a) FROM dumped", database="scaffolder").stdout == "3\n"


def test_ctrl_c_of_the_command_line_client(through: Through) -> None:
    """It connects anew and sends KILL QUERY with the id that it was told."""
    program = mariadb.client()
    assert program is not None
    plugins = mariadb.plugin_dir()
    words = [program, "--no-defaults", "-h127.0.0.1", f"-P{through.daemon.mysql_port}", "-ubackstage", "catalog", "-e",
             "SELECT sleep(120) AS long_sleep", *([f"--plugin-dir={plugins}"] if plugins else [])]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=mariadb.environment() | {"MYSQL_PWD": "s3cret"})
    asks = "SELECT 1 FROM information_schema.processlist WHERE info LIKE '%long\\_sleep%' AND info NOT LIKE '%processlist%'"
    until(lambda: through.server.sql(asks), "the query")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    until(lambda: not through.server.sql(asks), "its end")


@pytest.fixture(scope="module")
def modules() -> Path:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no Node on this machine")
    folder = Path(os.environ.get("SWITCHBOARD_NODE", Path(__file__).parent / "drivers"))
    if not (folder / "node_modules/mysql2").exists():
        done = subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, capture_output=True,
                              check=False, timeout=240)
        if done.returncode:
            pytest.skip("npm could not install knex and mysql2")
    return folder


KNEX = """
const knex = require('knex')({client: process.env.CLIENT, connection: JSON.parse(process.env.CONNECTION), pool: {min: 0, max: 4}});
const told = {};
(async () => {
  await knex.schema.dropTableIfExists('k2'); await knex.schema.dropTableIfExists('k1');
  await knex.schema.createTable('k1', t => { t.increments(); t.string('name', 50).unique(); t.text('words', 'longtext');
    t.decimal('n', 12, 3); t.datetime('at', {precision: 3}); t.json('doc'); t.binary('bin'); t.boolean('ok').defaultTo(true); });
  await knex.schema.createTable('k2', t => { t.increments(); t.integer('one').unsigned().references('k1.id').onDelete('CASCADE'); });
  await knex.schema.alterTable('k1', t => { t.index(['n']); t.integer('more'); });
  await knex.transaction(async trx => { for (let i = 0; i < 50; i++)
    await trx('k1').insert({name: 'n' + i, n: i / 8, at: new Date(1700000000000), doc: JSON.stringify({i}),
      bin: Buffer.from([0, i, 255])}); });
  told.first = await knex('k1').where({name: 'n7'}).first();
  told.bin = told.first.bin.toString('hex'); delete told.first.bin;
  told.many = (await Promise.all(Array.from({length: 40}, (_, i) => knex('k1').where({name: 'n' + i}).first()))).length;
  try { await knex.transaction(async trx => { await trx('k1').insert({name: 'gone'}); throw new Error('on purpose'); }); }
  catch (e) { told.rolled = e.message; }
  for (const bad of [() => knex('k1').insert({name: 'n1'}), () => knex('k2').insert({one: 9999}), () => knex('nowhere'),
                     () => knex.raw('selec')]) {
    try { await bad(); } catch (e) { (told.errors = told.errors || []).push([e.code, e.errno, e.sqlState || e.sqlStateMarker]); }
  }
  told.upsert = await knex('k1').insert({name: 'n1', more: 3}).onConflict('name').merge(['more']);
  told.count = await knex('k1').count({c: '*'}).first();
  const big = 'x'.repeat(17 * 1024 * 1024);
  await knex('k1').where({name: 'n2'}).update({words: big});
  told.big = (await knex('k1').where({name: 'n2'}).first()).words === big;
  told.columns = Object.keys(await knex('k1').columnInfo());
  const stream = knex('k1').select('name').orderBy('id').stream(); told.streamed = 0;
  for await (const row of stream) told.streamed++;
  try { await knex.raw('select sleep(30)').timeout(300, {cancel: true}); } catch (e) { told.cancelled = e.name; }
  told.left = (await knex('k1').where('id', '>', 40)).length;
  if (process.env.CLIENT === 'mysql2') {
    const raw = await knex.client.acquireConnection();
    const p = raw.promise();
    told.executed = [];
    for (let i = 0; i < 5; i++)
      told.executed.push((await p.execute('SELECT ? + 1 AS a, ? AS b, n FROM k1 WHERE id = ?', [i, 'w' + i, i + 1]))[0]);
    told.same = (await p.query('SELECT connection_id() AS id'))[0][0].id > 0;
    const { Readable } = require('stream');
    const file = Buffer.from(Array.from({length: 20000}, (_, i) => `l${i}\\n`).join(''));
    await p.query('CREATE TEMPORARY TABLE loaded (v varchar(20))');
    told.loaded = (await p.query({sql: "LOAD DATA LOCAL INFILE 'f' INTO TABLE loaded",
      infileStreamFactory: () => Readable.from([file])}))[0].affectedRows;
    await p.changeUser({database: 'whatever'}).catch(e => { told.changed = true; });
    await knex.client.releaseConnection(raw);
  }
  console.log(JSON.stringify(told));
  await knex.destroy();
})().catch(e => { console.error(e); process.exit(1); });
"""


@pytest.mark.parametrize("client", ["mysql2", "mysql"])
def test_knex_says_the_same_as_directly(through: Through, modules: Path, client: str) -> None:
    through.connect("knex").close()
    told = []
    for connection in ({"port": through.server.port, "user": "root", "password": mariadb.ROOT_WORD},
                       {"port": through.daemon.mysql_port, "user": "backstage", "password": "s3cret"}):
        connection |= {"host": "127.0.0.1", "database": "backstage_plugin_knex"}
        done = subprocess.run(["node", "-e", KNEX], cwd=modules, capture_output=True, text=True, check=False, timeout=120, env={
            **os.environ, "CLIENT": client, "CONNECTION": json.dumps(connection), "TZ": "UTC"})
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout.splitlines()[-1]))
        print(told[-1]["first"])
    direct, proxied = told
    if client == "mysql2":
        assert direct.pop("loaded") == proxied.pop("loaded") == 20_000
        assert proxied.pop("changed", None)    # COM_CHANGE_USER is refused; directly it was an unknown database
        direct.pop("changed", None)
    assert direct == proxied
    assert proxied["cancelled"] == "KnexTimeoutError"
    assert proxied["many"] == 40


def test_pymysql_says_the_same_as_directly(through: Through) -> None:
    """Its own usage: cursors of all kinds, arguments, executemany, callproc, errors, metadata."""
    def use(connection: mariadb.Connection) -> list[Any]:
        told: list[Any] = []
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS p")
            cursor.execute("CREATE TABLE p (id int PRIMARY KEY AUTO_INCREMENT, v varchar(40), b blob, d datetime(6)) ENGINE=InnoDB")
            told.append(cursor.executemany("INSERT INTO p (v, b, d) VALUES (%s, %s, %s)",
                                           [(f"v{at}", bytes(range(at)), f"2026-01-{at + 1:02}") for at in range(20)]))
            told += [cursor.lastrowid, cursor.rowcount]
            cursor.execute("SELECT * FROM p WHERE v LIKE %s ORDER BY id", ("v1%",))
            told += [cursor.description, cursor.fetchmany(3), cursor.fetchall()]
            cursor.execute("DROP PROCEDURE IF EXISTS several")
            cursor.execute("CREATE PROCEDURE several(IN a int, OUT b int) BEGIN SELECT a; SET b = a + 1; SELECT 'two', 'columns'; END")
            cursor.callproc("several", (3, 0))
            told.append(cursor.fetchall())
            while cursor.nextset():
                told.append(cursor.fetchall())
            cursor.execute("SELECT @_several_1")
            told.append(cursor.fetchall())
            for text in ("SELECT * FROM nowhere", "INSERT INTO p (id) VALUES (1)", "SELECT", "SELECT 1/0; SELECT 2"):
                try:
                    cursor.execute(text)
                except mariadb.Error as fault:
                    told.append((type(fault).__name__, fault.args))
            connection.begin()
            cursor.execute("DELETE FROM p")
            connection.rollback()
            cursor.execute("SELECT count(*) FROM p")
            told.append(cursor.fetchall())
            told.append(cursor.execute("SET @a = 1"))
            told.append(connection.show_warnings())
        with connection.cursor(SSDictCursor) as stream:
            stream.execute("SELECT id, v FROM p ORDER BY id")
            told.append(list(stream.fetchall_unbuffered()))
        return told

    through.connect("py").close()
    with through.server.connect("backstage_plugin_py") as direct, through.connect("py") as proxied:
        assert use(direct) == use(proxied)
