"""pgjdbc: its own JUnit tests, compiled against Debian's build of the same version and run by Debian's JUnit.

Its build wants Gradle, plugins and libraries from a registry of their own; the tests want none of these, except a few files:
those are left out, and so are the suites that only list other classes.  All else runs, also what asks no server.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from tests.suites.by_pytest import Broken
from tests.suites.compare import FAILED, PASSED, SKIPPED, Result
from tests.suites.places import Place
from tests.suites.sources import Git, Unavailable, command, made, packages

VERSION = "42.5.5"
SOURCE = Git("https://github.com/pgjdbc/pgjdbc", "0cad18b8ab78b67102ee2a2b728d455dca6b3905")        # REL42.5.5
PACKAGES = (f"libpostgresql-jdbc-java={VERSION}-0+deb12u1", "junit4", "junit5", "libapiguardian-java", "libhamcrest-java",
            "libopentest4j-java", "libopentest4j-reporting-java", "libpicocli-java")
JARS = ("postgresql", "junit4", "hamcrest", "junit-jupiter-api", "junit-jupiter-params", "junit-jupiter-engine", "junit-vintage-engine",
        "junit-platform-commons", "junit-platform-engine", "junit-platform-launcher", "junit-platform-console",
        "junit-platform-reporting", "apiguardian-api", "opentest4j", "opentest4j-reporting-events", "picocli")
TESTS = Path("pgjdbc/src/test")
# Libraries that Debian does not have: they set the environment of a process, count class loaders, or are OSGi's.
_ABSENT = re.compile(r"uk\.org\.webcompere|se\.jiderhamn|org\.osgi|StubEnvironmentAndProperties")
# An annotation, which says nothing to the tests themselves.
_NULLABLE = """package org.checkerframework.checker.nullness.qual;
import java.lang.annotation.*;
@Target({ElementType.TYPE_USE, ElementType.TYPE_PARAMETER})
public @interface Nullable {}
"""
_OF_NO_INTEREST = ("\tat java.base/", "\tat org.junit.")
ONE_TEST = "1 m"
WHOLE = 3600               # seconds


def folder() -> Path:
    """`tree` is the source, `classes` its tests, `path` the jars in the manner of a class path."""
    source = SOURCE.folder()
    root = packages("pgjdbc-" + VERSION, *PACKAGES)
    with made(f"built-pgjdbc-{VERSION}") as (home, empty):
        if empty:
            if shutil.which("javac") is None:
                raise Unavailable("javac is missing: pgjdbc's tests are compiled")
            shutil.copytree(source, home / "tree", symlinks=True, ignore=shutil.ignore_patterns(".git"))
            shutil.copytree(home / "tree" / TESTS / "resources", home / "classes")
            annotation = home / "annotations" / "org" / "checkerframework" / "checker" / "nullness" / "qual" / "Nullable.java"
            annotation.parent.mkdir(parents=True)
            annotation.write_text(_NULLABLE)
            files = [path for path in sorted((home / "tree" / TESTS / "java").rglob("*.java"))
                     if not path.name.endswith("TestSuite.java") and not _ABSENT.search(path.read_text())]
            (home / "files").write_text("\n".join(map(str, [annotation, *files])))
            (home / "path").write_text(":".join(str(root / "usr" / "share" / "java" / f"{name}.jar") for name in JARS))
            command("javac", "-proc:none", "-nowarn", "-encoding", "UTF-8", "-d", home / "classes", "-cp", (home / "path").read_text(),
                    f"@{home / 'files'}")
        return home


def run(home: Path, place: Place, chosen: Sequence[str]) -> dict[str, Result]:
    """`chosen` are classes, by their full names."""
    properties = {"server": place.host, "port": place.port, "database": place.database, "username": place.user,
                  "password": place.password, "privilegedUser": place.user, "privilegedPassword": place.password,
                  # its build's own: a language with other capitals
                  "user.language": "TR", "user.country": "tr", "file.encoding": "UTF-8",
                  "junit.jupiter.execution.timeout.default": ONE_TEST}
    which = [f"--select-class={name}" for name in chosen] or [f"--scan-classpath={home / 'classes'}"]
    words: list[str | Path] = ["java", "-Xmx1536m", *(f"-D{name}={value}" for name, value in properties.items()),
             "-cp", f"{home / 'classes'}:{(home / 'path').read_text()}", "org.junit.platform.console.ConsoleLauncher",
             "--disable-banner", "--details=none", "--include-classname=.*", f"--reports-dir={place.folder / 'reports'}", *which]
    try:
        done = subprocess.run(words, cwd=home / "tree" / "pgjdbc", env=place.environment(), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=WHOLE)
    except subprocess.TimeoutExpired:
        raise Broken(f"pgjdbc's tests did not end within {WHOLE} s") from None
    reports = sorted((place.folder / "reports").glob("TEST-*.xml"))
    if done.returncode not in (0, 1) or not reports:
        raise Broken(f"JUnit ended with {done.returncode}:\n{done.stdout.replace(place.password, '***')[-3000:]}")
    found: dict[str, Result] = {}
    seen: Counter[str] = Counter()
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):
            name = " ".join(f"{case.get('classname')}::{case.get('name')}".split())
            seen[name] += 1
            found[name + (f" #{seen[name]}" if seen[name] > 1 else "")] = _result(case, place.password)
    return found


def _result(case: ElementTree.Element, secret: str) -> Result:
    for kind in ("failure", "error"):
        fault = case.find(kind)
        if fault is not None:
            lines = (fault.text or fault.get("message") or kind).replace(secret, "***").splitlines()
            return Result(FAILED, "\n".join([line for line in lines if not line.startswith(_OF_NO_INTEREST)][:12]))
    return Result(PASSED if case.find("skipped") is None else SKIPPED)
