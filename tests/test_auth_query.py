"""Users that a database knows, asked of a real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import ValidationError

from proxy.config.settings import Settings
from tests.servers import Daemon, Postgres, daemon, until

ROLES = """
set password_encryption to 'scram-sha-256';
create role q_scram login password 's3cret';
create role q_future login password 's3cret' valid until '2999-01-01';
create role q_past login password 's3cret' valid until '2001-01-01';
create role q_null login;
create role q_nologin password 's3cret';
create role "q_it's ""odd"" $1 %s --" login password 's3cret';
create role authenticator login password 'auth-s3cret';
create schema if not exists asked; grant usage on schema asked to authenticator;
create function asked.lookup(name text) returns table (n text, p text) language sql security definer set search_path = pg_catalog
  as $$ select rolname::text, case when rolvaliduntil <= now() then null else rolpassword end from pg_authid
        where rolname = name and rolcanlogin and name like 'q%' $$;
revoke all on function asked.lookup from public; grant execute on function asked.lookup to authenticator
"""


@pytest.fixture(scope="module")
def roles(postgres: Postgres) -> Postgres:
    for statement in ROLES.split(";\n"):
        postgres.sql(statement)
    return postgres


def asking(postgres: Postgres, **more: Any) -> dict[str, Any]:
    return {"connection": postgres.dsn(user="authenticator", password="auth-s3cret"), "query": "select * from asked.lookup($1)", **more}


@pytest.fixture(scope="module", params=["function", "default"])
def asker(request: pytest.FixtureRequest, base: dict[str, Any], roles: Postgres,
          tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    query = asking(roles) if request.param == "function" else {"connection": roles.dsn()}
    with daemon(tmp_path_factory.mktemp("query"), base, auth={"query": query, "throttle_failures": 0}) as running:
        yield running
        assert "s3cret" not in running.log
        assert "SCRAM-SHA-256$" not in running.log


@pytest.mark.parametrize("user", ["q_scram", "q_future", 'q_it\'s "odd" $1 %s --'])
def test_found(asker: Daemon, user: str) -> None:
    for _ in range(2):
        with psycopg.connect(host="127.0.0.1", port=asker.port, dbname="catalog", user=user, password="s3cret",
                             require_auth="scram-sha-256") as connection:
            assert connection.execute("select current_database()").fetchone() == ("backstage_plugin_catalog",)


@pytest.mark.parametrize("user", ["q_past", "q_null", "q_nologin", "q_nobody", "*", "q' or true --"])
def test_no_login(asker: Daemon, user: str) -> None:
    for word in ("s3cret", "x"):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(host="127.0.0.1", port=asker.port, dbname="catalog", user=user, password=word)


def test_listed_users_come_first(asker: Daemon) -> None:
    asker.connect("catalog").close()


def test_a_changed_password_is_asked_for_again(base: dict[str, Any], roles: Postgres, tmp_path: Path) -> None:
    roles.sql("create role q_changing login password 'one'")
    with daemon(tmp_path, base, auth={"query": asking(roles, cache="1h"), "throttle_failures": 0}) as running:
        running.connect("catalog", "q_changing", "one").close()
        roles.sql("alter role q_changing password 'two'")

        def let_in() -> bool:
            try:
                running.connect("catalog", "q_changing", "two").close()
            except psycopg.OperationalError:
                return False
            return True

        until(let_in, "the new password")
        with pytest.raises(psycopg.OperationalError):
            running.connect("catalog", "q_changing", "one")


def test_rights_of_who_is_found_are_those_of_the_star(base: dict[str, Any], roles: Postgres, tmp_path: Path) -> None:
    users = {"*": {"plugins": ["catalog"], "maintenance": False, "max_clients": 1}}
    with daemon(tmp_path, base, users=users, auth={"query": asking(roles)}) as running, running.connect("catalog", "q_scram"):
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
            running.connect("catalog", "q_scram")
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            running.connect("search", "q_future")
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            running.connect("postgres", "q_future")


def test_nothing_of_the_client_reaches_the_query(base: dict[str, Any], roles: Postgres, tmp_path: Path) -> None:
    """CVE-2025-12819: a client's search_path before authentication."""
    query = """select $1::text, case when current_setting('search_path') = '"$user", public'
                 and current_setting('application_name') = 'switchboard auth' then 's3cret' end"""
    with daemon(tmp_path, base, auth={"query": asking(roles, query=query, cache=0)}) as running, psycopg.connect(
            running.dsn("catalog", "anybody"), options="-c search_path=evil", application_name="evil") as connection:
        assert connection.execute("show search_path").fetchone() == ("evil",)


def test_a_cut_connection_is_made_anew_and_a_lost_server_is_told(base: dict[str, Any], roles: Postgres, tmp_path: Path) -> None:
    with daemon(tmp_path, base, auth={"query": asking(roles, cache=0)}) as running:
        running.connect("catalog", "q_scram").close()
        roles.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'switchboard auth'")
        running.connect("catalog", "q_scram").close()
        roles.sql("alter role authenticator nologin")
        roles.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'switchboard auth'")
        try:
            with pytest.raises(psycopg.OperationalError, match="the authentication query failed"):
                running.connect("catalog", "q_scram")
            assert "not permitted to log in" in running.logged("auth.query failed.*")[0]
            running.connect("catalog").close()
        finally:
            roles.sql("alter role authenticator login")
        running.connect("catalog", "q_scram").close()


@pytest.mark.parametrize("query", ["select $1::text", "select $1::text, 'a', 'b'", "select 'x', $1::text", "select $1::text, 7",
                                   "select * from (values ($1::text, 'a'), ($1::text, 'b')) v", "select nonsense, $1"])
def test_answers_that_are_none(base: dict[str, Any], roles: Postgres, tmp_path: Path, query: str) -> None:
    with daemon(tmp_path, base, auth={"query": asking(roles, query=query)}) as running:
        with pytest.raises(psycopg.OperationalError, match="the authentication query failed"):
            running.connect("catalog", "q_scram")
        running.logged("auth.query")


@pytest.mark.parametrize("query", [
    {"connection": "nonsense s3cret"}, {"connection": "postgresql://u:s3cret@[h/"}, {"query": "select 1, 2"}])
def test_mistakes_show_no_secret(query: dict[str, str]) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"auth": {"query": query}})
    assert "s3cret" not in str(caught.value.errors(include_input=False))
