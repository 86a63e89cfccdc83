"""What the translator is given, and what is taken for one statement with other numbers."""

from __future__ import annotations

import pytest

from proxy.errors import ProxyError
from proxy.gateway.sqlite.normal import plain, split, template


@pytest.mark.parametrize(("sql", "parts"), [
    ("", []), (" ; ;", []), ("select 1", ["select 1"]), ("select 1;", ["select 1"]),
    ("select 1; select 2 ;", ["select 1", "select 2"]), ("select ';'", ["select ';'"]), ('select ";" -- ; x', ['select ";"']),
    ("select $$;$$; /* ; */ select 2", ["select $$;$$", "select 2"]), ("-- nothing", []),
    ("select 1 --;\n;select 2", ["select 1", "select 2"])])
def test_split(sql: str, parts: list[str]) -> None:
    assert split(sql) == parts


@pytest.mark.parametrize(("sql", "told"), [
    ("SELECT Foo, \"Bar\" -- x\n FROM t", 'select foo, "Bar" from t'), ("select $1,$2", 'select "$1","$2"'),
    (r"select e'a\nb', $$it's$$", "select 'a\nb', 'it''s'"), ("select 'a'\n'b'", "select 'ab'"), ("select a->>'b'", "select a->>'b'")])
def test_plain(sql: str, told: str) -> None:
    assert plain(sql) == told


@pytest.mark.parametrize("sql", [
    "select 'x", "select 'a' 'b'", 'select "$1"', "select u&'x'", "select 1e", "select 0x1F", "select b'1'"])
def test_what_is_not_given(sql: str) -> None:
    with pytest.raises(ProxyError):
        plain(sql)


@pytest.mark.parametrize(("sql", "made", "numbers"), [
    ("select a from t where id = 7", "select a from t where id = $1", (7,)),
    ('update "t" set n = 5, m = -3 where "id" >= 12 and x<3', 'update "t" set n = $1, m = -3 where "id" >= $2 and x<$3', (5, 12, 3)),
    ("select 1, 2 from t order by 1 limit 5", "select 1, 2 from t order by 1 limit 5", ()),
    ("select a from t where b = 'x' and c = 5", "select a from t where b = 'x' and c = 5", ()),
    ('select "a = 1 " from t where c = 5', 'select "a = 1 " from t where c = 5', ()),
    ("select a from t where c = 5.5 or d = 5e3 or e = 5::text", "select a from t where c = 5.5 or d = 5e3 or e = 5::text", ()),
    ("create table t (a integer check (a > 5))", "create table t (a integer check (a > 5))", ()),
    ("select a from t where c = 5 -- x", "select a from t where c = 5 -- x", ()),
    ("select a from t where c = $1 and d = 5", "select a from t where c = $1 and d = 5", ()),
    ("select a from t where c = 12345678901", "select a from t where c = 12345678901", ())])
def test_template(sql: str, made: str, numbers: tuple[int, ...]) -> None:
    assert template(sql) == (made, numbers)
