"""The examples in config/examples load as they stand and lead where they say; mistakes are told so that one can mend them."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.configuration import Configuration, read
from proxy.config.target import Engine
from proxy.errors import ConfigProblems

EXAMPLES = Path(__file__).parent.parent / "config/examples"
LEADS: dict[str, dict[str, tuple[str, str | None, str | None]]] = {     # plugin -> target, user, password
    "in-memory": {"catalog": ("memory:backstage_plugin_catalog", None, None)},
    "postgresql": {"auth": ("db.example.com:5432/pg_auth_set_by_user", "postgres", "password"),
                   "catalog": ("db.example.com:5432/backstage_plugin_catalog", "postgres", "password")},
    "prefix": {"auth": ("db.example.com:5432/example_prefix_auth", "postgres", "password"),
               "catalog": ("db.example.com:5432/example_prefix_catalog", "postgres", "password")},
    "connection-per-plugin": {"auth": ("db.example.com:5432/unwitting_fox_jumps", "fort", "knox"),
                              "catalog": ("db.example.com:5432/shuffle_ransack_playback", "bank", "reserve")},
    "postgresql-and-sqlite": {"auth": ("memory:backstage_plugin_auth", None, None),
                              "catalog": ("db.example.com:5432/backstage_plugin_catalog", "foo", "bar")},
    "mysql": {"auth": ("mysql.example.com:3306/unwitting_fox_jumps", "backstage", "password"),
              "catalog": ("mysql.example.com:3306/backstage_plugin_catalog", "backstage", "password")},
    "postgresql-and-mysql": {"shop": ("mysql.example.com:3306/shuffle_ransack_playback", "fort", "knox"),
                             "catalog": ("db.example.com:5432/backstage_plugin_catalog", "foo", "bar")},
    "sqlite-files": {"catalog": ("sqlite:/var/lib/backstage/db/catalog.sqlite", None, None),
                     "auth": ("sqlite:/var/lib/backstage/db/people.sqlite", None, None),
                     "scratch": ("embedded:backstage_plugin_scratch", None, None)},
    "postgresql-and-sqlite-file": {"auth": ("sqlite:/var/lib/backstage/auth.sqlite", None, None),
                                   "catalog": ("db.example.com:5432/backstage_plugin_catalog", "foo", "bar")},
    "schema-mode": {"catalog": ("db.example.com:5432/developer_portal#catalog", "backstage", "from-environment")},
    "secrets": {"auth": ("db.example.com:5432/backstage_plugin_auth", "backstage", "from-credential"),
                "catalog": ("db.example.com:5432/backstage_plugin_catalog", "backstage", "from-environment")},
}


def test_each_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} == set(LEADS)


@pytest.mark.parametrize("name", LEADS)
def test_examples(name: str, tmp_path: Path) -> None:
    for credential in ("auth-password", "backstage-verifier"):
        (tmp_path / credential).write_text("from-credential\n")
    environ = {"POSTGRES_PASSWORD": "from-environment", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    found = read([EXAMPLES / f"{name}.yaml"], environ=environ)
    assert [warning for warning in found.warnings if "nobody can log in" not in warning] == []
    for plugin, (where, user, password) in LEADS[name].items():
        target = found.target(plugin)
        assert str(target) == where
        who = target.credential
        assert (who.user if who else None) == user
        assert (who.password.reveal() if who and who.password else None) == password
        assert target.engine is not Engine.REJECTED


GOOD = """\
backend:
  database:
    client: pg
    connection:
      host: db
      user: bs
      password: s3cret
    plugin:
      auth:
        connection:
          database: fox
switchboard:
  users:
    backstage:
      password: s3cret
"""

CONNECTION = GOOD[GOOD.index("    connection:"):GOOD.index("    plugin:")]


def url(text: str) -> str:
    """That connection string in place of CONNECTION."""
    return f"    connection: '{text}'\n"


MISTAKES = [
    # what somebody writes for what, and what they are told
    ("client: pg", "client: postgres", "a.yaml:3:13: backend.database.client: unsupported client 'postgres'"),
    ("    client: pg\n", "", "backend.database.client: is missing; set it to pg, better-sqlite3 or mysql2"),
    ("      host: db", "      port: ${PORT}", "a.yaml:5:13: backend.database.connection.port: expected a port from 1 to 65535, "
                                              "and this is no number (from ${PORT})"),
    ("      host: db", "      port: 70000", "a.yaml:5:13: backend.database.connection.port: expected a port from 1 to 65535, got 7"),
    ("          database: fox", "          port: 0", "a.yaml:11:17: backend.database.plugin.auth.connection.port: expected a port"),
    ("    connection:\n      host: db", "    connection:\n      type: rds\n      host: db",
     "a.yaml:5:13: backend.database.connection.port: is missing; type rds needs host, port, user"),
    ("    plugin:\n", "    prefix: ''\n    plugin:\n", "a.yaml:8:13: backend.database.prefix: must not be empty"),
    ("    plugin:\n", "    ensureExists: maybe\n    plugin:\n", "a.yaml:8:19: backend.database.ensureExists: expected true or false"),
    ("      auth:", "      au th:", "backend.database.plugin.au th: not a valid plugin id"),
    ("switchboard:\n", "switchboard:\n  pool: {szie: 3}\n", 'a.yaml:13:10: switchboard.pool.szie: unknown key; did you mean "size"?'),
    ("switchboard:\n", "switchboard:\n  pool: {mode: transactions}\n",
     "switchboard.pool.mode: expected session, transaction, statement, auto (did you"),
    ("switchboard:\n", "switchboard:\n  drain_timeout: 30 seconds\n", "a.yaml:13:18: switchboard.drain_timeout: expected a duration"),
    ("      password: s3cret\n    plugin", "      password: {$file: nowhere}\n    plugin",
     "a.yaml:7:17: backend.database.connection.password: cannot read file nowhere"),
    ("    backstage:\n", "    backstage:\n      plugin: [a]\n", 'a.yaml:15:7: switchboard.users.backstage.plugin: unknown key; did you '
                                                                'mean "plugins"?'),
    ("client: pg", "client: pg\n    client: pg", "a.yaml:4:5: map keys must be unique: client"),
    ("    connection:\n      host: db\n      user: bs\n      password: s3cret\n", "    connection: 'postgres://a b:x:y/z'\n",
     "a.yaml:4:17: backend.database.connection: the connection string has a port that is no number"),
    (CONNECTION, url("postgres://h:99999/db"), "a.yaml:4:17: backend.database.connection: the connection string has a port above"),
    (CONNECTION, url("postgres://h:" + "9" * 5000), "the connection string has a port above 65535"),
    (CONNECTION, url("postgres://u:s3cret#x@h/db"), "has a port that is no number; in a user name or password write # / ? @ : as %23"),
    (CONNECTION, url("postgres://u:p@:5432/db"), "the connection string names no host"),
    (CONNECTION, url("postgres://u:p@a|b/db"), "is not a URL: its host cannot be one; the folder of a unix socket is written with %2F"),
    (CONNECTION, url("postgres://u:%FF@h/db"), "the connection string has a % escape that is not UTF-8"),
    (CONNECTION, url("postgres://h/db?sslmode=verify-ca&uselibpqcompat=true"), "has sslmode=verify-ca, which requires sslrootcert"),
    (CONNECTION, url("postgres://h/db?sslmod=require"), "a.yaml:4:17: backend.database.connection: ?sslmod= is not a key "
                                                         'that Backstage knows; did you mean "sslmode"?'),
    (CONNECTION, url("postgres://h/db?chanel_binding=require"), 'did you mean "channel_binding"?'),
    ("      host: db", "      host: db\n      ssl_mode: require", 'a.yaml:6:7: backend.database.connection.ssl_mode: is not a key that '
                                                                  'Backstage knows; did you mean "sslmode"?'),
]


def told(tmp_path: Path, text: str, **environ: str) -> str:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigProblems) as caught:
        read([tmp_path / "a.yaml"], environ={"PORT": "s3cret-in-the-wrong-line", **environ})
    assert "s3cret" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("right", "wrong", "message"), MISTAKES)
def test_mistakes_are_told_with_place_and_remedy(tmp_path: Path, right: str, wrong: str, message: str) -> None:
    assert right in GOOD
    assert message in told(tmp_path, GOOD.replace(right, wrong, 1))


def test_everything_is_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("host: db", "host: {$file: nowhere}").replace("client: pg", "client: pg\n    role: ''\n    prefix: ''")
    found = told(tmp_path, text + "  drain_timeout: never\n", APP_CONFIG_a__b="1", APP_CONFIG_x="null").splitlines()
    for each in ("cannot read file nowhere", "role: must not be empty", "prefix: must not be empty", "drain_timeout",
                 "APP_CONFIG_a__b: not a configuration key", "APP_CONFIG_x: value may not be null"):
        assert any(each in line for line in found), (each, found)
    assert len(found) == 6, found


def warned(tmp_path: Path, text: str) -> Configuration:
    (tmp_path / "a.yaml").write_text(text)
    return read([tmp_path / "a.yaml"], environ={})


@pytest.mark.parametrize(("right", "wrong", "message"), [
    ("client: pg", "client: pg\n    prefx: a_", 'a.yaml:4:5: backend.database.prefx: {unknown}; did you mean "prefix"?'),
    ("      host: db", "      hots: db", 'a.yaml:5:7: backend.database.connection.hots: {unknown}; did you mean "host"?'),
    ("          database: fox", "          databse: fox", 'plugin.auth.connection.databse: {unknown}; did you mean "database"?'),
    ("        connection:", "        conection:", 'plugin.auth.conection: {unknown}; did you mean "connection"?'),
    ("      host: db", "      host: db\n      ssl: {rejectUnauthorised: false}", 'did you mean "rejectUnauthorized"?'),
    ("      host: db", "      host: db\n      ssl: true\n      sslmode: require", "a.yaml:7:16: backend.database.connection.sslmode: "
                                                                              "counts for nothing beside ssl"),
    ("      host: db", "      host: db\n      dbname: x", "dbname: is libpq's, and applied neither by node-postgres nor by "
                                                         "Switchboard; use database"),
    (CONNECTION, url("postgres://h/db?encoding=utf8"), 'a.yaml:4:17: backend.database.connection: ?encoding= {unknown}; did you mean '
                                                       '"client_encoding"?'),
    (CONNECTION, url("postgres://h/db?tarjet_session_attrs=any&connect_timeout=3"), 'did you mean "target_session_attrs"?'),
    (CONNECTION, url("postgres://h/db?connect_timeout=3"), "?connect_timeout= is libpq's, and applied neither by node-postgres nor by "
                                                           "Switchboard; use switchboard.upstream.connect_timeout"),
    (CONNECTION, url("mysql://u:p@h/db"), "a.yaml:4:17: backend.database.connection: the connection string is one for client mysql2, "
                                          "and client is pg; change one of the two"),
    (CONNECTION, url("jdbc:postgresql://h/db"), 'the connection string is for Java; leave out "jdbc:"'),
    (CONNECTION, url("https://h/db"), "the connection string begins with https://, and client is pg"),
    (CONNECTION, url("host=h dbname=x"), "the connection string has libpq's keyword form"),
    (CONNECTION, url("h:5432/db"), "the connection string has no scheme; begin it with postgresql://"),
    (CONNECTION, url("postgres://u:12/3@h/db"), 'has an "@" behind its first "/"; in a user name or password write'),
    (CONNECTION, url(":memory:"), "is one for client better-sqlite3, and client is pg"),
    ("        connection:\n          database: fox", "        client: better-sqlite3\n        connection: 'postgres://h/x'",
     "plugin.auth.connection: the connection string is one for client pg, and client is better-sqlite3"),
])
def test_what_backstage_passes_over_is_warned_of(tmp_path: Path, right: str, wrong: str, message: str) -> None:
    assert right in GOOD
    message = message.replace("{unknown}", "is not a key that Backstage knows")
    assert any(message in warning for warning in warned(tmp_path, GOOD.replace(right, wrong, 1)).warnings)


def test_client_encoding_is_passed_on(tmp_path: Path) -> None:
    found = warned(tmp_path, GOOD.replace("      host: db", "      host: db\n      client_encoding: latin1"))
    assert found.target("catalog").startup["client_encoding"] == "latin1"
