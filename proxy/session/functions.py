"""Functions that a statement calls by name: the harmless, those whose consequence is known, and all others.

The harmless are a data file (harmless.txt), made from a real server's pg_proc by tests/harmless.py: what is immutable or
stable there, and the volatile that were looked at.  A name that is in no list is somebody's own code: the text cannot tell
what it does.  Someone who puts a function called `lower` in front of the server's in the search path is believed to mean well:
like a trigger or an operator of one's own, that is code of the database's owner behind an innocent text.
"""

from __future__ import annotations

from pathlib import Path

from proxy.session.consequences import Doubt, Effect, Notify, OwnState, Pin, Reason, Unpin, What

_LISTS: dict[str, set[str]] = {"f": set(), "g": set(), "k": set()}
for _line in Path(__file__).with_name("harmless.txt").read_text().splitlines():
    if _line[:2] in ("f ", "g ", "k "):
        _LISTS[_line[0]].add(_line[2:])

HARMLESS = frozenset(_LISTS["f"])
GRAMMAR = frozenset(_LISTS["g"])         # keywords that can never name a function
KEYWORDS = frozenset(_LISTS["k"])        # all keywords of all versions

# Words that may name a function, but do not behind these.
NOT_CALLED_BEHIND = {
    "over": {")"}, "filter": {")"}, "key": {"primary", "foreign", "no"}, "by": {"group", "order", "partition", "distinct"},
    "set": {"update"}, "insert": {"then"}, "update": {"then"}, "sets": {"grouping"}, "rollup": {"by", ","}, "join": {
        "inner", "left", "right", "full", "outer", "cross"}, "materialized": {"as", "not"}, "varying": {"character", "char", "bit"},
    "like": {"not"}, "ilike": {"not"}, "conflict": {"on"}, "include": {")"}, "first": {"fetch"}, "next": {"fetch"},
}

_PIDS = frozenset((
    "pg_backend_pid", "pg_cancel_backend", "pg_terminate_backend", "pg_blocking_pids", "pg_safe_snapshot_blocking_pids",
    "pg_isolation_test_session_is_blocked", "pg_log_backend_memory_contexts", "pg_stat_get_backend_io", "pg_stat_get_backend_wal",
    "pg_stat_reset_backend_stats", "pg_stat_get_activity"))

_BACKENDS = OwnState(What.BACKEND)

CONSEQUENCES: dict[str, tuple[Effect, ...]] = {
    **{name: (Pin(Reason.ADVISORY, name),) for name in (
        "pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared")},
    **{name: (Unpin(Reason.ADVISORY, name),) for name in ("pg_advisory_unlock", "pg_advisory_unlock_shared", "pg_advisory_unlock_all")},
    **{name: (Pin(Reason.SEQUENCE, name),) for name in ("currval", "lastval")},
    "setseed": (Pin(Reason.SEED, "setseed"),),
    **{name: (Pin(Reason.REPLICATION, name),) for name in (
        "pg_replication_origin_session_setup", "pg_create_physical_replication_slot", "pg_create_logical_replication_slot",
        "pg_copy_physical_replication_slot", "pg_copy_logical_replication_slot")},
    "pg_replication_origin_session_reset": (Unpin(Reason.REPLICATION, "pg_replication_origin_session_reset"),),
    "pg_drop_replication_slot": (Unpin(Reason.REPLICATION, "pg_drop_replication_slot"),),
    **{name: (Pin(Reason.BACKUP, name),) for name in ("pg_backup_start", "pg_start_backup")},
    **{name: (Unpin(Reason.BACKUP, name),) for name in ("pg_backup_stop", "pg_stop_backup")},
    **{name: (Pin(Reason.EXTENSION, name),) for name in (
        "dblink_connect", "dblink_connect_u", "dblink_open", "dblink_send_query", "set_limit", "start_auto_explain")},
    **{name: (Unpin(Reason.EXTENSION, name),) for name in ("dblink_disconnect", "dblink_close")},
    "pg_notify": (Notify(None),),
    "pg_listening_channels": (OwnState(What.CHANNELS),),
    "pg_prepared_statement": (OwnState(What.PREPARED),),
    "pg_cursor": (OwnState(What.CURSORS),),
    **{name: (OwnState(What.TEMPORARY),) for name in ("pg_my_temp_schema", "pg_is_other_temp_schema")},
    **dict.fromkeys(("pg_lock_status", "pg_stat_get_backend_idset", "pg_stat_get_backend_pid"), (_BACKENDS,)),
    **dict.fromkeys(_PIDS, ()),
    "set_config": (Pin(Reason.SETTING, "set_config"),),
    # SQL in a string, or rows of whatever view: as good as unknown
    **{name: (Doubt(Reason.CODE, name),) for name in (
        "query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "cursor_to_xml", "cursor_to_xmlschema", "table_to_xml",
        "table_to_xmlschema", "table_to_xml_and_xmlschema", "schema_to_xml", "schema_to_xmlschema", "schema_to_xml_and_xmlschema",
        "database_to_xml", "database_to_xmlschema", "database_to_xml_and_xmlschema", "ts_stat", "ts_rewrite",
        "plpgsql_call_handler", "plpgsql_inline_handler", "plpgsql_validator", "lo_import", "lo_export")},
}

# Views whose rows are about the session that asks, or about backends by their ids.
VIEWS: dict[str, OwnState] = {
    "pg_stat_activity": _BACKENDS, "pg_locks": _BACKENDS, "pg_stat_ssl": _BACKENDS, "pg_stat_gssapi": _BACKENDS,
    "pg_stat_replication": _BACKENDS, "pg_stat_wal_receiver": _BACKENDS,
    **{f"pg_stat_progress_{what}": _BACKENDS for what in ("vacuum", "analyze", "create_index", "cluster", "copy", "basebackup")},
    "pg_backend_memory_contexts": _BACKENDS,
    "pg_prepared_statements": OwnState(What.PREPARED), "pg_cursors": OwnState(What.CURSORS),
}


def about_pids(name: str) -> bool:
    return name in _PIDS or name.startswith("pg_stat_get_backend_")
