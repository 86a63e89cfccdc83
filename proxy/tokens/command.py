"""`passwordCommand`: a program that prints the password.

Run without a shell, with PGHOST, PGPORT, PGDATABASE and PGUSER in its environment.  One line end at the end of what it
prints is not part of the password.  What it prints is never shown, neither by us nor in an error: not even what it
writes to its standard error, for there a tool may repeat its arguments.
"""

from __future__ import annotations

import asyncio
import os
import time

from proxy.config.target import PasswordCommand, Secret
from proxy.errors import NoCredential
from proxy.tokens.token import Place, Token

MAX_OUTPUT = 65_536
HINT = "Run the command of connection.passwordCommand by hand, as the user that the proxy runs as."


async def provide(source: PasswordCommand, place: Place) -> Token:
    """Raises NoCredential."""
    environment = {**os.environ, "PGHOST": place.host, "PGPORT": str(place.port), "PGDATABASE": place.database,
                   "PGUSER": place.user}
    name = os.path.basename(source.arguments[0])
    try:
        process = await asyncio.create_subprocess_exec(
            *source.arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL, env=environment)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "its arguments hold a NUL"
        raise NoCredential(f"passwordCommand {name} cannot be run: {reason}", hint=HINT) from None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(source.timeout or None):
            printed = await process.stdout.read(MAX_OUTPUT + 1)
            while len(printed) <= MAX_OUTPUT and (more := await process.stdout.read(MAX_OUTPUT + 1)):
                printed += more
            if len(printed) > MAX_OUTPUT:
                raise NoCredential(f"passwordCommand {name} prints more than {MAX_OUTPUT} bytes", hint=HINT)
            status = await process.wait()
    except TimeoutError:
        raise NoCredential(f"passwordCommand {name} took longer than {source.timeout:g} s", hint=HINT) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status:
        how = f"ended with status {status}" if status > 0 else f"was killed by signal {-status}"
        raise NoCredential(f"passwordCommand {name} {how}", hint=HINT)
    try:
        word = printed.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise NoCredential(f"passwordCommand {name} prints what is not UTF-8", hint=HINT) from None
    if not word:
        raise NoCredential(f"passwordCommand {name} prints nothing", hint=HINT)
    return Token(Secret(word), time.time() + source.lifetime)
