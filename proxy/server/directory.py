"""Asking an LDAP server whether a password is a user's, by ldap3 (extra `[ldap]`).  Blocking: to be run in a thread.

As PostgreSQL's CheckLDAPAuth (auth.c): a search is done on a connection of its own, must find exactly one entry, and the
bind that counts is a new connection's.  Certificates of servers are always verified, with the name.  Nothing is followed
to another server (referrals).
"""

from __future__ import annotations

import logging
import math
import ssl
from time import monotonic
from typing import TYPE_CHECKING

from proxy.auth.ldap import Directory
from proxy.errors import ProxyError, UpstreamFault

if TYPE_CHECKING:
    import ldap3

log = logging.getLogger(__name__)
SUCCESS, TOO_MANY, NO_SUCH_OBJECT, WRONG_PASSWORD = 0, 4, 32, 49
# The server, not the password: operations and protocol error, busy, unavailable, other (RFC 4511 appendix A).
TROUBLE = frozenset({1, 2, 51, 52, 80})


def knows(directory: Directory, user: str, password: str, timeout: float) -> bool:
    """Is this the user's password?  `timeout` in seconds for all of it.  Raises ProxyError when the directory cannot tell."""
    due = monotonic() + timeout
    try:
        if directory.base is None:
            return _binds(directory, directory.name_of(user), password, due)
        name = _found(directory, user, due)
        return name is not None and _binds(directory, name, password, due)
    except ProxyError:
        raise
    except Exception as error:                # what a server says may be anything, and ldap3 does not expect all of it
        raise _trouble(_words(error)) from None


def _found(directory: Directory, user: str, due: float) -> str | None:
    """The distinguished name of the user's entry; None when there is none, or more than one."""
    import ldap3

    with _connected(directory, directory.bind_dn, directory.bind_password, due) as connection:
        if not _bound(connection):
            raise _trouble(f"cannot bind as {directory.bind_dn or 'nobody'} for the search: {connection.result['description']}")
        scope = {"base": ldap3.BASE, "one": ldap3.LEVEL, "sub": ldap3.SUBTREE}[directory.scope]
        connection.search(directory.base, directory.filter_of(user), scope, attributes=[ldap3.NO_ATTRIBUTES],
                          dereference_aliases=ldap3.DEREF_NEVER, size_limit=2)
        code = connection.result["result"]
        if code not in (SUCCESS, TOO_MANY, NO_SUCH_OBJECT):
            raise _trouble(f"the search failed: {connection.result['description']}")
        names = [each["dn"] for each in connection.response or () if each["type"] == "searchResEntry"]
    if len(names) != 1 or code == TOO_MANY:
        log.log(logging.WARNING if names else logging.DEBUG, "LDAP search did not find one entry",
                extra={"fields": {"user": user, "entries": len(names)}})
        return None
    return str(names[0])


def _binds(directory: Directory, name: str, password: str, due: float) -> bool:
    if not (name and password):
        return False                          # either would be an anonymous bind, which succeeds (RFC 4513 section 5.1)
    with _connected(directory, name, password, due) as connection:
        return _bound(connection)


def _bound(connection: ldap3.Connection) -> bool:
    if connection.bind():
        return True
    code = connection.result["result"]
    if code in TROUBLE:
        raise _trouble(f"the bind failed: {connection.result['description']}")
    if code != WRONG_PASSWORD:
        log.warning("LDAP bind refused", extra={"fields": {"name": connection.user or "", "reason": connection.result["description"]}})
    return False


class _connected:
    """A connection to the first of the servers that answers, closed at the end."""

    def __init__(self, directory: Directory, name: str, password: str, due: float) -> None:
        self.directory, self.name, self.password, self.due = directory, name, password, due

    def __enter__(self) -> ldap3.Connection:
        import ldap3

        problems = []
        for host in self.directory.hosts:
            seconds = max(1, math.ceil(self.due - monotonic()))
            server = ldap3.Server(host, self.directory.port, use_ssl=self.directory.ldaps, tls=_verified(self.directory, host),
                                  get_info=ldap3.NONE, connect_timeout=seconds)
            how = {"authentication": ldap3.SIMPLE, "user": self.name, "password": self.password.encode()} if self.name else {}
            connection = ldap3.Connection(server, version=3, auto_referrals=False, check_names=False, return_empty_attributes=False,
                                          receive_timeout=seconds, **how)
            try:
                connection.open(read_server_info=False)
                if self.directory.start_tls:
                    connection.start_tls(read_server_info=False)
            except Exception as error:        # whatever a library makes of this host: the next may know, and all are told at the end
                problems.append(f"{host}: {_words(error)}")
                self._close(connection)
                continue
            self.connection = connection
            return connection
        raise _trouble("; ".join(problems))

    def __exit__(self, *_: object) -> None:
        self._close(self.connection)

    def _close(self, connection: ldap3.Connection) -> None:
        try:
            connection.unbind()
        except Exception:                     # it may be in any state, and we are done with it
            connection.closed = True


def _verified(directory: Directory, host: str) -> ldap3.Tls | None:
    """TLS by Python's own rules for names, which ldap3 has of its own kind."""
    if not (directory.ldaps or directory.start_tls):
        return None
    import ldap3

    try:
        context = ssl.create_default_context(cafile=directory.root_cert)
    except OSError as error:                  # ssl.SSLError is one
        raise _trouble(f"cannot use ldaprootcert {directory.root_cert}: {error.strerror or error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2

    class Verified(ldap3.Tls):  # type: ignore[misc]
        def wrap_socket(self, connection: ldap3.Connection, do_handshake: bool = False) -> None:
            connection.socket = context.wrap_socket(connection.socket, server_hostname=host)

    return Verified(validate=ssl.CERT_REQUIRED)


def _words(error: BaseException) -> str:
    """ldap3 packs some of its reasons in tuples; what other errors say could be anything that was sent or received."""
    from ldap3.core.exceptions import LDAPExceptionError

    if not isinstance(error, (LDAPExceptionError, OSError)):
        return f"{type(error).__name__} in the library"
    reason: object = error
    while isinstance(args := getattr(reason, "args", reason), tuple) and args:
        reason = args[0]
    return str(reason) if not isinstance(error, OSError) else str(error)


def _trouble(reason: str) -> ProxyError:
    """The log is told why, the client only that: it is a stranger yet."""
    log.error("LDAP authentication cannot be done", extra={"fields": {"error": reason}})
    return UpstreamFault("LDAP could not be asked")
