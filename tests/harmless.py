"""Write proxy/session/harmless.txt anew: names in pg_catalog that leave nothing in a session.

    python -m tests.harmless BINARIES...      folders with initdb and postgres; the newest first

Immutable and stable functions count by themselves; a volatile one only when somebody has looked at it: VOLATILE.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.servers import ROOT, Postgres

FILE = ROOT / "proxy/session/harmless.txt"

# Looked at: they change data, files or shared state, or only tell; nothing of it belongs to a session beyond its transaction.
_LOOKED_AT = """
    array_sample array_shuffle bernoulli system brin_desummarize_range brin_summarize_new_values brin_summarize_range
    clock_timestamp current_query currtid2 gen_random_uuid gin_clean_pending_list lo_close lo_creat lo_create lo_from_bytea lo_get
    lo_lseek lo_lseek64 lo_open lo_put lo_tell lo_tell64 lo_truncate lo_truncate64 lo_unlink loread lowrite nextval setval
    pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared
    pg_available_wal_summaries pg_clear_attribute_stats pg_clear_relation_stats pg_collation_actual_version pg_control_checkpoint
    pg_control_init pg_control_recovery pg_control_system pg_create_restore_point pg_current_logfile pg_current_wal_flush_lsn
    pg_current_wal_insert_lsn pg_current_wal_lsn pg_database_collation_actual_version pg_database_size pg_export_snapshot
    pg_extension_config_dump pg_get_multixact_members pg_get_sequence_data pg_get_wal_replay_pause_state
    pg_get_wal_summarizer_state pg_hba_file_rules pg_ident_file_mappings pg_import_system_collations pg_indexes_size
    pg_is_in_recovery pg_is_wal_replay_paused pg_jit_available pg_last_committed_xact pg_last_wal_receive_lsn
    pg_last_wal_replay_lsn pg_last_xact_replay_timestamp pg_log_standby_snapshot pg_logical_emit_message
    pg_logical_slot_get_binary_changes pg_logical_slot_get_changes pg_logical_slot_peek_binary_changes
    pg_logical_slot_peek_changes pg_ls_archive_statusdir pg_ls_dir pg_ls_logdir pg_ls_logicalmapdir pg_ls_logicalsnapdir
    pg_ls_replslotdir pg_ls_summariesdir pg_ls_tmpdir pg_ls_waldir pg_notification_queue_usage pg_partition_ancestors
    pg_partition_tree pg_prepared_xact pg_promote pg_read_binary_file pg_read_file pg_relation_size pg_reload_conf
    pg_replication_origin_advance pg_replication_origin_create pg_replication_origin_drop pg_replication_origin_progress
    pg_replication_slot_advance pg_restore_attribute_stats pg_restore_relation_stats pg_rotate_logfile pg_sequence_last_value
    pg_show_all_file_settings pg_show_replication_origin_status pg_sleep pg_sleep_for pg_sleep_until pg_stat_clear_snapshot
    pg_stat_file pg_stat_force_next_flush pg_stat_get_io pg_stat_get_recovery_prefetch pg_stat_have_stats pg_stat_reset
    pg_stat_reset_replication_slot pg_stat_reset_shared pg_stat_reset_single_function_counters pg_stat_reset_single_table_counters
    pg_stat_reset_slru pg_stat_reset_subscription_stats pg_switch_wal pg_sync_replication_slots pg_table_size pg_tablespace_size
    pg_total_relation_size pg_wal_replay_pause pg_wal_replay_resume pg_wal_summary_contents pg_xact_commit_timestamp
    pg_xact_commit_timestamp_origin pg_xact_status random random_normal suppress_redundant_updates_trigger timeofday
    tsvector_update_trigger tsvector_update_trigger_column txid_status uuidv4 uuidv7
"""
VOLATILE = frozenset(_LOOKED_AT.split())


def names(server: Postgres) -> tuple[set[str], set[str]]:
    """(harmless by their mark or by VOLATILE, all) of a running server."""
    rows = server.sql("select proname, bool_or(provolatile = 'v') from pg_proc "
                      "where pronamespace = 'pg_catalog'::regnamespace group by 1")
    return {name for name, volatile in rows if not volatile or name in VOLATILE}, {name for name, _ in rows}


def harmless(found: set[str]) -> list[str]:
    from proxy.session.functions import CONSEQUENCES, about_pids

    return sorted(name for name in found if name not in CONSEQUENCES and not about_pids(name) and name.islower())


def keywords(server: Postgres) -> tuple[set[str], set[str]]:
    """(never a function's name, all)."""
    rows = server.sql("select word, catcode from pg_get_keywords()")
    return {word for word, category in rows if str(category) in "RC"}, {word for word, _ in rows}


def main(folders: list[str]) -> None:
    found: set[str] = set()
    words: set[str] = set()
    grammar: set[str] | None = None
    versions = []
    for folder in folders:
        server = Postgres(Path(folder))
        try:
            found |= names(server)[0]
            strict, every = keywords(server)
            grammar, words = strict & (grammar or strict), words | every
            versions.append(server.sql("show server_version")[0][0].split()[0])
        finally:
            server.remove()
    FILE.write_text(f"# PostgreSQL {', '.join(versions)}; written by tests/harmless.py.\n"
                    "# f: functions of pg_catalog that leave nothing in a session; g: keywords that never name a function; k: all.\n"
                    + "".join(f"f {name}\n" for name in harmless(found)) + "".join(f"g {word}\n" for word in sorted(grammar or ()))
                    + "".join(f"k {word}\n" for word in sorted(words)))


if __name__ == "__main__":
    main(sys.argv[1:])
