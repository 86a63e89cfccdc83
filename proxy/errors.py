"""The tree of faults.  Whose fault it is, is the type; what the client sees, is on the class.

    ProxyError                    XX000  our own mistake
      ClientFault                 08P01  the client broke the protocol
        NoStartup                 08P01  what came first is no startup packet: like PostgreSQL, we hang up without a word
        AuthenticationFailed      28P01  wrong password, unknown user, wrong method
        AuthorizationFailed       28000  the rules leave no way in
        UnknownDatabase           3D000  no plugin, database or prefix answers to this name
          SharedDatabase          3D000  schema mode: the database is there, but which plugin is meant is not said
        Forbidden                 42501  the user may not use this plugin
        NotSupported              0A000  understood, and refused
        TooManyConnections        53300  a limit of ours
        QueryWaitTimeout          53300  no upstream connection became free in time
        LoginTimeout              08006  the client did not finish its login in time
        Overdue                   57014  a time limit of ours: query, transaction or idle; PostgreSQL's own states
      UpstreamFault               08006  the database went away, or talks nonsense
        UpstreamRefused           (its)  the database said no: its own SQLSTATE, message, detail and hint
      OperatorFault               F0000  the configuration cannot serve this
        ConfigProblems            F0000  all mistakes found in the configuration, together
        NoCredential              28000  a token or a password could not be had
      Shutdown                    57P01  we are going away

Only `server/client.serve` (and the gateways, for errors that do not end a session) turn these into an
ErrorResponse.  SQLSTATEs: PostgreSQL manual, "PostgreSQL Error Codes".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar


class ProxyError(Exception):
    """Base of all faults that have a SQLSTATE.  `detail` and `hint` reach the client as fields of their own."""

    sqlstate: str = "XX000"
    severity: ClassVar[str] = "FATAL"

    def __init__(self, message: str, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint


class ClientFault(ProxyError):
    sqlstate = "08P01"


class NoStartup(ClientFault):
    """PostgreSQL logs it and closes (COMMERROR in ProcessStartupPacket): who does not speak the protocol reads no error."""


class AuthenticationFailed(ClientFault):
    sqlstate = "28P01"


class AuthorizationFailed(ClientFault):
    sqlstate = "28000"


class UnknownDatabase(ClientFault):
    sqlstate = "3D000"


class SharedDatabase(UnknownDatabase):
    pass


class Forbidden(ClientFault):
    sqlstate = "42501"


class NotSupported(ClientFault):
    sqlstate = "0A000"


class TooManyConnections(ClientFault):
    """`limit` names the limit in metrics."""

    sqlstate = "53300"

    def __init__(self, message: str, *, limit: str = "clients", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.limit = limit


class QueryWaitTimeout(ClientFault):
    sqlstate = "53300"


class LoginTimeout(ClientFault):
    sqlstate = "08006"


class Overdue(ClientFault):
    sqlstate = "57014"

    def __init__(self, message: str, sqlstate: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.sqlstate = sqlstate


class UpstreamFault(ProxyError):
    sqlstate = "08006"


class UpstreamRefused(UpstreamFault):
    """The server's own ErrorResponse, kept whole: `fields` maps the one-letter codes of the manual to text."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__(fields.get("M", "unknown error"), detail=fields.get("D"), hint=fields.get("H"))
        self.fields = dict(fields)
        self.sqlstate = fields.get("C") or UpstreamFault.sqlstate


class OperatorFault(ProxyError):
    sqlstate = "F0000"


class ConfigProblems(OperatorFault):
    """Every mistake found, each already worded with file:line:column, key path, origin and remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class NoCredential(OperatorFault):
    """Nothing to log in with: `hint` says what an operator does.  Never holds what a provider printed."""

    sqlstate = "28000"


class Shutdown(ProxyError):
    sqlstate = "57P01"
