"""What PostgreSQL coerces of its own accord: constants beside something else, values that go into columns, casts."""

from __future__ import annotations

from sqlglot import exp

from proxy.gateway.engine import BOOL, FLOAT8, INT4, INT8, TEXT
from proxy.gateway.sqlite.faults import refused, unsupported
from proxy.gateway.sqlite.inference import TEMPORAL, Inference, cast_name
from proxy.gateway.sqlite.types import BYTEA, INT2, INTEGERS, JSON, JSONB, NUMERIC, UUID, VARCHAR

_CASTS = {INT2: "pg_int2", INT4: "pg_int4", INT8: "pg_int8", FLOAT8: "pg_float8", BOOL: "pg_bool", NUMERIC: "pg_float8",
          JSON: "pg_json", JSONB: "pg_json", UUID: "pg_uuid", BYTEA: "pg_bytea"} | dict.fromkeys(TEMPORAL, "pg_when")
_ASSIGNED = _CASTS | dict.fromkeys(TEMPORAL, "pg_stored")
_REWRITE = "You will need to rewrite or cast the expression."
_NO_OPERATOR = "No operator matches the given name and argument types. You might need to add explicit type casts."


def call(name: str, *arguments: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this=name, expressions=list(arguments))


def _wrap(name: str, value: exp.Expr, oid: int) -> None:
    """The value becomes the function's argument, where it stands."""
    parent, key, index = value.parent, value.arg_key, value.index
    assert parent is not None
    assert key is not None
    made = call(name, value)
    made.meta["oid"] = oid
    parent.set(key, made, index)


def assignments(tree: exp.Insert | exp.Update, types: Inference) -> None:
    """Of what an INSERT or UPDATE puts into columns."""
    if isinstance(tree, exp.Update):
        _sets(tree, types, tree.expressions)
        return
    conflict = tree.args.get("conflict")
    if conflict is not None:
        _sets(tree, types, conflict.expressions)
    targets, source = types.targets(tree), tree.expression
    if isinstance(source, exp.Values):
        rows = [row.expressions if isinstance(row, exp.Tuple) else [row] for row in source.expressions]
    elif isinstance(source, exp.Select) and not source.is_star:
        rows = [[part.this if isinstance(part, exp.Alias) else part for part in source.selects]]
    elif isinstance(source, exp.Query):
        found = [oid for _, oid in types.columns(source)]
        if any(oid != wanted and TEXT in (oid, wanted) for oid, (_, wanted) in zip(found, targets, strict=False)):
            raise unsupported("INSERT of this query", "Cast its columns to the types of the table's.")
        return
    else:
        return                            # DEFAULT VALUES
    for row in rows:
        if len(row) > len(targets):
            raise refused("42601", "INSERT has more expressions than target columns")
        if isinstance(tree.this, exp.Schema) and len(row) < len(targets):
            raise refused("42601", "INSERT has more target columns than expressions")
        for value, (_, oid) in zip(row, targets, strict=False):
            _assign(types, value, oid)

def _sets(tree: exp.Expr, types: Inference, sets: list[exp.Expr]) -> None:
    for pair in sets:
        if not isinstance(pair.this, exp.Column):
            raise unsupported("SET of several columns at once")
        within = tree if isinstance(tree, exp.Update) else exp.Update(this=tree.this.copy())
        if is_default(pair.expression):
            raise unsupported("DEFAULT in SET")
        _assign(types, pair.expression, types.assigned(within, pair.this))

def _assign(types: Inference, value: exp.Expr, oid: int) -> None:
    """PostgreSQL's assignment cast."""
    given = types.of(value)
    if isinstance(value, exp.Null) or (given == oid and not isinstance(value, exp.Literal)):
        return
    if isinstance(value, exp.Literal) and not value.is_string and oid in INTEGERS | {FLOAT8, NUMERIC} and given in (INT4, INT8):
        return
    if oid in (TEXT, VARCHAR) and given in (TEXT, VARCHAR):
        return
    if oid == BOOL and given not in (BOOL, TEXT):
        raise refused("42804", "column is of type boolean but expression is of another type", hint=_REWRITE)
    if given == BOOL and oid not in (BOOL, TEXT, VARCHAR):
        raise refused("42804", "column is of another type but expression is of type boolean", hint=_REWRITE)
    if given == BOOL:
        raise unsupported("a boolean as text")
    _wrap(_ASSIGNED.get(oid, "pg_text"), value, oid)


def compared(node: exp.Expr, types: Inference) -> None:
    """Constants, and texts beside something else, become what they are compared with."""
    sides = [side for side in (node.this, node.args.get("expression"), node.args.get("low"), node.args.get("high"),
                               *(node.args.get("expressions") or ())) if isinstance(side, exp.Expr)]
    oids = [types.of(side) for side in sides if not isinstance(side, exp.Any | exp.Tuple)]
    wanted = next((oid for oid in oids if oid not in (TEXT, VARCHAR)), TEXT)
    if wanted not in _CASTS:
        return
    for side in sides:
        given = types.of(side)
        if isinstance(side, exp.Null | exp.Boolean | exp.Any | exp.Tuple):
            continue
        if wanted in TEMPORAL and given in TEMPORAL:
            _wrap("pg_when", side, given)
            continue
        if given == wanted:
            continue
        if (isinstance(side, exp.Literal) and side.is_string) or isinstance(side, exp.Parameter):
            _wrap(_CASTS[wanted], side, wanted)
        elif TEXT in (given, wanted) or VARCHAR in (given, wanted) or BOOL in (given, wanted) or TEMPORAL & {given, wanted}:
            raise refused("42883", "operator does not exist: these two types are not compared",
                          hint=_NO_OPERATOR)

def cast(node: exp.Cast, types: Inference) -> exp.Expr:
    name, oid = cast_name(node.to), types.of(node)
    of, given = node.this, types.of(node.this)
    if name in ("VARCHAR", "CHAR", "BPCHAR", "TEXT", "NAME"):
        if given == BOOL:
            raise unsupported("a boolean as text")
        size = node.to.expressions[0].name if node.to.expressions else None
        if name in ("CHAR", "BPCHAR"):
            raise unsupported("a cast to character(n)")
        text = call("pg_text", of)
        return call("pg_left", text, exp.Literal.number(size)) if size else text
    if name == "DATE":
        return call("pg_day", of)
    if name == "DECIMAL" and node.to.expressions:
        scale = node.to.expressions[1].name if len(node.to.expressions) > 1 else "0"
        return call("pg_round_away", call("pg_float8", of), exp.Literal.number(scale))
    if given == NUMERIC and oid in INTEGERS:
        of = call("pg_round_away", of, exp.Literal.number(0))
    if oid in _CASTS and name not in ("TIMETZ", "TIME"):
        return call(_CASTS[oid], of)
    raise unsupported(f"a cast to {node.to.sql(dialect='postgres').lower()}")


def is_default(node: exp.Expr | None) -> bool:
    return isinstance(node, exp.Column | exp.Var | exp.Default if hasattr(exp, "Default") else exp.Column | exp.Var) and (
        not isinstance(node, exp.Column) or (not node.table and not node.this.quoted)) and node.name.lower() == "default"


def without_defaults(insert: exp.Insert, values: exp.Values) -> None:
    """DEFAULT, which SQLite's VALUES do not know: a column that has it in each row is left out."""
    schema = insert.this
    rows = [row.expressions for row in values.expressions if isinstance(row, exp.Tuple)]
    if not any(is_default(value) for row in rows for value in row):
        return
    if not isinstance(schema, exp.Schema):
        raise unsupported("DEFAULT in VALUES without a list of columns")
    gone = [at for at in range(len(schema.expressions)) if all(at < len(row) and is_default(row[at]) for row in rows)]
    for part in (schema, *values.expressions):
        part.set("expressions", [each for at, each in enumerate(part.expressions) if at not in gone])
    if any(is_default(value) for row in values.expressions for value in row.expressions):
        raise unsupported("DEFAULT in some of several rows")
    if not schema.expressions:
        insert.set("this", schema.this)
        insert.set("expression", None)
        insert.set("default", True)


