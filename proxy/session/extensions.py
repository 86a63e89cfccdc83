"""Extensions that PostgreSQL brings (its `contrib`, 13 to 18), whose scripts leave nothing in a session.

They define, and DO what is local to their transaction; that can be read in the scripts, which is why a list may say so.
Left out is whose library has settings of its own, which are there as soon as it is loaded: pg_trgm, pgcrypto, isn,
postgres_fdw, the languages.
"""

from __future__ import annotations

from proxy.session.assignments import Tokens, name_of, words

BROUGHT = frozenset((
    "adminpack", "amcheck", "autoinc", "bloom", "btree_gin", "btree_gist", "citext", "cube", "dict_int", "dict_xsyn", "earthdistance",
    "file_fdw", "fuzzystrmatch", "hstore", "insert_username", "intagg", "intarray", "lo", "ltree", "moddatetime", "old_snapshot",
    "pageinspect", "pg_buffercache", "pg_freespacemap", "pg_logicalinspect", "pg_surgery", "pg_visibility", "pg_walinspect",
    "pgrowlocks", "pgstattuple", "refint", "seg", "sslinfo", "tablefunc", "tcn", "tsm_system_rows", "tsm_system_time", "unaccent",
    "uuid-ossp"))


def brought(tokens: Tokens) -> bool:
    """CREATE EXTENSION or ALTER EXTENSION of one of these?"""
    rest = tokens[5:] if words(tokens[2:], "if", "not", "exists") else tokens[2:]
    return bool(rest) and name_of(rest[0]) in BROUGHT
