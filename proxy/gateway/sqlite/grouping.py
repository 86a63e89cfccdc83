"""A column beside an aggregate must be grouped by: PostgreSQL refuses what SQLite answers with any row's value (42803)."""

from __future__ import annotations

from sqlglot import exp

from proxy.gateway.sqlite.faults import refused


def check_groups(select: exp.Select) -> None:
    """Raises Refused."""
    group = select.args.get("group")
    items = [part.this if isinstance(part, exp.Alias) else part for part in select.selects]
    having, order = select.args.get("having"), select.args.get("order")
    looked_at = [*items, *([having.this] if having is not None else []), *(order.expressions if order is not None else [])]
    if group is None and having is None and not any(_aggregates(part, select) for part in looked_at):
        return
    by: set[str] = set()
    for key in group.expressions if group is not None else ():
        if isinstance(key, exp.Literal) and not key.is_string and key.name.isdigit() and 0 < int(key.name) <= len(items):
            by.add(_said(items[int(key.name) - 1]))
        else:
            by.add(_said(key))
            by.update(_said(part.this) for part in select.selects if isinstance(part, exp.Alias) and part.alias == key.name)
    aliases = {part.alias for part in select.selects if isinstance(part, exp.Alias)}
    for part in items:
        _check(part, by, set(), select)
    for part in looked_at[len(items):]:
        _check(part, by, aliases, select)


def _said(node: exp.Expr) -> str:
    return node.name if isinstance(node, exp.Column) else node.sql()


def _aggregates(node: exp.Expr, select: exp.Select) -> bool:
    return any(each.find_ancestor(exp.Select) is select and each.find_ancestor(exp.Window) is None
               for each in node.find_all(exp.AggFunc))


def _check(node: exp.Expr, by: set[str], aliases: set[str], select: exp.Select) -> None:
    if _said(node) in by or isinstance(node, exp.AggFunc | exp.Filter | exp.Query):
        return
    if isinstance(node, exp.Column):
        if node.table == "" and node.name in aliases:
            return
        raise refused("42803", f'column "{f"{node.table}." if node.table else ""}{node.name}" must appear in the GROUP BY clause or be '
                               "used in an aggregate function")
    if isinstance(node, exp.Star):
        raise refused("42803", "* must appear in the GROUP BY clause or be used in an aggregate function")
    for child in node.iter_expressions():
        _check(child, by, aliases, select)
