"""A query in PostgreSQL's SQL -> the same in SQLite's, and the names that PostgreSQL would give to its columns.

Programs find columns by name (knex reads `rows[0].version`), so the names follow FigureColname of PostgreSQL's parser:
an alias, a column, a function as it was written, a cast's operand or else its type, `?column?`.
"""

from __future__ import annotations

import re

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from proxy.errors import NotSupported

_TYPE_NAMES = {"INT": "int4", "BIGINT": "int8", "SMALLINT": "int2", "BOOLEAN": "bool", "DOUBLE": "float8", "FLOAT": "float4",
               "DECIMAL": "numeric", "VARCHAR": "varchar", "CHAR": "bpchar", "TIMESTAMPTZ": "timestamptz"}
_KEYWORDS = {exp.Exists: "exists", exp.Array: "array", exp.CurrentUser: "current_user",
             exp.CurrentTimestamp: "current_timestamp", exp.CurrentDate: "current_date", exp.SessionUser: "session_user",
             exp.CurrentCatalog: "current_catalog", exp.CurrentSchema: "current_schema"}
_SPELT: dict[type[exp.Expr], str] = {
    exp.StrPosition: "position", exp.Substring: "substring", exp.Extract: "extract", exp.Floor: "floor", exp.Ceil: "ceil",
    exp.GroupConcat: "string_agg", exp.Initcap: "initcap"}
_TRIMS = {"LEADING": "ltrim", "TRAILING": "rtrim"}
_FUNCTIONS = re.compile(r"\bCURRENT_(USER|CATALOG|SCHEMA)\b(?!\()|\bSESSION_USER\b(?!\()")


def syntax_error(sql: str) -> NotSupported:
    fault = NotSupported(f'syntax error in "{sql.strip()[:40]}"')
    fault.sqlstate = "42601"
    return fault


def translate(sql: str) -> tuple[str, list[str]]:
    """SQLite's SQL and the names of the columns.  Raises NotSupported (0A000, or 42601 for what cannot be parsed)."""
    try:
        tree = sqlglot.parse_one(sql, read="postgres")
    except (SqlglotError, RecursionError):
        raise syntax_error(sql) from None
    if not isinstance(tree, exp.Query):
        raise NotSupported("the maintenance database answers queries about databases and creates them",
                           hint="Connect to a plugin's database for anything else.")
    columns = [column_name(part, sql) for part in tree.selects]
    for table in tree.find_all(exp.Table):
        schema = table.db
        table.set("db", None)
        table.set("catalog", None)
        if schema == "information_schema":
            table.set("this", exp.to_identifier(f"information_schema_{table.name}"))
    for dot in list(tree.find_all(exp.Dot)):
        if isinstance(dot.expression, exp.Func) and dot.this.name == "pg_catalog":
            dot.replace(dot.expression)
    for text in list(tree.find_all(exp.ByteString)):      # E'...' is text with escapes, as good as a plain literal
        text.replace(exp.Literal.string(text.name))
    query = tree.sql(dialect="sqlite").replace("SQLITE_VERSION()", "version()")
    return _FUNCTIONS.sub(lambda match: match[0].lower() + "()", query), columns


def column_name(part: exp.Expr, sql: str) -> str:
    """What PostgreSQL calls this column of the select list of `sql`."""
    return _figured(part, sql) or "?column?"


def _figured(part: exp.Expr, sql: str) -> str:
    if isinstance(part, (exp.Alias, exp.Column)) or (part.is_star and not isinstance(part, exp.Func)):
        return str(part.alias_or_name) or "*"
    if isinstance(part, exp.Dot):
        return _figured(part.expression, sql)
    if isinstance(part, exp.Cast):
        inner = _figured(part.this, sql)
        kind = part.to.this
        named = str(getattr(kind, "name", kind))
        return inner or _TYPE_NAMES.get(named, named.lower())
    if isinstance(part, exp.Paren | exp.Window | exp.Filter | exp.Collate):
        return _figured(part.this, sql)
    if isinstance(part, exp.Subquery):
        return _figured(part.this.selects[0], sql) if part.this.selects else ""
    if isinstance(part, exp.Case):
        default = part.args.get("default")
        return (_figured(default, sql) if default is not None else "") or "case"
    if isinstance(part, exp.Func) and "start" in part.meta:                  # a function: as it is written there
        return sql[part.meta["start"]:part.meta["end"] + 1].strip('"').lower()
    if isinstance(part, exp.Trim):
        return _TRIMS.get(str(part.args.get("position") or ""), "btrim")
    if type(part) in _SPELT:
        return _SPELT[type(part)]
    return next((name for kind, name in _KEYWORDS.items() if isinstance(part, kind)), "")
