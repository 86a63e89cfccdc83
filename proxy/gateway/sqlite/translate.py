"""PostgreSQL's SQL as SQLite's, with the same meaning, or not at all.

sqlglot reads the one and writes the other.  It is asked for nothing that this list does not know: a node of any other kind is
refused (0A000), since what it would be written as may mean something else.  What both have and mean differently is called by a
function of ours: arithmetic, casts, times, case.  What PostgreSQL would coerce - a constant beside a column, a value that goes
into one - is coerced here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from proxy.gateway.engine import BOOL, FLOAT8, TEXT
from proxy.gateway.sqlite.coercion import assignments, call, cast, compared, is_default, without_defaults
from proxy.gateway.sqlite.definitions import define
from proxy.gateway.sqlite.faults import refused, unsupported
from proxy.gateway.sqlite.functions import NAMES, NATIVE, SAME
from proxy.gateway.sqlite.grouping import check_groups
from proxy.gateway.sqlite.inference import COMPARED, TEMPORAL, Declared, Inference
from proxy.gateway.sqlite.moments import understood
from proxy.gateway.sqlite.normal import plain
from proxy.gateway.sqlite.types import NUMERIC, VARCHAR
from proxy.gateway.translate import column_name

_FINE: tuple[type[exp.Expr], ...] = (
    exp.Select, exp.Union, exp.Intersect, exp.Except, exp.Subquery, exp.With, exp.CTE, exp.Values, exp.Tuple, exp.From, exp.Join,
    exp.Where, exp.Group, exp.Having, exp.Order, exp.Ordered, exp.Limit, exp.Offset, exp.Fetch, exp.LimitOptions, exp.Table,
    exp.TableAlias, exp.Alias, exp.Column, exp.Identifier, exp.Star, exp.Literal, exp.Boolean, exp.Null, exp.Parameter, exp.Var,
    exp.And, exp.Or, exp.Not, exp.Paren, exp.Neg, exp.Is, exp.In, exp.Between, exp.Like, exp.ILike, exp.Escape, *COMPARED,
    exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.BitwiseAnd, exp.BitwiseOr, exp.DPipe, exp.Case, exp.If, exp.Coalesce,
    exp.Nullif, exp.Exists, exp.Count, exp.Sum, exp.Min, exp.Max, exp.Avg, exp.GroupConcat, exp.LogicalAnd, exp.LogicalOr, exp.Cast,
    exp.DataType, exp.DataTypeParam, exp.Distinct, exp.Filter, exp.Window, exp.WindowSpec, exp.RowNumber, exp.Rank, exp.DenseRank,
    exp.Lag, exp.Lead, exp.FirstValue, exp.LastValue, exp.Anonymous, exp.Insert, exp.Update, exp.Delete, exp.Schema, exp.OnConflict,
    exp.Returning, exp.Collate, exp.Any, exp.Interval, exp.Dot, exp.JSONExtract, exp.JSONExtractScalar, exp.JSONPath, exp.JSONPathRoot,
    exp.JSONPathKey, exp.JSONPathSubscript, exp.Trim, exp.Extract, exp.TimestampTrunc, *NAMES)
_OPERATORS: dict[type[exp.Expr], str] = {
    exp.Div: "pg_div", exp.Mod: "pg_mod", exp.Add: "pg_add", exp.Sub: "pg_sub", exp.Mul: "pg_mul"}


logging.getLogger("sqlglot").setLevel(logging.ERROR)          # its warnings quote statements


@dataclass(frozen=True, slots=True)
class Translation:
    """`sql`: one statement, or several; `kind`: select, insert, update, delete, or the tag of a definition; `columns`: names and
    types of what it gives, None where it gives nothing."""

    sql: str
    kind: str
    columns: tuple[tuple[str, int], ...] | None
    parameters: tuple[int, ...]
    width: int = 0


def parse(text: str) -> exp.Expr:
    """Of `plain` text."""
    try:
        tree = sqlglot.parse_one(text, read="postgres")
    except (SqlglotError, RecursionError):
        raise refused("42601", f'syntax error in "{text[:60]}"') from None
    if tree.find(exp.Parameter) is not None:                   # `@name`, which PostgreSQL does not know
        raise refused("42601", 'syntax error at or near "@"')
    for column in list(tree.find_all(exp.Column)):
        if column.name.startswith("$"):
            column.replace(exp.Parameter(this=exp.Literal.number(column.name[1:])))
    return tree


def translate(sql: str, declared: Declared, oids: tuple[int, ...] = ()) -> Translation:
    """Raises NotSupported (0A000) or Refused with PostgreSQL's SQLSTATE."""
    text = plain(sql)
    try:
        return _translated(text, parse(text), declared, oids)
    except (AttributeError, KeyError, IndexError, TypeError, RecursionError):
        # sqlglot also makes trees of what is no SQL, with holes where a table or a name should be.
        raise unsupported("a statement of this form") from None


def _translated(text: str, tree: exp.Expr, declared: Declared, oids: tuple[int, ...]) -> Translation:
    if isinstance(tree, exp.Insert | exp.Update | exp.Delete) and not isinstance(tree.this, exp.Table | exp.Schema):
        raise refused("42601", f'syntax error in "{text[:60]}"')
    if isinstance(tree, exp.Query):
        kind = "select"
    elif isinstance(tree, exp.Insert | exp.Update | exp.Delete):
        kind = tree.key
    else:
        made = define(tree, text, declared)
        return Translation(made.sql, made.tag, None, ())
    if any(node is not tree for node in tree.find_all(exp.Insert, exp.Update, exp.Delete)):
        raise unsupported("a change inside of a query")
    return _Translator(tree, text, declared, oids).translation(kind)


class _Translator:
    def __init__(self, tree: exp.Expr, text: str, declared: Declared, oids: tuple[int, ...]) -> None:
        self.tree, self.text = tree, text
        self.types = Inference(tree, declared, oids)

    def translation(self, kind: str) -> Translation:
        if isinstance(self.tree, exp.Insert) and isinstance(self.tree.expression, exp.Values):
            without_defaults(self.tree, self.tree.expression)
        for select in list(self.tree.find_all(exp.Select)):
            self._name(select)
        order = list(self.tree.walk(bfs=False))
        for node in order:
            self._known(node)
        for node in order:
            if isinstance(node, exp.Select):
                check_groups(node)
        columns = self._columns()
        parameters = self.types.parameters()
        for node in order:                    # all types are asked for before anything is changed
            self.types.of(node) if isinstance(node, exp.Condition) and not _passive(node) else None
        if isinstance(self.tree, exp.Insert | exp.Update):
            assignments(self.tree, self.types)
        for node in reversed(order):
            new = self._equal(node)
            if new is not node:
                if "oid" in node.meta:
                    new.meta["oid"] = node.meta["oid"]
                if node is self.tree:
                    self.tree = new
                else:
                    node.replace(new)
        return Translation(self.tree.sql(dialect="sqlite", copy=False), kind, columns, parameters)

    def _name(self, select: exp.Select) -> None:
        """Items keep the names that PostgreSQL gives them, whatever becomes of them: who stands outside may use them."""
        select.set("expressions", [part if isinstance(part, exp.Alias) or part.is_star or not (name := column_name(part, self.text))
                                   or name == "?column?" else exp.alias_(part, name, quoted=True, copy=False)
                                   for part in select.expressions])

    def _columns(self) -> tuple[tuple[str, int], ...] | None:
        tree = self.tree
        if isinstance(tree, exp.Query):
            first = tree
            while isinstance(first, exp.SetOperation | exp.Subquery):
                first = first.left if isinstance(first, exp.SetOperation) else first.this
            names = [column_name(part, self.text) for part in first.selects] if isinstance(first, exp.Select) else None
            return tuple(self.types.columns(tree, names))
        returning = tree.args.get("returning")
        if returning is None:
            return None
        return tuple(each for part in returning.expressions for each in self.types.item(tree, part, column_name(part, self.text)))

    # -- what there is ------------------------------------------------------------------------------------

    def _known(self, node: exp.Expr) -> None:
        if not isinstance(node, _FINE) and not (isinstance(node, exp.Func) and type(node) in NATIVE):
            raise unsupported(str(node.key).upper().replace("_", " "))
        match node:
            case exp.Min() | exp.Max() if node.args.get("expressions"):
                raise unsupported("this call")
            case exp.Distinct() if node.args.get("on"):
                raise unsupported("DISTINCT ON")
            case exp.Select() if node.args.get("locks"):
                raise unsupported("FOR UPDATE and FOR SHARE", "A file has one writer at a time: BEGIN and change something.")
            case exp.Select() if node.args.get("into"):
                raise unsupported("SELECT INTO")
            case exp.Delete() if node.args.get("using"):
                raise unsupported("DELETE ... USING")
            case exp.Join() if node.args.get("side") and not (node.args.get("on") or node.args.get("using")):
                raise unsupported("this JOIN")
            case exp.Join() if isinstance(node.this, exp.Lateral):
                raise unsupported("LATERAL")
            case exp.Table():
                self._table(node)
            case exp.Dot() if not (isinstance(node.expression, exp.Func) and node.this.name == "pg_catalog"):
                raise unsupported("a composite value")
            case exp.Anonymous() if node.name.lower() not in SAME:
                raise unsupported(f"function {node.name.lower()}()")
            case exp.Any() if _array_of(node) is None:
                raise unsupported("ANY of what is no parameter")
            case exp.Interval() if not _simple(node):
                raise unsupported("INTERVAL of this form")
            case exp.DPipe() if BOOL in (self.types.of(node.this), self.types.of(node.expression)):
                raise unsupported("a boolean as text")
            case exp.Collate() if node.expression.name.lower() not in ("c", "posix", "default", "ucs_basic"):
                raise unsupported("this collation")
            case exp.OnConflict() if node.args.get("constraint"):
                raise unsupported("ON CONFLICT ON CONSTRAINT", "Name the columns.")
            case exp.Between() if node.args.get("symmetric"):
                raise unsupported("BETWEEN SYMMETRIC")

    @staticmethod
    def _table(node: exp.Table) -> None:
        schema = node.db
        if schema not in ("", "public", "main") or node.catalog or isinstance(node.this, exp.Func):
            raise unsupported(f"the relation {node.sql(dialect='postgres')}")
        if node.args.get("sample") or node.args.get("pivots"):
            raise unsupported("TABLESAMPLE")

    # -- rules --------------------------------------------------------------------------------------------

    def _equal(self, node: exp.Expr) -> exp.Expr:
        """The node as SQLite has it; what is below it is so already."""
        kind = type(node)
        if isinstance(node, exp.Add | exp.Sub) and isinstance(node.expression, exp.Interval):
            if self.types.of(node.this) not in TEMPORAL:
                raise unsupported("an INTERVAL beside what is no time")
            sign = exp.Literal.number(1 if kind is exp.Add else -1)
            return call("pg_shift", node.this, sign, exp.Literal.string(_words(node.expression)))
        if kind in _OPERATORS:
            if self._moments(node):
                raise unsupported("arithmetic with times")
            kinds = {self.types.of(node.this), self.types.of(node.expression)}
            real = FLOAT8 in kinds or (kind is exp.Div and NUMERIC in kinds)
            return call(_OPERATORS[kind], call("pg_real", node.this) if real else node.this, node.expression)
        if isinstance(node, (*COMPARED, exp.Between, exp.In)) and not isinstance(node.parent, exp.Update | exp.OnConflict):
            compared(node, self.types)
            if isinstance(node, exp.EQ | exp.NEQ) and isinstance(node.expression, exp.Any):
                return _among(node)
            return node
        if isinstance(node, exp.Column) and not _passive(node) and not _of_result(node) and self.types.of(node) in TEMPORAL:
            return call("pg_when", node.copy())
        if kind is exp.Round and self.types.of(node.this) == NUMERIC:
            return call("pg_round_away", node.this, node.args.get("decimals") or exp.Literal.number(0))
        if kind in NAMES:
            return call(NAMES[kind], *_arguments(node))
        match node:
            case exp.Table():
                node.set("db", None)
            case exp.Dot():
                called: exp.Expr = node.expression
                return called
            case exp.Insert() if node.args.get("conflict") is not None and isinstance(node.expression, exp.Query):
                _ended(node.expression)
            case exp.OnConflict():
                keys = node.args.get("conflict_keys") or ()
                node.set("conflict_keys", [part.this if isinstance(part, exp.Ordered) else part for part in keys])
            case exp.ILike():
                return _like(exp.Like(this=call("lower", node.this), expression=call("lower", node.expression)), node)
            case exp.Like():
                return _like(node, node)
            case exp.Cast() if not node.to.is_type("array"):
                return cast(node, self.types)
            case exp.DPipe():
                for key, side in (("this", node.this), ("expression", node.expression)):
                    if self.types.of(side) not in (TEXT, VARCHAR) and not isinstance(side, exp.Literal):
                        node.set(key, call("pg_text", side))
            case exp.Collate(this=exp.Expr() as plainly):
                return plainly
            case exp.JSONExtract() | exp.JSONExtractScalar():
                return call("pg_json_get" if kind is exp.JSONExtract else "pg_json_text", node.this, _json_key(node))
            case exp.Trim():
                return call({"LEADING": "pg_ltrim", "TRAILING": "pg_rtrim"}.get(str(node.args.get("position") or ""), "pg_trim"),
                             node.this, node.expression or exp.Literal.string(" "))
            case exp.Extract():
                return call("pg_extract", exp.Literal.string(node.this.name.lower()), node.expression)
            case exp.TimestampTrunc():
                return call("pg_trunc", exp.Literal.string(node.args["unit"].name.lower()), node.this)
            case exp.LogicalAnd() | exp.LogicalOr():
                return exp.Min(this=node.this) if kind is exp.LogicalAnd else exp.Max(this=node.this)
        return node

    def _moments(self, node: exp.Expr) -> bool:
        return any(self.types.of(side) in TEMPORAL for side in (node.this, node.expression) if side is not None)


_KEYS = ("this", "expression", "start", "length", "substr", "decimals", "times", "delimiter", "part_index", "replacement")


def _arguments(node: exp.Expr) -> list[exp.Expr]:
    found: list[exp.Expr] = []
    for key in _KEYS:
        value = node.args.get(key)
        if isinstance(value, exp.Expr):
            found.append(value)
    found += [each for each in node.args.get("expressions") or () if isinstance(each, exp.Expr)]
    return found


def _like(like: exp.Expr, node: exp.Expr) -> exp.Expr:
    if isinstance(node.parent, exp.Escape):
        return like
    return exp.Escape(this=like.copy(), expression=exp.Literal.string("\\"))


def _among(node: exp.Expr) -> exp.Expr:
    """`x = ANY($1)`: of an array that came as a parameter."""
    if isinstance(node, exp.NEQ):
        raise unsupported("<> ANY")
    array = _array_of(node.expression)
    assert array is not None
    return call("pg_among", node.this, array)


def _array_of(node: exp.Expr) -> exp.Parameter | None:
    """`$1` of ANY($1) and ANY($1::text[])."""
    inner = node.this if isinstance(node, exp.Any) else node
    while isinstance(inner, exp.Paren) or (isinstance(inner, exp.Cast) and inner.to.is_type("array")):
        inner = inner.this
    return inner if isinstance(inner, exp.Parameter) else None


def _words(interval: exp.Expr) -> str:
    unit = interval.args.get("unit")
    return f"{interval.this.name} {unit.name if unit is not None else ''}".strip()


def _simple(interval: exp.Expr) -> bool:
    beside = isinstance(interval.parent, exp.Add | exp.Sub) and interval.arg_key == "expression"
    return beside and isinstance(interval.this, exp.Literal) and understood(_words(interval))


def _json_key(node: exp.Expr) -> exp.Expr:
    path = node.expression
    steps = [step for step in path.expressions if not isinstance(step, exp.JSONPathRoot)] if isinstance(path, exp.JSONPath) else []
    if len(steps) != 1:
        raise unsupported("this JSON path")
    key = steps[0].this
    if not isinstance(key, int | str):
        raise unsupported("this JSON path")
    return exp.Literal.number(key) if isinstance(key, int) else exp.Literal.string(key)


def _target(column: exp.Column) -> bool:
    """Does it name a place, not what is in it?"""
    parent = column.parent
    if isinstance(parent, exp.EQ) and isinstance(parent.parent, exp.Update | exp.OnConflict):
        return parent.this is column
    within = parent.parent if isinstance(parent, exp.Ordered) else parent
    return isinstance(within, exp.OnConflict | exp.Insert | exp.Schema) or (
        isinstance(within, exp.Join) and column in (within.args.get("using") or ()))


def _of_result(column: exp.Column) -> bool:
    """ORDER BY behind a UNION names columns of the result, and SQLite takes nothing but names there."""
    ordered = column.parent
    return isinstance(ordered, exp.Ordered) and ordered.parent is not None and isinstance(ordered.parent.parent, exp.SetOperation)


def _ended(query: exp.Query) -> None:
    """SQLite would read the ON of ON CONFLICT as a join's: it must be told that FROM has ended."""
    last: exp.Expr = query
    while isinstance(last, exp.SetOperation) and not any(last.args.get(key) for key in ("order", "limit")):
        last = last.expression
    if isinstance(last, exp.Select) and not any(last.args.get(key) for key in ("where", "group", "having", "order", "limit", "offset")):
        last.set("where", exp.Where(this=exp.true()))


def _passive(node: exp.Expr) -> bool:
    return isinstance(node, exp.Identifier | exp.Star | exp.DataType | exp.Var | exp.Tuple | exp.Any) or (
        isinstance(node, exp.Column) and (isinstance(node.this, exp.Star) or is_default(node) or _target(node)))
