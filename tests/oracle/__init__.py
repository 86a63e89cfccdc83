"""The differential oracle of pool mode `auto`: one script, played on the server itself and through us, must read the same.

A script is what two or three clients do, one step after the other.  Played directly, each client has a connection of its
own; played through `auto` they share fewer.  What comes back is compared message by message, as bytes; only what cannot be
equal is evened out: process ids, the ids of tables.

    steps      what a client can do          scripts    random ones, by hypothesis
    player     one performance               stage      the server, and proxies of several widths in front of it
    shrink     the shortest script that differs as well

`python -m tests.oracle --scripts 5000 --seed 7` plays many and prints the shortest script of each fault that it finds.
Known and left alone: pg_settings tells of a setting that came with the startup packet that it was SET (`source`, `reset_val`).
"""
