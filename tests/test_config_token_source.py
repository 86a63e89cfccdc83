"""Who makes a password: Backstage's connection types and passwordCommand, and every mistake by its key."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.config.target import AzureToken, CloudSqlToken, PasswordCommand, RdsToken, Secret, TokenSource
from proxy.config.token_source import duration, token_source
from proxy.config.words import BadKey

RDS = {"type": "rds", "host": "h", "port": 5432, "user": "u", "ssl": True}
AZURE = {"type": "azure", "host": "h", "user": "u"}
GOOGLE = {"type": "cloudsql", "instance": "example.com:project:europe-west1:db", "host": "10.0.0.5", "user": "u"}


@pytest.mark.parametrize(("connection", "want"), [
    ({}, None),
    ({"type": "default", "password": "x"}, None),
    (RDS, RdsToken()),
    (RDS | {"region": "eu-west-1", "password": "ignored"}, RdsToken(region="eu-west-1")),
    (AZURE, AzureToken()),
    (AZURE | {"tokenCredential": {"clientId": "c"}}, AzureToken(client_id="c")),
    (AZURE | {"tokenCredential": {"clientId": "c", "tenantId": "t", "clientSecret": "s", "tokenRenewableOffsetTime": {"minutes": 2}}},
     AzureToken(client_id="c", tenant_id="t", client_secret=Secret("s"), ahead=120.0)),
    (GOOGLE, CloudSqlToken(instance="example.com:project:europe-west1:db")),
    (GOOGLE | {"host": None}, CloudSqlToken(instance="example.com:project:europe-west1:db", locate="PUBLIC")),
    (GOOGLE | {"host": "", "ipAddressType": "PSC"}, CloudSqlToken(instance="example.com:project:europe-west1:db", locate="PSC")),
    ({"passwordCommand": ["pass", "show", "a b"]}, PasswordCommand(arguments=("pass", "show", "a b"))),
    ({"passwordCommand": "pass show 'a b'"}, PasswordCommand(arguments=("pass", "show", "a b"))),
    ({"passwordCommand": {"command": "x", "lifetime": "15min", "timeout": 5}},
     PasswordCommand(arguments=("x",), lifetime=900.0, timeout=5.0)),
])
def test_sources(connection: dict[str, Any], want: TokenSource | None) -> None:
    assert token_source(connection) == want


@pytest.mark.parametrize(("connection", "key", "problem"), [
    ({"type": "aws"}, "type", 'expected default, rds, azure, cloudsql, got "aws"'),
    ({key: value for key, value in RDS.items() if key != "user"}, "user", "type rds needs host, port, user"),
    (RDS | {"host": ""}, "host", "environment variable unset"),
    (RDS | {"ssl": False}, "ssl", "over TLS only"),
    (AZURE | {"tokenCredential": "x"}, "tokenCredential", "expected an object"),
    (AZURE | {"tokenCredential": {"tokenRenewableOffsetTime": "soon"}}, "tokenCredential", "must be a duration"),
    ({"type": "cloudsql"}, "instance", "as project:region:name"),
    (GOOGLE | {"instance": "db"}, "instance", 'got "db"'),
    (GOOGLE | {"ipAddressType": "ANY"}, "ipAddressType", "expected PUBLIC, PRIVATE or PSC"),
    (GOOGLE | {"user": ""}, "user", "type cloudsql needs user"),
    ({"passwordCommand": "x", "password": "y"}, "passwordCommand", "password is set too"),
    (RDS | {"passwordCommand": "x"}, "passwordCommand", "type rds makes its own"),
    ({"passwordCommand": []}, "passwordCommand", "is empty"),
    ({"passwordCommand": ""}, "passwordCommand", "is empty"),
    ({"passwordCommand": 7}, "passwordCommand", "expected a list of words"),
    ({"passwordCommand": "pass 'show"}, "passwordCommand", "expected a list of words"),
    ({"passwordCommand": {"comand": "x"}}, "passwordCommand", "unknown key comand"),
    ({"passwordCommand": {"command": "x", "lifetime": "long"}}, "passwordCommand", "lifetime must be a duration"),
])
def test_mistakes(connection: dict[str, Any], key: str, problem: str) -> None:
    with pytest.raises(BadKey, match=problem) as caught:
        token_source(connection)
    assert caught.value.key == key


@pytest.mark.parametrize(("value", "want"), [
    ({"minutes": 5, "seconds": 1}, 301.0), ("PT5M", 300.0), ("P1DT1H", 90000.0), ("PT1.5S", 1.5), ("5m", 300.0), ("500ms", 0.5),
    ("2 hours", 7200.0), ("90 s", 90.0)])
def test_durations(value: object, want: float) -> None:
    assert duration(value) == want


@pytest.mark.parametrize("value", [{}, {"fortnights": 1}, "P", "", 5, None, {"minutes": "x"}])
def test_bad_durations(value: object) -> None:
    with pytest.raises(BadKey):
        duration(value)
