"""Tokens: kept, renewed ahead, made once for all who wait; programs, and the clouds' own libraries against a local double."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from proxy.config.target import (
    AzureToken,
    CloudSqlToken,
    Credential,
    PasswordCommand,
    RdsToken,
    Secret,
    Server,
    SslMode,
    Tls,
    TokenSource,
)
from proxy.errors import NoCredential
from proxy.tokens import azure, cloudsql, command, rds
from proxy.tokens.mint import Mint
from proxy.tokens.token import Place, Token
from tests import clouds
from tests.clouds import GOOGLE, Metadata

PLACE = Place("db", 5432, "catalog", "bs")
SOURCE = RdsToken(region="eu-west-1")
WHO = Credential(user="bs", source=SOURCE)


class Provider:
    """Makes numbered tokens, when it is let."""

    def __init__(self, life: float = 900.0) -> None:
        self.now = 1000.0
        self.life = life
        self.made = 0
        self.fault: NoCredential | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, source: TokenSource, place: Place) -> Token:
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        self.made += 1
        return Token(Secret(f"token-{self.made}"), self.now + self.life)

    def mint(self) -> Mint:
        return Mint(self, lambda: self.now)


async def word(mint: Mint) -> str:
    return (await mint.token(SOURCE, PLACE)).secret.reveal()


async def settled() -> None:
    """Until nothing more can happen by itself."""
    while len(asyncio.all_tasks()) > 1:
        await asyncio.wait([task for task in asyncio.all_tasks() if task is not asyncio.current_task()])


async def test_one_flight_for_all_who_wait() -> None:
    provider = Provider()
    provider.gate.clear()
    mint = provider.mint()
    asked = asyncio.gather(*(word(mint) for _ in range(50)))
    provider.gate.set()
    assert set(await asked) == {"token-1"}


async def test_who_leaves_takes_nobody_along() -> None:
    provider = Provider()
    provider.gate.clear()
    mint = provider.mint()
    first = asyncio.ensure_future(word(mint))
    second = asyncio.ensure_future(word(mint))
    await asyncio.sleep(0)
    first.cancel()
    provider.gate.set()
    assert await second == "token-1"


async def test_kept_renewed_ahead_and_never_given_out_late() -> None:
    provider = Provider()
    mint = provider.mint()
    assert await word(mint) == "token-1"
    provider.now += 599
    assert await word(mint) == "token-1"
    provider.now += 1                          # 300 s before its end
    assert await word(mint) == "token-1"       # nobody waits for the next one
    await settled()
    assert await word(mint) == "token-2"
    provider.now += 900
    assert await word(mint) == "token-3"       # nobody asked for so long that it ended


async def test_a_provider_that_fails_is_left_alone_for_a_moment() -> None:
    provider = Provider()
    mint = provider.mint()
    assert await word(mint) == "token-1"
    provider.fault = NoCredential("no identity", hint="give it one")
    provider.now += 700
    assert await word(mint) == "token-1"       # the old one works for another 200 s
    await settled()
    provider.now += 300
    with pytest.raises(NoCredential, match="no identity"):
        await word(mint)
    provider.fault = None
    with pytest.raises(NoCredential, match="no identity") as caught:
        await word(mint)                       # told from memory
    assert caught.value.hint == "give it one"
    provider.now += 1
    assert await word(mint) == "token-2"


async def test_a_refused_token_is_replaced_once() -> None:
    provider = Provider()
    mint = provider.mint()
    fresh = await mint.fill(WHO, "db", 5432, "catalog")
    assert not mint.spoil(fresh, "db", 5432, "catalog")       # a new one would fare no better
    await mint.fill(WHO, "db", 5432, "catalog")
    kept = await mint.fill(WHO, "db", 5432, "catalog")
    assert mint.spoil(kept, "db", 5432, "catalog")
    assert mint.spoil(kept, "db", 5432, "catalog")            # another dial had the same old one
    assert (await mint.fill(WHO, "db", 5432, "catalog")).password == Secret("token-3")


async def test_without_source_the_password_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pass"
    file.write_text("db:5432:*:bs:from the file\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    mint = Mint()
    assert (await mint.fill(Credential(user="bs"), "db", 5432, "x")).password == Secret("from the file")
    assert (await mint.fill(Credential(user="bs"), "other", 5432, "x")).password is None
    assert (await mint.fill(Credential(user="bs", password=Secret("own")), "db", 5432, "x")).password == Secret("own")


# -- programs ---------------------------------------------------------------------------------------------


def python(text: str, **more: Any) -> PasswordCommand:
    return PasswordCommand(arguments=(sys.executable, "-c", text), **more)


@pytest.mark.parametrize(("text", "want"), [
    ("print('s3cret')", "s3cret"), ("print('a b\\n')", "a b\n"), ("import sys; sys.stdout.write('no end')", "no end"),
    ("import os; print(*(os.environ[k] for k in ('PGHOST', 'PGPORT', 'PGDATABASE', 'PGUSER')))", "db 5432 catalog bs"),
    ("print('x' * 60000)", "x" * 60_000), ("print('pässwörd')", "pässwörd"),
])
async def test_command(text: str, want: str) -> None:
    assert (await command.provide(python(text), PLACE)).secret.reveal() == want


@pytest.mark.parametrize(("source", "problem"), [
    (python("import sys; print('s3cret', file=sys.stderr); print('s3cret'); sys.exit(3)"), "ended with status 3"),
    (python("import os; os.kill(os.getpid(), 9)"), "was killed by signal 9"),
    (python("pass"), "prints nothing"),
    (python("print('s3cret' * 20000)"), "prints more than 65536 bytes"),
    (python("import sys; sys.stdout.buffer.write(bytes([255]))"), "not UTF-8"),
    (python("import time; time.sleep(600)", timeout=0.2), "took longer than 0.2 s"),
    (PasswordCommand(arguments=("/nowhere/s3cret-tool", "s3cret")), "cannot be run: No such file"),
])
async def test_command_failures_never_show_what_was_printed(source: PasswordCommand, problem: str) -> None:
    with pytest.raises(NoCredential, match=problem) as caught:
        await command.provide(source, PLACE)
    assert "by hand" in str(caught.value.hint)
    assert "s3cret" not in str(caught.value).replace("s3cret-tool", "")
    assert "s3cret" not in repr(source)


async def test_a_command_of_no_lifetime_runs_each_time(tmp_path: Path) -> None:
    source = python(f"from pathlib import Path; p = Path({str(tmp_path / 'count')!r}); n = len(p.read_text()) if p.exists() else 0; "
                    "p.write_text('x' * (n + 1)); print(n)")
    mint = Mint()
    assert [(await mint.token(source, PLACE)).secret.reveal() for _ in range(3)] == ["0", "1", "2"]


# -- AWS --------------------------------------------------------------------------------------------------


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    pytest.importorskip("botocore", reason="no botocore: the extra rds is missing")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAKIAKIAKIAKIAKIAK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "1" * 40)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    rds._client.cache_clear()
    yield monkeypatch
    rds._client.cache_clear()


def test_rds_signature(aws: pytest.MonkeyPatch) -> None:
    """The published case of the Perl library Signer::AWSv4 (t/04_rds.t)."""
    import botocore.auth

    then = datetime.datetime(2018, 7, 22, 20, 22, 36)
    aws.setattr(botocore.auth, "get_current_datetime", lambda *_, **__: then)
    token = rds.sign("eu-west-1", "mydb.c1fycpveg7nf.us-west-2.rds.amazonaws.com", 3306, "mysqluser").reveal()
    assert token == (
        "mydb.c1fycpveg7nf.us-west-2.rds.amazonaws.com:3306/?Action=connect&DBUser=mysqluser&X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAKIAKIAKIAKIAKIAK%2F20180722%2Feu-west-1%2Frds-db%2Faws4_request&X-Amz-Date=20180722T202236Z"
        "&X-Amz-Expires=900&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=b77c366f1379046852039d21f733035fa73696275c03dd2908ef267c3049d831")


async def test_rds_token(aws: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    aws.setenv("AWS_SESSION_TOKEN", "t" * 2000)
    with caplog.at_level(logging.DEBUG):
        token = await rds.provide(SOURCE, PLACE)
    assert "t" * 2000 not in caplog.text
    assert "ignature" not in caplog.text
    asked = dict(parse_qsl(urlsplit("//" + token.secret.reveal()).query))
    assert asked["DBUser"] == "bs"
    assert asked["X-Amz-Security-Token"] == "t" * 2000
    assert token.secret.reveal().startswith("db:5432/?")
    assert "db:5432" not in repr(token)


def test_rds_without_identity(aws: pytest.MonkeyPatch) -> None:
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(NoCredential, match="NoCredentialsError") as caught:
        rds.sign("eu-west-1", "db", 5432, "bs")
    assert "AWS_PROFILE" in str(caught.value.hint)


# -- Azure and Google, their own libraries against a local double of the machine's metadata service -------


async def test_azure(metadata: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("azure.identity", reason="no azure-identity: the extra azure is missing")
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://{metadata}/msi")
    monkeypatch.setenv("IDENTITY_HEADER", "header")
    azure._credential.cache_clear()
    with caplog.at_level(logging.DEBUG):
        token = await azure.provide(AzureToken(client_id="some-client"), PLACE)
    assert token.secret.reveal() == "azure-token"
    assert token.expires == 4102444800
    assert "azure-token" not in caplog.text
    assert any("ossrdbms-aad" in path and "some-client" in path for path in Metadata.asked)


async def test_azure_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("azure.identity", reason="no azure-identity: the extra azure is missing")
    azure._credential.cache_clear()
    with pytest.raises(NoCredential, match="Azure token for bs") as caught:
        await azure.provide(AzureToken(client_id="c", tenant_id="not a tenant!", client_secret=Secret("hush")), PLACE)
    assert "hush" not in str(caught.value) + repr(AzureToken(client_secret=Secret("hush")))


async def test_google(metadata: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("google.auth", reason="no google-auth: the extra cloudsql is missing")
    clouds.on_google(monkeypatch, metadata)
    token = await cloudsql.provide(GOOGLE, PLACE)
    assert token.secret.reveal() == "google-token"
    assert token.expires > 0
    assert any("sqlservice.login" in path for path in Metadata.asked)


SERVER = Server(host=GOOGLE.instance, tls=Tls(mode=SslMode.DISABLE))
SETTINGS = {"ipAddresses": [{"type": "PRIMARY", "ipAddress": "34.0.0.1"}, {"type": "PRIVATE", "ipAddress": "10.0.0.1"}],
            "serverCaCert": {"cert": "CA"}, "dnsName": "abc.sql.goog.", "serverCaMode": "GOOGLE_MANAGED_INTERNAL_CA"}


@pytest.mark.parametrize(("kind", "host"), [("PUBLIC", "34.0.0.1"), ("PRIVATE", "10.0.0.1"), ("PSC", "abc.sql.goog")])
def test_where_an_instance_is(kind: str, host: str) -> None:
    found = cloudsql.settled(dataclasses.replace(GOOGLE, locate=kind), SERVER, SETTINGS)
    assert (found.host, found.tls) == (host, Tls(mode=SslMode.VERIFY_CA, ca="CA"))


def test_a_shared_authority_needs_the_name_too() -> None:
    found = cloudsql.settled(GOOGLE, SERVER, SETTINGS | {"serverCaMode": "GOOGLE_MANAGED_CAS_CA"})
    assert found.tls == Tls(mode=SslMode.VERIFY_FULL, ca="CA", server_name="abc.sql.goog")


def test_the_operators_tls_counts() -> None:
    own = dataclasses.replace(SERVER, tls=Tls(mode=SslMode.VERIFY_FULL, ca="OWN"))
    assert cloudsql.settled(GOOGLE, own, SETTINGS).tls == own.tls


def test_an_address_that_is_not_there() -> None:
    with pytest.raises(NoCredential, match="has no PUBLIC address"):
        cloudsql.settled(GOOGLE, SERVER, {})


async def test_located_once_for_a_while() -> None:
    asked: list[CloudSqlToken] = []
    now = [0.0]

    async def locate(source: CloudSqlToken, server: Server) -> Server:
        asked.append(source)
        return dataclasses.replace(server, host=f"10.0.0.{len(asked)}")

    mint = Mint(clock=lambda: now[0], locator=locate)
    who = Credential(user="u", source=GOOGLE)
    assert [(await mint.locate(SERVER, who)).host for _ in range(3)] == ["10.0.0.1"] * 3
    now[0] += 300
    assert (await mint.locate(SERVER, who)).host == "10.0.0.2"
    assert await mint.locate(SERVER, WHO) is SERVER
