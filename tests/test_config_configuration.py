"""The whole configuration: routing, and every mistake with its line and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.configuration import Configuration, read
from proxy.config.target import AzureToken, Credential, Engine, PasswordCommand, Secret, Session, SslMode
from proxy.errors import ConfigProblems, UnknownDatabase

BASE = """
backend:
  database:
    client: pg
    connection: {host: db, port: 5433, user: bs, password: s3cret}
    plugin:
      auth: {connection: {database: unwitting_fox, user: fort, password: knox}}
      catalog: {}
switchboard:
  users: {backstage: {password: pw}}
"""
SCHEMA = BASE.replace("password: s3cret}", "password: s3cret, database: shared}\n    pluginDivisionMode: schema").replace(
    "database: unwitting_fox, ", "")


def config(tmp_path: Path, text: str, **environ: str) -> Configuration:
    (tmp_path / "app-config.yaml").write_text(text)
    return read([tmp_path / "app-config.yaml"], environ=environ)


@pytest.mark.parametrize(("asked", "want"), [
    ("catalog", "db:5433/backstage_plugin_catalog"),
    ("backstage_plugin_catalog", "db:5433/backstage_plugin_catalog"),
    ("auth", "db:5433/unwitting_fox"),
    ("unwitting_fox", "db:5433/unwitting_fox"),
    ("catalog-gitlab", "db:5433/backstage_plugin_catalog-gitlab"),
    ("backstage_plugin_search", "db:5433/backstage_plugin_search"),
])
def test_routes(tmp_path: Path, asked: str, want: str) -> None:
    assert str(config(tmp_path, BASE).route(asked)) == want


@pytest.mark.parametrize("asked", ["", "no such plugin", "a_", "backstage_plugin_", "backstage_plugin_auth", "x" * 60])
def test_unknown(tmp_path: Path, asked: str) -> None:
    with pytest.raises(UnknownDatabase):
        config(tmp_path, BASE).route(asked)


def test_a_name_that_two_plugins_claim_is_refused(tmp_path: Path) -> None:
    text = BASE.replace("catalog: {}", "catalog: {connection: {host: other, database: backstage_plugin_search}}\n      search: {}")
    found = config(tmp_path, text)
    with pytest.raises(UnknownDatabase, match="does not say which plugin"):
        found.route("backstage_plugin_search")
    assert str(found.route("search")) == "db:5433/backstage_plugin_search"
    assert str(found.route("catalog")) == "other:5433/backstage_plugin_search"


@pytest.mark.parametrize("text", ["switchboard: {users: {b: hunter2}}", "switchboard: {provisioning: {credentials: [hunter2]}}"])
def test_misplaced_secrets_are_not_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigProblems) as caught:
        config(tmp_path, BASE.split("switchboard:", maxsplit=1)[0] + text)
    assert "hunter2" not in str(caught.value)


def test_listed_only(tmp_path: Path) -> None:
    listed = config(tmp_path, BASE + "  plugins: listed\n")
    assert listed.route("catalog").plugin == "catalog"
    with pytest.raises(UnknownDatabase):
        listed.route("search")


def test_schema_mode_goes_by_application_name(tmp_path: Path) -> None:
    found = config(tmp_path, SCHEMA)
    assert str(found.route("shared", "backstage_plugin_catalog")) == "db:5433/shared#catalog"
    assert str(found.route("catalog")) == "db:5433/shared#catalog"
    with pytest.raises(UnknownDatabase, match="does not say which plugin"):
        found.route("shared", "psql")


def test_credentials_stay_apart(tmp_path: Path) -> None:
    target = config(tmp_path, BASE).target("auth")
    assert target.credential is not None
    assert target.provisioner is not None
    assert (target.credential.user, target.provisioner.user) == ("fort", "bs")
    assert "knox" not in repr(target)


def test_memory_and_embedded(tmp_path: Path) -> None:
    found = config(tmp_path, "backend: {database: {client: better-sqlite3, connection: ':memory:'}}")
    assert found.needs_embedded
    assert found.target("catalog").engine is Engine.MEMORY


@pytest.mark.parametrize(("text", "problem"), [
    ("switchboard: {lisen: []}", 'switchboard.lisen: unknown key; did you mean "listen"?'),
    ("switchboard: {pool: {size: 0}}", "switchboard.pool.size: must be at least 1, got 0"),
    ("switchboard: {pool: {lifetime: soon}}", "switchboard.pool.lifetime: expected a duration"),
    ("switchboard: {pool: {size: '${SIZE}'}}", "got 'many' (from ${SIZE})"),
    ("switchboard: {users: {x: {}}}", "switchboard.users.x: has no password"),
    ("switchboard: {users: {x: {passwort: 1}}}", 'did you mean "password"?'),
    ("switchboard: please", "2:14: switchboard: expected keys and values, got 'please'"),
    ("switchboard: {users: [x]}", "2:22: switchboard.users: expected keys and values, got ***"),
    ("switchboard: {max_clients: 1.5}", "switchboard.max_clients: expected a whole number, got 1.5"),
    ("switchboard: {drain_timeout: -3}", "switchboard.drain_timeout: must be at least 0, got -3"),
    ("switchboard: {log: {connections: maybe}}", "switchboard.log.connections: expected true or false, got 'maybe'"),
    ("switchboard: {log: {level: warn}}", "switchboard.log.level: expected debug, info, warning, error (did you mean \"warning\"?)"),
    ("switchboard: {auth: {rules: [{type: host}]}}", "2:30: switchboard.auth.rules[0].method: is missing"),
    ("switchboard: {auth: {rules: [{method: trust}, {method: peer}]}}", "2:47: switchboard.auth.rules[1]: method peer needs type"),
    ("switchboard: {auth: {rules: [{type: hostssl, method: trust}]}}", "2:30: switchboard.auth.rules[0]: type hostssl never matches"),
    ("switchboard: {tls: {mode: require}}", "2:27: switchboard.tls.mode: require needs tls.certificate"),
    ("switchboard: {listen: ['127.0.0.1:99999', 'a b', '[::1', '']}", 'expected a port up to 65535 behind the last colon, got '
     '"127.0.0.1:99999"; expected host:port, [v6]:port, :port, or the folder of a unix socket, got "a b"; expected'),
    ("switchboard: {metrics: {listen: nonsense}}", "switchboard.metrics.listen: expected host:port, or off, got 'nonsense'"),
    ("switchboard: {pool: {min_size: 30}}", "2:21: switchboard.pool: min_size 30 is above size 20"),
    ("switchboard: {plugin: {catalog: {pool: {size: 3, min_size: 4}}}}", "switchboard.plugin.catalog.pool: min_size 4 is above size 3"),
    ("switchboard: {provisioning: {credentials: [{server: db, user: u}]}}", "credentials[0].server: expected host:port, as `"),
    ("switchboard: {proxy_protocol: {from: here}}", "proxy_protocol.from: expected a network such as 10.0.0.0/8, an address, "),
])
def test_mistakes(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "app-config.yaml").write_text(BASE.split("switchboard:", maxsplit=1)[0])
    (tmp_path / "own.yaml").write_text("\n" + text)
    with pytest.raises(ConfigProblems) as caught:
        read([tmp_path / "app-config.yaml", tmp_path / "own.yaml"], environ={"SIZE": "many"})
    assert problem in str(caught.value)
    assert "own.yaml:2:" in str(caught.value)


def test_several_contradictions_are_told_together(tmp_path: Path) -> None:
    rules = "auth: {rules: [{type: hostssl, method: cert, map: staff}, {method: trust}]}, tls: {mode: require}, pool: {min_size: 30}"
    with pytest.raises(ConfigProblems) as caught:
        config(tmp_path, BASE.replace("users: {backstage: {password: pw}}", rules.replace("}, tls", "}\n  tls").replace(
            "}, pool", "}\n  pool")))
    assert [problem.partition(": ")[2] for problem in caught.value.problems] == [
        "switchboard.tls.mode: require needs tls.certificate",
        "switchboard.auth.rules[0]: type hostssl never matches without tls.certificate",
        "switchboard.auth.rules[0]: client certificates need tls.client_ca",
        "switchboard.auth.rules[0]: there is no map 'staff' in auth.maps",
        "switchboard.pool: min_size 30 is above size 20"]


def test_one_text_is_a_list_and_a_number_is_a_mode(tmp_path: Path) -> None:
    found = config(tmp_path, BASE.replace("password: pw", "password: pw, plugins: catalog") + "  listen: '[::1]:7000'\n"
                                                                                           "  unix_socket_mode: 0770\n").settings
    assert (found.listen, found.unix_socket_mode, found.users["backstage"].plugins) == (["[::1]:7000"], "770", ["catalog"])


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    text = BASE.replace("catalog: {}", "catalog: {connection: {port: abc}}\n      search: {connection: {type: rds}}")
    with pytest.raises(ConfigProblems) as caught:
        config(tmp_path, text + "  drain_timeout: never\n")
    found = "\n".join(caught.value.problems)
    assert "app-config.yaml:8:36: backend.database.plugin.catalog.connection.port: expected a port from 1 to 65535" in found
    assert "abc" not in found
    assert "app-config.yaml:9:35: backend.database.plugin.search.connection.ssl: is missing; RDS takes tokens over TLS only" in found
    assert "drain_timeout" in found
    assert "s3cret" not in found


def test_clusters_tokens_and_libpqs_words(tmp_path: Path) -> None:
    text = BASE.replace("catalog: {}", """catalog:
        connection: {host: 'a,b', port: '1,2', target_session_attrs: read-write, sslmode: prefer, passwordCommand: pass db}
      search: {connection: 'postgresql://u:pw@h1:1,h2:2/db?target_session_attrs=standby'}
      tech: {connection: {type: azure, tokenCredential: {clientId: id}}}""").replace(", password: s3cret}", "}")
    found = config(tmp_path, text)
    catalog, search, tech = (found.target(plugin) for plugin in ("catalog", "search", "tech"))
    assert str(catalog) == "a:1,b:2/backstage_plugin_catalog"
    assert catalog.server is not None
    assert (catalog.server.session, catalog.server.tls.mode) == (Session.READ_WRITE, SslMode.PREFER)
    assert catalog.credential == Credential(user="bs", source=PasswordCommand(arguments=("pass", "db")))
    assert str(search) == "h1:1,h2:2/db"
    assert search.server is not None
    assert search.server.session is Session.STANDBY
    assert search.credential == Credential(user="u", password=Secret("pw"))
    assert tech.credential == Credential(user="bs", source=AzureToken(client_id="id"))


@pytest.mark.parametrize(("connection", "problem"), [
    ("{host: db, target_session_attrs: rw}", "8:62: backend.database.plugin.catalog.connection.target_session_attrs: expected any"),
    ("{host: 'a,b', port: '1,2,3'}", "backend.database.plugin.catalog.connection.port: cannot match 3 port numbers to 2 hosts"),
    ("{type: cloudsql, user: u}", "catalog.connection.instance: is missing"),
    ("'postgresql://h1,h2:x/db'", "catalog.connection: the connection string has a port that is no number"),
    ("'postgresql://h1:1,h2:2/db?channel_binding=yes'", "8:29: backend.database.plugin.catalog.connection.channel_binding: expected"),
])
def test_mistakes_in_connections(tmp_path: Path, connection: str, problem: str) -> None:
    text = BASE.replace("catalog: {}", f"catalog: {{connection: {connection}}}").replace("{host: db, port: 5433, user: bs", "{user: bs")
    with pytest.raises(ConfigProblems) as caught:
        config(tmp_path, text)
    assert problem in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_every_mistake_of_one_connection(tmp_path: Path) -> None:
    text = BASE.replace("{host: db, port: 5433, user: bs, password: s3cret}",
                        "'postgres://u:s3cret@h:1/?sslmode=verify&channel_binding=on'").replace(
                            "catalog: {}",
                            "catalog: {connection: {port: '${PORT}', ssl: {ca: ca.pem}, target_session_attrs: rw, user: [x]}}")
    with pytest.raises(ConfigProblems) as caught:
        config(tmp_path, text, PORT="s3cret")
    modes = "disable, allow, prefer, require, verify-ca, verify-full, no-verify"
    database, catalog = "backend.database", "backend.database.plugin.catalog"
    assert [problem.removeprefix(f"{tmp_path}/app-config.yaml:") for problem in caught.value.problems] == [
        f'5:17: {database}.connection.sslmode: expected {modes}, got "verify"',
        f'5:17: {database}.connection.channel_binding: expected disable, prefer, require, got "on"',
        f"8:98: {catalog}.connection.user: expected text, got a list",
        f"8:36: {catalog}.connection.port: expected a port from 1 to 65535, and this is no number (from ${{PORT}})",
        f"8:57: {catalog}.connection.ssl.ca: expected PEM text, and this is the name of a file; write {{$file: name}}",
        f'8:88: {catalog}.connection.target_session_attrs: expected any, read-write, read-only, primary, standby, prefer-standby, '
        'got "rw"']


def test_a_broken_base_does_not_hide_the_plugins(tmp_path: Path) -> None:
    text = BASE.replace("client: pg", "client: postgres").replace("{host: db, port: 5433, user: bs, password: s3cret}", "postgres://h:x")
    text = text.replace("catalog: {}", "catalog: {connection: {type: rds, port: 0}}")
    with pytest.raises(ConfigProblems) as caught:
        config(tmp_path, text)
    assert [problem.partition(": backend.database.")[2] for problem in caught.value.problems] == [
        'client: unsupported client \'postgres\'; did you mean "pg"?', "connection: the connection string has a port that is no number",
        "plugin.catalog.connection.port: expected a port from 1 to 65535, got 0"]


@pytest.mark.parametrize(("base", "own", "password", "source", "mode"), [
    ("password: b", "passwordCommand: pass db", None, PasswordCommand(arguments=("pass", "db")), SslMode.DISABLE),
    ("passwordCommand: pass db", "password: p", Secret("p"), None, SslMode.DISABLE),
    ("passwordCommand: pass db", "type: azure", None, AzureToken(), SslMode.DISABLE),
    ("type: azure", "passwordCommand: pass db", None, PasswordCommand(arguments=("pass", "db")), SslMode.DISABLE),
    ("passwordCommand: pass db", "password: ''", None, PasswordCommand(arguments=("pass", "db")), SslMode.DISABLE),
    ("ssl: true", "sslmode: require", None, None, SslMode.REQUIRE),
    ("ssl: false", "sslmode: require", None, None, SslMode.REQUIRE),
    ("ssl: true", "sslmode: no-verify", None, None, SslMode.REQUIRE),
    ("ssl: {ca: PEM}", "sslmode: verify-ca", None, None, SslMode.VERIFY_CA),
    ("ssl: {rejectUnauthorized: false}", "ssl: {ca: PEM}", None, None, SslMode.VERIFY_FULL),
    ("sslmode: require", "ssl: true", None, None, SslMode.VERIFY_FULL),
])
def test_the_plugins_own_word_counts(tmp_path: Path, base: str, own: str, password: Secret | None, source: object,
                                     mode: SslMode) -> None:
    text = BASE.replace("password: s3cret", base).replace("catalog: {}", f"catalog: {{connection: {{{own}}}}}")
    target = config(tmp_path, text).target("catalog")
    assert target.credential is not None
    assert target.server is not None
    assert (target.credential.password, target.credential.source, target.server.tls.mode) == (password, source, mode)


def test_certificates_of_the_base_are_good_for_its_plugins(tmp_path: Path) -> None:
    text = BASE.replace("password: s3cret", "ssl: {ca: CA, cert: C, key: K, servername: x}").replace(
        "catalog: {}", "catalog: {connection: {ssl: {cert: D, key: L}}}\n      search: {connection: {sslmode: verify-full}}\n"
        "      tech: {connection: 'postgres://u@h/d?sslmode=verify-full'}")
    found = config(tmp_path, text)
    for plugin, cert in (("catalog", "D"), ("search", "C"), ("tech", "C")):
        server = found.target(plugin).server
        assert server is not None
        assert (server.tls.mode, server.tls.ca, server.tls.cert, server.tls.server_name) == (SslMode.VERIFY_FULL, "CA", cert, "x")


def test_settings_in_a_connection_string_inside_the_object(tmp_path: Path) -> None:
    text = BASE.replace("catalog: {}", "catalog: {connection: {connectionString: 'postgres://u@h/d?statement_timeout=7'}}")
    assert config(tmp_path, text).target("catalog").startup == {"statement_timeout": "7"}
