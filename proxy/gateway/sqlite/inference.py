"""What types a query has, told without running it: of its columns, and of its parameters.

A column has the type that it was declared with.  Integers are 64 bits wide in SQLite, so each integer column is a bigint;
fractions are double precision.  Where nothing can be told, it is text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlglot import exp

from proxy.gateway.engine import BOOL, FLOAT8, INT4, INT8, NAME, TEXT
from proxy.gateway.sqlite.faults import refused, unsupported
from proxy.gateway.sqlite.types import (
    ARRAYS,
    BYTEA,
    CHAR,
    DATE,
    FLOAT4,
    INT2,
    INTEGERS,
    JSON,
    JSONB,
    NUMERIC,
    TIMESTAMP,
    TIMESTAMPTZ,
    UUID,
    VARCHAR,
    oid_of,
)

Declared = Mapping[str, Mapping[str, str]]
"""Tables, and of each the columns in order, with the types that they were declared with."""
Columns = list[tuple[str, int]]

COMPARED = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ)
BOOLEANS = (exp.And, exp.Or, exp.Not, exp.Is, exp.In, exp.Between, exp.Like, exp.ILike, exp.Exists, exp.Boolean, exp.LogicalAnd,
            exp.LogicalOr, *COMPARED)
CASTS = {"SMALLINT": INT2, "INT": INT4, "BIGINT": INT8, "DOUBLE": FLOAT8, "FLOAT": FLOAT8, "BOOLEAN": BOOL, "TEXT": TEXT,
         "VARCHAR": VARCHAR, "CHAR": CHAR, "BPCHAR": CHAR, "NAME": NAME, "JSON": JSON, "JSONB": JSONB, "UUID": UUID, "DATE": DATE,
         "TIMESTAMP": TIMESTAMP, "TIMESTAMPTZ": TIMESTAMPTZ, "VARBINARY": BYTEA, "DECIMAL": NUMERIC}
_SAME = (exp.Paren, exp.Neg, exp.Min, exp.Max, exp.Abs, exp.Filter, exp.Window, exp.Lag, exp.Lead, exp.FirstValue, exp.LastValue,
         exp.Escape, exp.Collate, exp.Nullif)
_WHOLE = (exp.Count, exp.RowNumber, exp.Rank, exp.DenseRank)
_SMALL = (exp.Length, exp.StrPosition, exp.Ascii, exp.Sign)
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.BitwiseAnd, exp.BitwiseOr)
_CHOICES = (exp.Coalesce, exp.Greatest, exp.Least)
_FUNCTIONS = {"octet_length": INT4, "char_length": INT4, "character_length": INT4, "pg_backend_pid": INT4, "gen_random_uuid": UUID,
              "clock_timestamp": TIMESTAMPTZ, "statement_timestamp": TIMESTAMPTZ, "transaction_timestamp": TIMESTAMPTZ,
              "pg_is_in_recovery": BOOL, "current_database": NAME, "current_user": NAME, "session_user": NAME, "current_schema": NAME}
_FRACTIONS = (exp.Round, exp.Ceil, exp.Floor, exp.Trunc, exp.Sqrt, exp.Pow, exp.Exp, exp.Ln, exp.Rand, exp.Extract)
ARRAY_OF = {oid: array for array, oid in ARRAYS.items()}
TEMPORAL = frozenset((TIMESTAMP, TIMESTAMPTZ, DATE))


def cast_name(to: exp.DataType) -> str:
    return str(getattr(to.this, "name", to.this)).upper()


@dataclass(frozen=True, slots=True)
class Source:
    name: str
    columns: Columns


class Inference:
    """`oids`: what the client has declared its parameters to be."""

    def __init__(self, tree: exp.Expr, declared: Declared, oids: tuple[int, ...] = ()) -> None:
        self.tree, self.declared, self.oids = tree, declared, oids
        self._sources: dict[int, list[Source]] = {}

    # -- tables -------------------------------------------------------------------------------------------

    def sources(self, node: exp.Expr) -> list[Source]:
        """The tables that a SELECT, UPDATE, DELETE or INSERT names columns of."""
        found = self._sources.get(id(node))
        if found is None:
            self._sources[id(node)] = found = []             # a table in its own FROM is another one
            found += [self._source(each) for each in _tables(node)]
        return found

    def _source(self, node: exp.Expr) -> Source:
        if isinstance(node, exp.Table):
            columns = self._named(node)
        elif isinstance(node, exp.Subquery):
            columns = self.columns(node.this)
        elif isinstance(node, exp.Values):
            columns = self.columns(node)
        else:
            raise unsupported(f"{str(node.key).upper()} in FROM")
        alias = node.args.get("alias")
        given = [column.name for column in alias.columns] if isinstance(alias, exp.TableAlias) else []
        named = [(given[at] if at < len(given) else name, oid) for at, (name, oid) in enumerate(columns)]
        return Source(node.alias_or_name, named)

    def _named(self, table: exp.Table) -> Columns:
        if not table.db:
            above: exp.Expr | None = table
            while above is not None:
                ctes = above.args.get("with_")
                for cte in ctes.expressions if ctes is not None else ():
                    if cte.alias == table.name:
                        return self._of_cte(cte)
                above = above.parent
        declared = self.declared.get(table.name)
        if declared is None:
            raise refused("42P01", f'relation "{table.name}" does not exist')
        return [(name, oid_of(kind)) for name, kind in declared.items()]

    def _of_cte(self, cte: exp.CTE) -> Columns:
        query = cte.this
        if isinstance(query, exp.SetOperation):
            query = query.left                               # of a recursive one: where it begins
        columns = self.columns(query)
        given = [column.name for column in cte.args["alias"].columns]
        return [(given[at] if at < len(given) else name, oid) for at, (name, oid) in enumerate(columns)]

    # -- columns ------------------------------------------------------------------------------------------

    def columns(self, query: exp.Expr, names: list[str] | None = None) -> Columns:
        """Of a query.  `names`: what its items are called, where that is known better."""
        if isinstance(query, exp.SetOperation):
            left, right = self.columns(query.left, names), self.columns(query.right)
            if len(left) != len(right):
                raise refused("42601", f"each {query.key.upper()} query must have the same number of columns")
            return [(name, _common(oid, other)) for (name, oid), (_, other) in zip(left, right, strict=True)]
        if isinstance(query, exp.Subquery):
            return self.columns(query.this, names)
        if isinstance(query, exp.Values):
            first = query.expressions[0]
            items = first.expressions if isinstance(first, exp.Tuple) else [first]
            return [(f"column{at}", self.of(item)) for at, item in enumerate(items, 1)]
        return [each for at, part in enumerate(getattr(query, "selects", ()))
                for each in self.item(query, part, names[at] if names is not None and at < len(names) else part.alias_or_name)]

    def item(self, query: exp.Expr, part: exp.Expr, name: str) -> Columns:
        """Of one item of a select list, which may be a star."""
        if isinstance(part, exp.Star) or (isinstance(part, exp.Column) and isinstance(part.this, exp.Star)):
            table = part.table if isinstance(part, exp.Column) else ""
            found = [source for source in self.sources(query) if not table or source.name == table]
            if table and not found:
                raise refused("42P01", f'missing FROM-clause entry for table "{table}"')
            if not found:
                raise refused("42601", "SELECT * with no tables specified is not valid")
            if any(join.args.get("using") or join.args.get("method") for join in query.args.get("joins") or ()) and not table:
                raise unsupported("* of a JOIN ... USING", "Name the columns.")
            return [column for source in found for column in source.columns]
        return [(name, self.of(part))]

    def of(self, node: exp.Expr | None) -> int:
        """The type of an expression."""
        if node is None:
            return TEXT
        known: int | None = node.meta.get("oid")
        if known is None:
            known = node.meta["oid"] = self._of(node)
        return known

    def _of(self, node: exp.Expr) -> int:
        match node:
            case exp.Column():
                return self.column(node)
            case exp.Cast():
                return CASTS.get(cast_name(node.to), TEXT)
            case exp.Literal():
                return TEXT if node.is_string else _number(node.name)
            case exp.Parameter():
                at = int(node.name) - 1
                return self.oids[at] if at < len(self.oids) and self.oids[at] else TEXT
            case exp.Alias():
                return self.of(node.this)
            case exp.Subquery():
                return self.columns(node.this)[0][1]
            case exp.Case():
                return self._best([branch.args["true"] for branch in node.args["ifs"]] + [node.args.get("default")])
            case exp.Add() | exp.Sub() if isinstance(node.expression, exp.Interval):
                return TIMESTAMP if self.of(node.this) == DATE else self.of(node.this)
            case exp.CurrentTimestamp():
                return TIMESTAMPTZ
            case exp.CurrentDate():
                return DATE
            case exp.Localtimestamp():
                return TIMESTAMP
            case exp.TimestampTrunc():
                return self.of(node.this) if self.of(node.this) in (TIMESTAMP, TIMESTAMPTZ) else TIMESTAMPTZ
            case exp.Sum() | exp.Avg():
                return FLOAT8 if self.of(node.this) == FLOAT8 else NUMERIC
            case exp.JSONExtract():
                return JSONB if self.of(node.this) == JSONB else JSON
            case exp.Anonymous():
                return _FUNCTIONS.get(node.name.lower(), TEXT)
        return self._by_kind(node)

    def _by_kind(self, node: exp.Expr) -> int:
        if isinstance(node, BOOLEANS):
            return BOOL
        if isinstance(node, _SAME):
            return self.of(node.this)
        if isinstance(node, _WHOLE):
            return INT8
        if isinstance(node, _SMALL):
            return INT4
        if isinstance(node, _ARITHMETIC):
            sides = [oid for oid in (self.of(node.this), self.of(node.expression)) if oid != TEXT]
            if not all(oid in INTEGERS for oid in sides):
                return NUMERIC if sides and all(oid in INTEGERS or oid == NUMERIC for oid in sides) else FLOAT8
            return INT4 if sides and all(oid in (INT4, INT2) for oid in sides) else INT8
        if isinstance(node, _CHOICES):
            return self._best([node.this, *node.expressions])
        if isinstance(node, _FRACTIONS):
            return NUMERIC if isinstance(node, exp.Extract) or self.of(node.this) == NUMERIC else FLOAT8
        return TEXT

    def _best(self, nodes: list[exp.Expr | None]) -> int:
        """Of several that become one column."""
        found = TEXT
        for node in nodes:
            if node is not None and not isinstance(node, exp.Null):
                found = _common(found, self.of(node))
        return found

    def column(self, column: exp.Column) -> int:
        """Raises Refused for a column that there is not (42703), or twice (42702)."""
        name, table = column.name, column.table
        above: exp.Expr | None = column.parent
        while above is not None:
            if isinstance(above, exp.Select | exp.Update | exp.Delete | exp.Insert):
                found = [oid for source in self.sources(above) if not table or source.name == table
                         for known, oid in source.columns if known == name]
                if len(found) > 1 and not table and not _shared(above, name):
                    raise refused("42702", f'column reference "{name}" is ambiguous')
                if found:
                    return found[0]
                if isinstance(above, exp.Insert) and table == "excluded":
                    return next((oid for source in self.sources(above) for known, oid in source.columns if known == name), TEXT)
                if (alias := _alias(above, column)) is not None:
                    return self.of(alias)
            elif isinstance(above, exp.SetOperation) and not table:
                for known, oid in self.columns(above):
                    if known == name:
                        return oid
            above = above.parent
        if table and not any(source.name == table for sources in self._sources.values() for source in sources):
            raise refused("42P01", f'missing FROM-clause entry for table "{table}"')
        raise refused("42703", f'column {f"{table}.{name}" if table else chr(34) + name + chr(34)} does not exist')

    # -- parameters ---------------------------------------------------------------------------------------

    def parameters(self) -> tuple[int, ...]:
        found: dict[int, int] = {}
        for node in self.tree.find_all(exp.Parameter):
            number = int(node.name)
            if not 0 < number <= 32_766:
                raise refused("42P02", f"there is no parameter ${node.name}")
            if found.get(number, TEXT) == TEXT:
                found[number] = self.of(node) if self.of(node) != TEXT else self._beside(node)
        for number in range(1, max(found, default=0) + 1):
            if number not in found and not (number <= len(self.oids) and self.oids[number - 1]):
                raise refused("42P18", f"could not determine data type of parameter ${number}")
        return tuple(found.get(number) or self.oids[number - 1] for number in range(1, max(found, default=0) + 1))

    def _beside(self, node: exp.Expr) -> int:
        parent = node.parent
        if isinstance(parent, exp.Paren | exp.Neg):
            return self._beside(parent)
        if isinstance(parent, COMPARED + _ARITHMETIC):
            if isinstance(parent.parent, exp.Update) and parent.this is not node:
                return self.assigned(parent.parent, parent.this)
            return self.of(parent.expression if parent.this is node else parent.this)
        if isinstance(parent, exp.Any):
            return ARRAY_OF.get(self.of(parent.parent.this) if parent.parent is not None else TEXT, ARRAY_OF[TEXT])
        if isinstance(parent, exp.Cast):
            if parent.to.is_type("array"):
                return ARRAY_OF.get(CASTS.get(cast_name(parent.to.expressions[0]), TEXT), ARRAY_OF[TEXT])
            return self.of(parent)
        if isinstance(parent, exp.Limit | exp.Offset | exp.Fetch):
            return INT8
        if isinstance(parent, exp.In | exp.Between):
            return self.of(parent.this) if parent.this is not node else self._best(list(parent.expressions))
        if isinstance(parent, _CHOICES):
            return self._best([each for each in (parent.this, *parent.expressions) if each is not node])
        if isinstance(parent, exp.Tuple | exp.Select) and isinstance(self.tree, exp.Insert):
            at = next(at for at, each in enumerate(parent.expressions) if each is node)
            targets = self.targets(self.tree)
            return targets[at][1] if at < len(targets) else TEXT
        return TEXT

    def targets(self, insert: exp.Insert) -> Columns:
        """The columns that an INSERT gives values for."""
        schema = insert.this
        known = dict(self._named(schema.this if isinstance(schema, exp.Schema) else schema))
        if not isinstance(schema, exp.Schema):
            return list(known.items())
        for column in schema.expressions:
            if column.name not in known:
                raise refused("42703", f'column "{column.name}" of relation "{schema.this.name}" does not exist')
        return [(column.name, known[column.name]) for column in schema.expressions]

    def assigned(self, update: exp.Expr, column: exp.Expr) -> int:
        """The type of a column that SET names."""
        table = update.this.this if isinstance(update.this, exp.Schema) else update.this
        known = dict(self._named(table))
        if column.name not in known:
            raise refused("42703", f'column "{column.name}" of relation "{table.name}" does not exist')
        return known[column.name]


def _tables(node: exp.Expr) -> Iterator[exp.Expr]:
    if isinstance(node, exp.Insert):
        yield node.this.this if isinstance(node.this, exp.Schema) else node.this
        return
    if isinstance(node, exp.Update | exp.Delete):
        yield node.this
    origin = node.args.get("from_")
    if origin is not None:
        yield origin.this
        yield from (join.this for join in origin.this.args.get("joins") or ())
    yield from (join.this for join in node.args.get("joins") or ())


def _shared(query: exp.Expr, name: str) -> bool:
    """Is it a column that JOIN ... USING makes one?"""
    return any(name in [column.name for column in join.args.get("using") or ()] for join in query.args.get("joins") or ())


def _alias(query: exp.Expr, column: exp.Column) -> exp.Expr | None:
    """ORDER BY and GROUP BY may name what the select list calls so."""
    within: exp.Expr | None = column.parent
    while within is not None and within is not query:
        if isinstance(within, exp.Order | exp.Group) and not column.table:
            return next((part for part in getattr(query, "selects", ())
                         if isinstance(part, exp.Alias) and part.alias == column.name), None)
        within = within.parent
    return None


def _number(text: str) -> int:
    if not text.isdigit():
        return NUMERIC
    if int(text) >= 1 << 63:
        raise unsupported("a number of this size")
    return INT4 if int(text) < 1 << 31 else INT8


def _common(one: int, other: int) -> int:
    """Where two meet: text is what nothing is known of."""
    if one == other or other == TEXT:
        return one
    if one == TEXT:
        return other
    numbers = INTEGERS | {FLOAT8, FLOAT4, NUMERIC}
    if one in numbers and other in numbers:
        return INT8 if one in INTEGERS and other in INTEGERS else FLOAT8 if FLOAT8 in (one, other) else NUMERIC
    if one in TEMPORAL and other in TEMPORAL:
        return TIMESTAMPTZ if TIMESTAMPTZ in (one, other) else TIMESTAMP
    return TEXT
