"""A client's host name: forward-confirmed, within a bounded time, asked once for many.

The resolver alone is a double: nobody may change this machine's.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from ipaddress import ip_address, ip_network

import pytest

from proxy.auth.rules import Address
from proxy.net.aside import Aside
from proxy.net.interfaces import Interfaces
from proxy.net.names import THREADS, HostNames

HERE, THERE = ip_address("10.0.0.1"), ip_address("10.0.0.2")


class Resolver:
    def __init__(self, names: dict[Address, str], addresses: dict[str, list[Address]]) -> None:
        self.names, self.addresses = names, addresses
        self.asked: list[object] = []
        self.go = threading.Event()
        self.go.set()

    def reverse(self, address: Address) -> str:
        self.asked.append(address)
        self.go.wait(60)
        if address not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.names[address]

    def forward(self, name: str) -> list[Address]:
        self.asked.append(name)
        if name not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.addresses[name]

    def names_of(self, timeout: float = 60.0) -> HostNames:
        return HostNames(lambda name: name.endswith(".org"), timeout, reverse=self.reverse, forward=self.forward)


async def test_a_name_leads_back_or_is_none() -> None:
    resolver = Resolver({HERE: "App.Example.ORG", THERE: "app.example.org"}, {"app.example.org": [ip_address("::1"), HERE]})
    names = resolver.names_of()
    assert await names.of(HERE) == "app.example.org"
    assert await names.of(THERE) == ""                           # it says so of itself, the name does not
    assert await names.of(ip_address("10.0.0.3")) == ""


@pytest.mark.parametrize("name", ["gone.example.org", "x" * 70 + ".org"])
async def test_a_name_without_an_address_is_none(name: str) -> None:
    assert await Resolver({HERE: name}, {}).names_of().of(HERE) == ""


async def test_what_no_rule_speaks_of_is_not_looked_up() -> None:
    """A stranger says what its address is called: it must not make us ask for names of its choice."""
    resolver = Resolver({HERE: "stranger.example.net"}, {})
    assert await resolver.names_of().of(HERE) == ""
    assert resolver.asked == [HERE]


async def test_many_who_wait_ask_once() -> None:
    resolver = Resolver({HERE: "app.example.org"}, {"app.example.org": [HERE]})
    resolver.go.clear()
    names = resolver.names_of()
    waiting = [asyncio.ensure_future(names.of(HERE)) for _ in range(50)]
    while not resolver.asked:
        await asyncio.sleep(0)
    waiting[0].cancel()                                          # who leaves takes nobody's answer along
    resolver.go.set()
    assert await asyncio.gather(*waiting[1:]) == ["app.example.org"] * 49
    assert await names.of(HERE) == "app.example.org"
    assert resolver.asked == [HERE, "app.example.org"]


async def test_a_resolver_that_hangs_costs_the_name_and_no_more() -> None:
    resolver = Resolver({HERE: "app.example.org"}, {"app.example.org": [HERE]})
    resolver.go.clear()
    names = resolver.names_of(timeout=0.05)
    many = [ip_address(f"10.1.0.{number}") for number in range(3 * THREADS)]
    assert await asyncio.gather(*map(names.of, many)) == [""] * len(many)
    assert len(resolver.asked) == THREADS                        # the others never got a thread
    resolver.go.set()
    assert await resolver.names_of().of(HERE) == "app.example.org"


async def test_places_come_back_whatever_happens() -> None:
    aside, go = Aside("test", 2), threading.Event()
    hanging = [asyncio.ensure_future(aside.run(lambda: go.wait(60))) for _ in range(4)]
    await asyncio.sleep(0)
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    go.set()

    def fails() -> None:
        raise KeyError("mine")

    for _ in range(5):
        with pytest.raises(KeyError, match="mine"):
            await aside.run(fails)
        assert await aside.run(lambda: 7) == 7


def test_this_machines_own_networks() -> None:
    interfaces = Interfaces()
    assert interfaces.ours(ip_address("127.0.0.1"))
    assert interfaces.beside(ip_address("127.0.0.9"))
    assert not interfaces.ours(ip_address("127.0.0.9"))
    assert not interfaces.beside(ip_address("203.0.113.9"))
    assert ip_network("127.0.0.0/8") in [interface.network for interface in interfaces.look()]
    kept = interfaces.look()
    assert interfaces.look() is kept
