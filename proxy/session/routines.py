"""What a database's own functions do: their text is read as that of statements is.

A function that PostgreSQL does not bring is unknown until the server was asked for what stands in pg_proc.  Harmless are

    sql        whose statements all are
    plpgsql    in which no statement changes a session and nothing is executed that is made up at run time
    c          of extensions that somebody has looked at

and whose own calls are, all the way down.  All functions of a name must be, whatever their schema and arguments, so that
no search_path matters.  What is known holds for a minute: a function that is replaced meanwhile on another connection is
believed to be what it was; after DDL on ours everything is asked anew.  A name that nothing has is not remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from proxy.session import prepared
from proxy.session.bodies import leaves_nothing, of_plpgsql
from proxy.session.consequences import Doubt, Names
from proxy.session.functions import CONSEQUENCES
from proxy.session.statements import LONGEST, statements
from proxy.session.tokens import decode, encode

HOLDS = 60.0                  # seconds
MOST = 2000                   # names remembered of a database
AT_ONCE = 50                  # names in one question
DEEPEST = 8                   # questions for one function's sake
_NOT_ASKED = frozenset(("do", "call", "execute", 'U&"..."', "create extension", "alter extension"))

# C functions that keep nothing in the session.  Not among them: dblink, isn, plperl and their like, pg_trgm's set_limit().
EXTENSIONS = frozenset((
    "amcheck", "bloom", "btree_gin", "btree_gist", "citext", "cube", "dict_int", "dict_xsyn", "earthdistance", "fuzzystrmatch",
    "hstore", "intarray", "lo", "ltree", "pageinspect", "pg_buffercache", "pg_freespacemap", "pg_stat_statements", "pg_trgm",
    "pg_visibility", "pg_walinspect", "pgcrypto", "pgrowlocks", "pgstattuple", "seg", "sslinfo", "tcn", "tsm_system_rows",
    "tsm_system_time", "unaccent", "uuid-ossp", "vector", "xml2"))

@dataclass(frozen=True, slots=True)
class Routine:
    """All functions of a name: could they be harmless, and whose names they depend on."""

    clean: bool
    needs: frozenset[str] = frozenset()
    at: float = 0.0
    customs: frozenset[str] = frozenset()     # settings of their own making that they set for the transaction


class Routines:
    """Those of one database."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.known: dict[str, Routine] = {}
        self.generation = prepared.generation()

    def harmless(self, name: str) -> bool:
        """Is it known to be?"""
        return self.missing((name,)) == ()

    def missing(self, names: Iterable[str], absent: frozenset[str] = frozenset()) -> tuple[str, ...] | None:
        """Which of these, and of those that they need, the server must be asked about; None: one of them is not harmless.

        `absent`: names that nothing has."""
        if self.generation != prepared.generation():
            self.generation = prepared.generation()
            self.known.clear()
        since = self.clock() - HOLDS
        todo, seen = list(names), set[str]()
        found: list[str] = []
        while todo:
            name = bare(todo.pop())
            if name in seen or name in absent:
                continue
            seen.add(name)
            one = self.known.get(name)
            if one is None or one.at < since:
                if len(found) < AT_ONCE:
                    found.append(name)
            elif not one.clean:
                return None
            else:
                todo += one.needs
        return tuple(found)

    def customs(self, name: str) -> frozenset[str]:
        """Settings of one's own making that the session knows when it, or what it calls, has run: of what is known."""
        todo, seen, found = [bare(name)], set[str](), frozenset[str]()
        while todo:
            one = self.known.get(name := todo.pop())
            if one is not None and name not in seen:
                seen.add(name)
                todo += one.needs
                found |= one.customs
        return found

    def learn(self, rows: Iterable[Sequence[bytes | None]]) -> set[str]:
        """The answer to `question`.  Returns the names that there are."""
        found: dict[str, Routine] = {}
        now = self.clock()
        for row in rows:
            if len(row) != 4 or row[0] is None:
                continue
            name = decode(row[0])
            one = judge(decode(row[1] or b""), decode(row[2] or b""), decode(row[3] or b""))
            before = found.get(name, Routine(True))
            found[name] = Routine(before.clean and one.clean, before.needs | one.needs, now, before.customs | one.customs)
        if len(self.known) + len(found) > MOST:
            self.known.clear()
        self.known.update(found)
        return set(found)


def askable(why: str) -> bool:
    """Is this the name of a function that the server can be asked about?"""
    name = bare(why)
    return why not in _NOT_ASKED and name not in CONSEQUENCES and "'" not in name and "\\" not in name and name.isascii() and bool(name)


def bare(why: str) -> str:
    """Without its schema."""
    return why.rpartition(".")[2]


def question(names: Sequence[str]) -> str:
    listed = ", ".join(f"'{bare(name)}'" for name in names)
    return ("SELECT p.proname, l.lanname, e.extname, p.prosrc FROM pg_catalog.pg_proc AS p"
            " JOIN pg_catalog.pg_language AS l ON l.oid OPERATOR(pg_catalog.=) p.prolang"
            " LEFT JOIN pg_catalog.pg_depend AS d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass"
            " AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'"
            " LEFT JOIN pg_catalog.pg_extension AS e ON e.oid OPERATOR(pg_catalog.=) d.refobjid"
            f" WHERE p.proname::pg_catalog.text OPERATOR(pg_catalog.=) ANY (ARRAY[{listed}]::pg_catalog.text[])")


def judge(language: str, extension: str, source: str) -> Routine:
    """One function: by pg_proc's columns."""
    if language in ("c", "internal"):
        return Routine(extension in EXTENSIONS)
    if language not in ("sql", "plpgsql") or not source or len(source) > LONGEST:
        return Routine(False)
    if language == "plpgsql":
        effects = of_plpgsql(source)
    else:
        effects = tuple(effect for one in statements(encode(source)) for effect in one.effects)
    needs, customs = set(), set()
    for effect in effects:
        if isinstance(effect, Names):
            customs.add(effect.name)
        elif isinstance(effect, Doubt) and askable(effect.why):
            needs.add(bare(effect.why))
        elif not leaves_nothing(effect):
            return Routine(False)
    return Routine(True, frozenset(needs), customs=frozenset(customs))
