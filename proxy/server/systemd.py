"""What systemd tells a service and wants to hear from it: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3).

Three environment variables and one datagram socket: not worth a library.
"""

from __future__ import annotations

import os
import socket

FIRST_FD = 3                # SD_LISTEN_FDS_START


def notify(**state: str) -> None:
    """Send `KEY=value` lines; nothing happens outside systemd."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]          # the abstract namespace
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as sock:
        try:
            sock.connect(address)
            sock.sendall("\n".join(f"{key}={value}" for key, value in state.items()).encode())
        except OSError:
            pass                              # a manager that does not listen is no reason to stop serving


def listen_fds() -> list[socket.socket]:
    """The sockets of our .socket unit; taken once, so that children do not believe they are theirs."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    found = []
    for fd in range(FIRST_FD, FIRST_FD + int(count)):
        os.set_inheritable(fd, False)
        found.append(socket.socket(fileno=fd))
    return found


def watchdog_interval() -> float | None:
    """Seconds between two WATCHDOG=1, half of what systemd allows; None when it does not watch."""
    microseconds, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not microseconds.isdigit() or not int(microseconds) or pid != str(os.getpid()):
        return None
    return int(microseconds) / 2e6
