"""CREATE, ALTER and DROP in SQLite's words.

Types keep PostgreSQL's names, which is how the gateway knows them again; what the program that owns the file makes of them is
SQLite's affinity.  Conditions and defaults are kept in the file and evaluated by that program too, which has no function of ours:
so they may call none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlglot import exp

from proxy.gateway.sqlite.faults import refused, unsupported
from proxy.gateway.sqlite.inference import COMPARED, Declared, cast_name

_WORDS = {"INT": "integer", "BIGINT": "bigint", "SMALLINT": "smallint", "TEXT": "text", "VARCHAR": "varchar", "CHAR": "char",
          "BPCHAR": "char", "BOOLEAN": "boolean", "TIMESTAMP": "timestamp", "TIMESTAMPTZ": "timestamptz", "DATE": "date",
          "DOUBLE": "double precision", "FLOAT": "real", "DECIMAL": "numeric", "JSON": "json", "JSONB": "jsonb", "UUID": "uuid",
          "VARBINARY": "bytea", "NAME": "text"}
_SERIALS = frozenset(("SERIAL", "BIGSERIAL", "SMALLSERIAL"))
_KEPT = (*COMPARED, exp.And, exp.Or, exp.Not, exp.Paren, exp.Column, exp.Identifier, exp.Literal, exp.Null, exp.Boolean, exp.Is, exp.In,
         exp.Between, exp.Neg, exp.Cast, exp.DataType, exp.DataTypeParam, exp.CurrentTimestamp, exp.CurrentDate, exp.Tuple, exp.Length)


@dataclass(frozen=True, slots=True)
class Definition:
    sql: str
    tag: str


def define(tree: exp.Expr, text: str, declared: Declared) -> Definition:
    """Raises NotSupported or Refused.  `text` is the plain statement."""
    match tree:
        case exp.Create() if tree.kind == "TABLE":
            return Definition(_table(tree), "CREATE TABLE")
        case exp.Create() if tree.kind == "INDEX":
            return Definition(_index(tree), "CREATE INDEX")
        case exp.Drop() if tree.kind in ("TABLE", "INDEX", "VIEW"):
            return Definition(_drop(tree, declared), f"DROP {tree.kind}")
        case exp.Alter() if tree.kind == "TABLE":
            return Definition(_alter(tree), "ALTER TABLE")
        case exp.TruncateTable():
            names = [_name(table) for table in tree.expressions]
            return Definition("; ".join(f"DELETE FROM {name}" for name in names), "TRUNCATE TABLE")
    raise unsupported(text.split(maxsplit=1)[0].upper() if not isinstance(tree, exp.Create | exp.Drop | exp.Alter)
                      else " ".join(text.upper().split()[:2]),
                      "Queries, INSERT, UPDATE and DELETE, tables and indexes are.")


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _name(table: exp.Expr | None) -> str:
    if not isinstance(table, exp.Table) or table.catalog or table.db not in ("", "public", "main"):
        raise unsupported(f"the relation {table.sql(dialect='postgres') if table is not None else ''}")
    if table.name.lower().startswith("sqlite_"):
        raise refused("42501", f"permission denied: \"{table.name}\" is SQLite's own")
    return quoted(table.name)


def _names(nodes: list[exp.Expr]) -> str:
    return ", ".join(quoted(node.this.name if isinstance(node, exp.Ordered) else node.name) for node in nodes)


def _kept(condition: exp.Expr) -> str:
    """An expression that the file keeps."""
    for node in condition.walk():
        if not isinstance(node, _KEPT):
            raise unsupported(f"{str(node.key).upper().replace('_', ' ')} in a definition")
    found = condition.copy()
    for cast in list(found.find_all(exp.Cast)):                # 'x'::text, as pg_dump and PostgreSQL itself write defaults
        if not isinstance(cast.this, exp.Literal | exp.Null):
            raise unsupported("a cast in a definition")
        cast.replace(cast.this) if cast is not found else None
    return (found.this if isinstance(found, exp.Cast) else found).sql(dialect="sqlite")


def _table(tree: exp.Create) -> str:
    schema = tree.this
    if not isinstance(schema, exp.Schema) or tree.expression is not None:
        raise unsupported("CREATE TABLE ... AS")
    kinds = tree.args.get("properties")
    temporary = False
    for each in kinds.expressions if kinds is not None else ():
        if not isinstance(each, exp.TemporaryProperty):
            raise unsupported(f"{str(each.key).upper()} of a table")
        temporary = True
    keys = [each for each in schema.expressions if isinstance(each, exp.PrimaryKey)]
    alone = keys[0].expressions[0].name if keys and len(keys[0].expressions) == 1 else ""
    parts, serial = [], False
    for each in schema.expressions:
        if isinstance(each, exp.ColumnDef):
            words, numbered = _column(each, alone)
            serial = serial or (numbered and each.name == alone)
            parts.append(words)
        elif not (isinstance(each, exp.PrimaryKey) and serial):
            parts.append(_constraint(each))
    begins = "CREATE TEMPORARY TABLE " if temporary else "CREATE TABLE "
    return f"{begins}{'IF NOT EXISTS ' if tree.args.get('exists') else ''}{_name(schema.this)} ({', '.join(parts)})"


def _column(column: exp.ColumnDef, key: str) -> tuple[str, bool]:
    """The words of a column, and whether SQLite numbers it."""
    if column.kind is None:
        raise refused("42601", f'column "{column.name}" has no type')
    kind = cast_name(column.kind)
    constraints = [each.args["kind"] for each in column.args.get("constraints") or ()]
    numbered = kind in _SERIALS or any(isinstance(each, exp.GeneratedAsIdentityColumnConstraint) for each in constraints)
    primary = any(isinstance(each, exp.PrimaryKeyColumnConstraint) for each in constraints)
    if numbered:
        if not (primary or column.name == key):
            raise unsupported("a serial or identity column that is not the primary key")
        return f"{quoted(column.name)} integer PRIMARY KEY AUTOINCREMENT NOT NULL", True
    if kind not in _WORDS:
        raise unsupported(f"the type {column.kind.sql(dialect='postgres').lower()}")
    size = f"({', '.join(each.name for each in column.kind.expressions)})" if column.kind.expressions else ""
    words = [quoted(column.name), _WORDS[kind] + size]
    if primary and kind == "INT":             # `integer PRIMARY KEY` would be SQLite's row number, which takes NULL for the next one
        words[1] = "int"
    words += [_of_column(each) for each in column.args.get("constraints") or ()]
    if primary:
        words.append("NOT NULL")
    return " ".join(word for word in words if word), False


def _of_column(constraint: exp.Expr) -> str:
    named = f"CONSTRAINT {quoted(constraint.this.name)} " if constraint.this is not None else ""
    kind = constraint.args["kind"]
    match kind:
        case exp.NotNullColumnConstraint():
            return "NULL" if kind.args.get("allow_null") else named + "NOT NULL"
        case exp.PrimaryKeyColumnConstraint():
            return named + "PRIMARY KEY"
        case exp.UniqueColumnConstraint() if kind.this is None:
            return named + "UNIQUE"
        case exp.DefaultColumnConstraint():
            return f"DEFAULT ({_kept(kind.this)})"
        case exp.CheckColumnConstraint():
            return f"{named}CHECK ({_kept(kind.this)})"
        case exp.Reference():
            return named + _reference(kind)
    raise unsupported(f"{str(kind.key).upper()} of a column")


def _reference(reference: exp.Reference) -> str:
    into = reference.this
    columns = f" ({_names(into.expressions)})" if isinstance(into, exp.Schema) else ""
    table = into.this if isinstance(into, exp.Schema) else into
    options = [str(option) for option in reference.args.get("options") or ()]
    for option in options:
        if not re.fullmatch(r"(?i)on (delete|update) (cascade|restrict|set null|set default|no action)|deferrable|not deferrable|"
                            r"initially (deferred|immediate)", option.strip()):
            raise unsupported(f"REFERENCES ... {option}")
    return " ".join([f"REFERENCES {_name(table)}{columns}", *(option.upper() for option in options)])


def _constraint(node: exp.Expr) -> str:
    match node:
        case exp.PrimaryKey():
            return f"PRIMARY KEY ({_names(node.expressions)})"
        case exp.UniqueColumnConstraint() if isinstance(node.this, exp.Schema):
            return f"UNIQUE ({_names(node.this.expressions)})"
        case exp.CheckColumnConstraint():
            return f"CHECK ({_kept(node.this)})"
        case exp.ForeignKey():
            reference = node.args["reference"]
            actions = [f"ON {word.upper()} {node.args[word]}" for word in ("delete", "update") if node.args.get(word)]
            return " ".join([f"FOREIGN KEY ({_names(node.expressions)}) {_reference(reference)}", *actions])
        case exp.Constraint():
            return f"CONSTRAINT {quoted(node.this.name)} " + " ".join(map(_constraint, node.expressions))
    raise unsupported(f"{str(node.key).upper()} of a table")


def _index(tree: exp.Create) -> str:
    index = tree.this
    parameters = index.args.get("params")
    if index.this is None:
        raise unsupported("an index without a name")
    if parameters is None or (parameters.args.get("using") is not None and parameters.args["using"].name.lower() != "btree") or (
            parameters.args.get("include")):
        raise unsupported("this kind of index")
    columns = []
    for each in parameters.args.get("columns") or ():
        if not isinstance(each.this, exp.Column):
            raise unsupported("an index of expressions")
        columns.append(quoted(each.this.name) + (" DESC" if each.args.get("desc") else ""))
    where = parameters.args.get("where")
    table = index.args["table"]
    name = index.this.name
    return (f"CREATE {'UNIQUE ' if tree.args.get('unique') else ''}INDEX {'IF NOT EXISTS ' if tree.args.get('exists') else ''}"
            f"{quoted(name)} ON {_name(table)} ({', '.join(columns)})" + (f" WHERE {_kept(where.this)}" if where is not None else ""))


def _drop(tree: exp.Drop, declared: Declared) -> str:
    if tree.args.get("cascade") and tree.kind == "TABLE" and len(declared) > 1:
        raise unsupported("DROP TABLE ... CASCADE", "Drop what refers to the table first.")
    exists = "IF EXISTS " if tree.args.get("exists") else ""
    return "; ".join(f"DROP {tree.kind} {exists}{_name(table)}" for table in tree.args.get("tables") or [tree.this])


def _alter(tree: exp.Alter) -> str:
    table = _name(tree.this)
    actions = list(tree.args.get("actions") or ())
    if len(actions) != 1:
        raise unsupported("ALTER TABLE with several actions", "One at a time.")
    action: exp.Expr = actions[0]
    if isinstance(action, exp.ColumnDef):
        words, numbered = _column(action, "")
        if numbered:
            raise unsupported("ALTER TABLE ... ADD of a serial column")
        return f"ALTER TABLE {table} ADD COLUMN {words}"
    if isinstance(action, exp.RenameColumn):
        return f"ALTER TABLE {table} RENAME COLUMN {quoted(action.this.name)} TO {quoted(action.args['to'].name)}"
    if isinstance(action, exp.AlterRename):
        return f"ALTER TABLE {table} RENAME TO {quoted(action.this.name)}"
    if isinstance(action, exp.Drop) and action.kind == "COLUMN" and not action.args.get("cascade"):
        dropped = next(iter(action.args.get("tables") or [action.this]))
        return f"ALTER TABLE {table} DROP COLUMN {quoted(dropped.name)}"
    raise unsupported("this ALTER TABLE", "ADD COLUMN, DROP COLUMN and RENAME are.")
