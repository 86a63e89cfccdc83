"""HTTP survives a provider that fails, and says so meanwhile; labels have an end."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from proxy.server import pools, worker
from proxy.server.web import Web


async def test_it_comes_back_after_a_snapshot_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    asked = 0

    def provider() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise RuntimeError("broken once")
        return {"process": {"ready": True, "draining": False, "embedded": None}}

    def get() -> str:
        with urlopen(f"http://{address}/healthz", timeout=10) as answer:
            return str(answer.read().decode())

    web = Web(provider)
    address = await web.start("127.0.0.1:0")
    try:
        with caplog.at_level(logging.ERROR), pytest.raises(URLError):
            await asyncio.to_thread(get)
        assert "no snapshot could be made" in caplog.text
        async with asyncio.timeout(60):
            while True:
                try:
                    assert await asyncio.to_thread(get) == "ok\n"
                    break
                except (URLError, OSError):
                    await asyncio.sleep(0)
    finally:
        await web.stop()


def test_clients_cannot_make_labels_without_end() -> None:
    class Fake:
        """A worker with as many strangers as it takes."""

    class Pool:
        open = waiting = coming = 0

        def __init__(self, number: int) -> None:
            self.used_at, self.others = number, {}
            self.target = type("T", (), {"plugin": f"p{number}"})()

    fake: Any = Fake()
    fake.configuration = type("C", (), {"listed": ()})()
    fake.clients = set()
    fake.pools = {f"p{number}": Pool(number) for number in range(pools.MAX_UNLISTED)}
    fake.tallies = {("p0", "s", "u"): 1, ("p1", "s", "u"): 1}
    fake.provision = type("P", (), {"outcomes": {("p0", "created"): 1}})()
    worker.Worker._make_room(fake)
    assert "p0" not in fake.pools
    assert list(fake.tallies) == [("p1", "s", "u")]
    assert fake.provision.outcomes == {}
