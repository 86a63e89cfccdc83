"""This machine's own addresses and the networks it is directly connected to: what `samehost` and `samenet` mean.

Asked anew every few seconds, since interfaces come and go (pg_foreach_ifaddr in PostgreSQL's ifaddr.c asks each time).
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from time import monotonic

import psutil

from proxy.auth.rules import Address

KEPT = 5.0                  # seconds


@dataclass(slots=True)
class Interfaces:
    found: tuple[IPv4Interface | IPv6Interface, ...] = ()
    asked_at: float = float("-inf")

    def look(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        now = monotonic()
        if now - self.asked_at >= KEPT:
            self.found, self.asked_at = tuple(_own()), now
        return self.found

    def ours(self, address: Address) -> bool:
        """Is it an address of this machine?"""
        return any(address == interface.ip for interface in self.look())

    def beside(self, address: Address) -> bool:
        """Is it in a network of this machine?"""
        return any(address in interface.network for interface in self.look())


def _own() -> list[IPv4Interface | IPv6Interface]:
    found: list[IPv4Interface | IPv6Interface] = []
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            address = each.address.partition("%")[0]
            length = bin(int(ip_address(each.netmask))).count("1") if each.netmask else ip_address(address).max_prefixlen
            found.append(ip_interface(f"{address}/{length}"))
    return found
