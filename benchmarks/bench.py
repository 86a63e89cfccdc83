"""`make bench`: pgbench through Switchboard and PgBouncer, in turn, round by round.

The machine's speed drifts, so a figure is the median of the ratios of rounds that ran side by side.  The proxies are pinned
to one core, pgbench and PostgreSQL to the other.  CPU is the proxy's own, from /proc.  PGBOUNCER=path names another binary.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import Daemon, Postgres, free_port, until

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def pgbouncer(postgres: Postgres, mode: str) -> Iterator[tuple[int, int]]:
    """(port, pid) of a PgBouncer at its defaults, as `nobody` when we are root."""
    binary = os.environ.get("PGBOUNCER") or shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin")
    if not binary:
        raise SystemExit("no pgbouncer: install Debian's package or set PGBOUNCER")
    folder, port = Path(tempfile.mkdtemp(prefix="sb-bouncer-", dir="/tmp")), free_port()
    (folder / "users").write_text('"backstage" ""\n')
    (folder / "ini").write_text(
        f"[databases]\nbench = host=127.0.0.1 port={postgres.port} dbname=backstage_plugin_bench user=postgres "
        f"password={postgres.password}\n[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\nauth_type=trust\n"
        f"auth_file={folder}/users\npool_mode={mode}\ndefault_pool_size=80\nmax_client_conn=2000\nunix_socket_dir=\n")
    folder.chmod(0o755)
    command = ["taskset", "-c", "0"] if shutil.which("taskset") else []
    if os.geteuid() == 0:
        command += ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]
    process = subprocess.Popen([*command, binary, "-q", str(folder / "ini")], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        ready = ["pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        until(lambda: subprocess.run(ready, check=False).returncode == 0, "pgbouncer")
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def pgbench(dsn: str, clients: int, protocol: str, seconds: float) -> float:
    """Transactions per second of `pgbench -S`."""
    command = ["taskset", "-c", "1"] if shutil.which("taskset") else []
    done = subprocess.run([*command, "pgbench", "-S", "-n", "-M", protocol, "-c", str(clients), "-T", str(int(seconds)), dsn],
                          capture_output=True, text=True, check=True)
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    assert found, done.stdout
    return float(found[1])


def rounds(dsns: dict[str, tuple[str, int]], clients: int, protocol: str, count: int, seconds: float) -> dict[str, dict[str, float]]:
    """Interleaved; per peer the median of tps and of CPU microseconds per transaction, and the ratios to PgBouncer."""
    told: dict[str, list[tuple[float, float]]] = {name: [] for name in dsns}
    for _ in range(count):
        for name, (dsn, pid) in dsns.items():
            before = cpu(pid)
            tps = pgbench(dsn, clients, protocol, seconds)
            told[name].append((tps, (cpu(pid) - before) / (tps * int(seconds)) * 1e6))
    found = {name: {"tps": statistics.median(a for a, _ in rows), "cpu_us": statistics.median(b for _, b in rows)}
             for name, rows in told.items()}
    if "pgbouncer" in told:
        for key, at in (("tps_ratio", 0), ("cpu_ratio", 1)):
            found["switchboard"][key] = statistics.median(
                ours[at] / theirs[at] for ours, theirs in zip(told["switchboard"], told["pgbouncer"], strict=True))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modes", nargs="*", default=["session", "transaction"])
    parser.add_argument("--clients", nargs="*", type=int, default=[1, 16, 64])
    parser.add_argument("--protocols", nargs="*", default=["simple", "extended", "prepared"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    postgres = Postgres(shared_buffers="256MB")
    rows = []
    try:
        database = {"client": "pg", "connection": {"host": "127.0.0.1", "port": postgres.port, "user": "postgres",
                                                   "password": postgres.password}}
        for mode in options.modes:
            folder = Path(tempfile.mkdtemp(prefix="sb-bench-"))
            ours = Daemon(folder, database, pool={"mode": mode, "size": 80}, users={"backstage": {"method": "trust"}},
                          log={"connections": False})
            if shutil.which("taskset"):
                subprocess.run(["taskset", "-cp", "0", str(ours.process.pid)], check=True, capture_output=True)
            dsn = ours.dsn("bench")
            subprocess.run(["pgbench", "-i", "-q", "-s", "1", dsn], check=True, capture_output=True)
            with pgbouncer(postgres, mode) as (port, pid):
                for protocol in options.protocols:
                    if protocol == "prepared" and mode == "transaction":
                        continue              # PgBouncer before 1.21 cannot
                    for clients in options.clients:
                        peers = {"switchboard": (dsn, ours.process.pid),
                                 "pgbouncer": (f"postgresql://backstage@127.0.0.1:{port}/bench", pid)}
                        row = {"mode": mode, "protocol": protocol, "clients": clients,
                               **rounds(peers, clients, protocol, options.rounds, options.seconds)}
                        rows.append(row)
                        sys.stderr.write(json.dumps(row) + "\n")
            ours.stop()
            shutil.rmtree(folder)
    finally:
        postgres.remove()
    (HERE / "out").mkdir(exist_ok=True)
    (HERE / "out/results.json").write_text(json.dumps(rows, indent=2))
    sys.stdout.write(report(rows))
    return 0


def report(rows: list[dict[str, object]]) -> str:
    lines = [f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {datetime.date.today()}", "",
             "| mode | protocol | clients | Switchboard tps | PgBouncer tps | ratio | CPU µs ours | theirs | ratio |",
             "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        ours, theirs = row["switchboard"], row["pgbouncer"]
        assert isinstance(ours, dict)
        assert isinstance(theirs, dict)
        lines.append(f"| {row['mode']} | {row['protocol']} | {row['clients']} | {ours['tps']:.0f} | {theirs['tps']:.0f} | "
                     f"{ours['tps_ratio']:.2f} | {ours['cpu_us']:.1f} | {theirs['cpu_us']:.1f} | {ours['cpu_ratio']:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
