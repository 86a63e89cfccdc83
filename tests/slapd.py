"""A real directory: OpenLDAP's slapd as a child, with a configuration and data of its own.

Debian's package would make a user and start a server: its files are enough.  `SLAPD` names the program, in a folder to which
the packages were unpacked or in the system's own; without one, tests that need it skip.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests import certificates
from tests.servers import free_port, until

BASE = "dc=example,dc=org"
MODULES = ("usr/lib/ldap", "usr/lib/openldap", "usr/lib64/openldap")
SCHEMAS = ("etc/ldap/schema", "etc/openldap/schema")


def program() -> Path | None:
    named = os.environ.get("SLAPD") or shutil.which("slapd") or shutil.which("slapd", path="/usr/sbin:/usr/lib/openldap")
    return Path(named) if named else None


class Slapd:
    """`people` maps names to passwords: each is `cn=<name>,ou=people` with `uid` and `cn`."""

    def __init__(self, folder: Path, people: Mapping[str, str]) -> None:
        found = program()
        assert found is not None
        self.program, self.folder = found, folder
        self.port, self.tls_port = free_port(), free_port()
        root = found.parents[2]
        modules, schemas = (next(root / path for path in paths if (root / path).is_dir()) for paths in (MODULES, SCHEMAS))
        self.libraries = [str(path) for path in (root / "usr/lib").glob("*-linux-gnu")] if root != Path("/") else []
        certificates.make(folder)
        (folder / "data").mkdir()
        (folder / "slapd.conf").write_text("\n".join((
            *(f"include {schemas / name}.schema" for name in ("core", "cosine", "inetorgperson")),
            f"modulepath {modules}", "moduleload back_mdb", f"TLSCertificateFile {folder}/server.pem",
            f"TLSCertificateKeyFile {folder}/server.pem", "database mdb", f"suffix {BASE}", f"directory {folder}/data",
            "access to attrs=userPassword by anonymous auth by * none",
            f'access to * by dn.exact="cn=finder,{BASE}" read by anonymous auth', "")))
        (folder / "data.ldif").write_text(self._data(people))
        self._run("-T", "add", "-l", str(folder / "data.ldif"))
        self.start()

    def _data(self, people: Mapping[str, str]) -> str:
        def person(name: str, place: str, word: str) -> str:
            text = base64.b64encode(name.encode()).decode()
            escaped = "".join(f"\\{byte:02x}" for byte in name.encode())
            return (f"dn: cn={escaped},{place}\nobjectClass: inetOrgPerson\ncn:: {text}\nsn: x\nuid:: {text}\n"
                    f"userPassword:: {base64.b64encode(word.encode()).decode()}\n\n")

        return (f"dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: x\ndc: example\n\n"
                + "".join(f"dn: ou={unit},{BASE}\nobjectClass: organizationalUnit\nou: {unit}\n\n" for unit in ("people", "others"))
                + person("finder", BASE, "finder-s3cret")
                + "".join(person(name, f"ou=people,{BASE}", word) for name, word in people.items())
                + "".join(person("twin", f"ou={unit},{BASE}", "s3cret") for unit in ("people", "others")))

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "LD_LIBRARY_PATH": ":".join(self.libraries)} if self.libraries else dict(os.environ)

    def _run(self, *words: str) -> None:
        done = subprocess.run([str(self.program), *words, "-f", str(self.folder / "slapd.conf")], check=False, capture_output=True,
                              text=True, env=self.environment)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        log = (self.folder / "slapd.log").open("ab")
        places = f"ldap://127.0.0.1:{self.port}/ ldap://127.0.0.3:{self.port}/ ldaps://127.0.0.1:{self.tls_port}/"
        self.process = subprocess.Popen([str(self.program), "-d", "stats", "-f", str(self.folder / "slapd.conf"), "-h", places],
                                        stdout=log, stderr=log, env=self.environment)
        log.close()
        until(lambda: "slapd starting" in self.log or self.process.poll() is not None, "slapd")
        assert self.process.poll() is None, self.log

    @property
    def log(self) -> str:
        return (self.folder / "slapd.log").read_text(errors="replace")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@contextmanager
def directory(folder: Path, people: Mapping[str, str]) -> Iterator[Slapd]:
    running = Slapd(folder, people)
    try:
        yield running
    finally:
        running.stop()
