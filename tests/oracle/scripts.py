"""Random scripts for the oracle (tests/oracle): words that clients say, and who says what when.

Fewer connections than clients must not make anybody wait for ever.  So some clients are *holders*: they may keep a
transaction, a lock, a temporary table for as long as they like, and there is a connection for each of them and one more.  All
others end in the same turn what they have begun.  And nobody takes a lock that another client could have to wait for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hypothesis import strategies as st

from tests.oracle.steps import Ask, B, Batch, C, Cancelled, Copy, D, E, Enter, H, Leave, P, S, Script, Step

NAMES = ("work_mem", "search_path", "TimeZone", "DateStyle", "application_name", "statement_timeout", "lock_timeout", "app.tenant",
         "my.own", "client_encoding", "standard_conforming_strings", "IntervalStyle", "extra_float_digits", "bytea_output",
         "default_transaction_isolation", "default_transaction_read_only", "session_authorization", "role", "transaction_isolation",
         "transaction_read_only", "client_min_messages", "xmloption", "temp_tablespaces", "enable_seqscan")

WORDS: dict[str, list[str]] = {}
for _line in (Path(__file__).with_name("words.txt")).read_text().splitlines():
    if _line.startswith("["):
        _section = WORDS.setdefault(_line[1:-1], [])
    elif _line and not _line.startswith("#"):
        _section.append(_line)
KEEPING = [line.split(" => ") for line in WORDS["KEEPING"]]
SEEN = [*WORDS["SEEN"], "", *(text for name in NAMES for text in (f"show {name}", f"select current_setting('{name}', true)"))]


NAMED = ("", "", "", "s1", "s2", "S")


def _copies(client: int) -> st.SearchStrategy[Step]:
    text = st.sampled_from((f"copy t{client} (a, b) from stdin", f"copy t{client} (a) from stdin with (format csv)",
                            "copy nosuch from stdin",
                            f"copy t{client} (a, b) from stdin; select 1", f"select 2; copy t{client} (a, b) from stdin"))
    lines = st.lists(st.sampled_from(("1\tx\n", "2\ty\n", "bad\n", "3\t\\N\n", "\\.\n", "4")), max_size=3).map(tuple)
    return st.builds(Copy, text, lines, st.booleans(), st.booleans(), st.booleans()).map(
        lambda step: Copy(step.text.partition(";")[0], *_rest(step)) if step.extended else step)


def _rest(step: Copy) -> tuple[tuple[str, ...], bool, bool, bool]:
    return step.data, step.fails, step.extended, step.waits


def _asks(texts: Sequence[str]) -> st.SearchStrategy[Step]:
    one = st.sampled_from(tuple(texts))
    many = st.lists(one, min_size=2, max_size=3).map("; ".join)
    return st.one_of(one, one, one, many).map(Ask)


@st.composite
def _batches(draw: st.DrawFn, texts: Sequence[str]) -> Batch:
    """Mostly sensible; errors anywhere."""
    said: list[P | B | D | E | C | H | S | Ask] = []
    text = st.sampled_from((*texts, *WORDS["PARAMETERS"]))
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(NAMED))
        match draw(st.integers(0, 9)):
            case 0:
                said.append(C(name))
            case 1:
                said.append(D(name, "S"))
            case 2:
                said.append(B(name, portal=draw(st.sampled_from(("", "p")))))
                said += [E(draw(st.sampled_from(("", "p"))), draw(st.integers(0, 2))) for _ in range(draw(st.integers(1, 3)))]
            case 3:
                said.append(C(draw(st.sampled_from(("", "p"))), "P"))
            case _:
                chosen = draw(text)
                if draw(st.integers(0, 4)) or not name:
                    if name and draw(st.booleans()):
                        said.append(C(name))
                    said.append(P(chosen, name))
                if draw(st.integers(0, 3)) == 0:
                    said.append(D(name, "S"))
                values = (draw(st.sampled_from(("1", "work_mem", "2MB", "x", None))),) if "$1" in chosen else ()
                portal = draw(st.sampled_from(("", "", "", "p")))
                said.append(B(name, values, portal))
                if draw(st.booleans()):
                    said.append(D(portal))
                said.append(E(portal, draw(st.sampled_from((0, 0, 0, 1)))))
        match draw(st.integers(0, 11)):
            case 0:
                said.append(H())
            case 1:
                said.append(S())
            case 2:
                said += [S(), Ask(draw(st.sampled_from(tuple(texts))))]
    if any(isinstance(one, Ask) for one in said):
        said = [one for one in said if not isinstance(one, C)]
    return Batch(tuple(said))


OPTIONS: tuple[tuple[tuple[str, str], ...], ...] = (
    (), (), (), (("application_name", "app"),), (("options", "-c work_mem=8MB -csearch_path=s1"),), (("DateStyle", "German"),),
    (("TimeZone", "Asia/Tokyo"), ("client_encoding", "UTF8")), (("client_encoding", "latin1"),),
    (("options", "-c app.tenant=begun --lock-timeout=4s"), ("application_name", "app")), (("search_path", "s2,public"),),
    (("extra_float_digits", "3"), ("intervalstyle", "iso_8601")), (("options", "-c standard_conforming_strings=off"),),
    (("options", "-c role=oracle_a"),), (("statement_timeout", "45s"),), (("options", "-c nosuch=1"),), (("work_mem", "lots"),),
    (("options", r"-c application_name=a\ b\\c"),), (("_pq_.later", "1"),),
)


@st.composite
def scripts(draw: st.DrawFn) -> tuple[Script, int]:
    """A script, and how many connections it is to have through us."""
    clients = draw(st.integers(2, 3))
    holders = draw(st.integers(0, clients - 1))
    steps: list[tuple[int, Step]] = [(client, Enter(draw(st.sampled_from(OPTIONS)))) for client in range(clients)]
    there = set(range(clients))
    for _ in range(draw(st.integers(1, 12))):
        client = draw(st.integers(0, clients - 1))
        if client not in there:
            steps.append((client, Enter(draw(st.sampled_from(OPTIONS)))))
            there.add(client)
        steps += ((client, step) for step in draw(_turns(client, client < holders)))
        if draw(st.integers(0, 9)) == 0:
            steps.append((client, draw(_leaves(client))))
            there.discard(client)
    return tuple(steps), min(holders + 1, clients)


def _leaves(client: int) -> st.SearchStrategy[Leave]:
    """In the middle of something: of what is not ended nothing stays, and no sequence is asked, which would tell."""
    begun = st.lists(st.sampled_from(WORDS["UNFINISHED"]), min_size=1, max_size=3).map(
        lambda texts: Batch(tuple(one for text in texts for one in (P(text.replace("t$", f"t{client}")), B(), E()))))
    copy = st.builds(Copy, st.just(f"copy t{client} (id, a) from stdin"), st.just(("70\t1\n", "71\t")))
    return st.builds(Leave, st.booleans(), st.one_of(st.none(), st.none(), begun, copy))


def _cancelled() -> st.SearchStrategy[Step]:
    """By a name of its own: nobody is to execute it once more."""
    text = st.sampled_from(WORDS["ENDLESS"])
    def batch(one: str) -> Batch:
        return Batch((C("endless"), P(one.partition(";")[0], "endless"), B("endless"), E(), P("select 1"), B(), E()))

    return st.one_of(text.map(Ask), text.map(batch)).map(Cancelled)


@st.composite
def _turns(draw: st.DrawFn, client: int, holds: bool) -> list[Step]:
    mine = [text.replace("t$", f"t{client}") for text in (*WORDS["DATA"], *WORDS["CODE"])]
    plain = (*WORDS["LASTING"], *WORDS["LOCAL"], *SEEN, *SEEN, *WORDS["FAILING"], *mine, *WORDS["NOTIFYING"], *WORDS["LOCKING"])
    if holds:
        everything = (*plain, *WORDS["OPENING"] * 3, *WORDS["WITHIN"] * 2, *WORDS["ENDING"] * 3, *WORDS["CURSORS"],
                      "select setseed(0.5)",
                      *(text.replace("t$", f"t{client}") for text in (*WORDS["KEPT"], *(text for pair in KEEPING for text in pair))))
        return draw(st.lists(_steps(client, everything), min_size=1, max_size=3))
    inner = st.lists(_steps(client, (*plain, *WORDS["WITHIN"] * 2, *WORDS["CURSORS"])), max_size=4)
    match draw(st.integers(0, 6)):
        case 0 | 1:
            return draw(st.lists(_steps(client, plain), min_size=1, max_size=3))
        case 2 | 3:
            opening, ending = draw(st.sampled_from(WORDS["OPENING"])), draw(st.sampled_from(WORDS["ENDING"]))
            # What an error or a chain has left open is closed for certain.
            return [Ask(opening), *draw(inner), Ask(ending), Ask("rollback"), *draw(st.lists(_steps(client, SEEN), max_size=2))]
        case 4:
            keeps, frees = (text.replace("t$", f"t{client}") for text in draw(st.sampled_from(KEEPING)))
            kept = (*plain, *(text.replace("t$", f"t{client}") for text in WORDS["KEPT"]))
            return [Ask(keeps), *draw(st.lists(_steps(client, kept), max_size=3)), Ask("rollback"), Ask(frees), Ask("discard all")]
        case 5:
            # What a session was given before this transaction is forgotten through us: so it asks here first.
            asks, tells = (draw(st.sampled_from(WORDS[section])).replace("t$", f"t{client}") for section in ("ADVANCING", "TELLING"))
            telling = draw(st.sampled_from((Ask(tells), Batch((P(tells), B(), E())))))
            return [Ask("begin"), Ask(asks), *draw(st.lists(_steps(client, plain), max_size=2)), telling, telling, Ask("rollback"),
                    Ask("discard all")]
    return [draw(_batches(plain))]


def _steps(client: int, texts: Sequence[str]) -> st.SearchStrategy[Step]:
    usual = st.one_of(_asks(texts), _asks(texts), _asks(texts), _batches(texts), _copies(client))
    return st.integers(0, 29).flatmap(lambda number: _cancelled() if not number else usual)
