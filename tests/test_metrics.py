"""What is shown: families and labels after real traffic, OpenMetrics, the status page; dashboard and alerts name what exists."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import urllib.error
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psycopg
import pytest
import yaml

from proxy.server.page import Rates, status_page
from tests.servers import ROOT, Daemon, daemon, until

RULES = ROOT / "config/prometheus/rules.yaml"
DASHBOARD = ROOT / "config/grafana/switchboard.json"


def families(page: str) -> set[str]:
    """Metric names as a query writes them."""
    found: set[str] = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE):
        found |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return found


def used(text: str) -> set[str]:
    return set(re.findall(r"\bswitchboard_[a-z_]+", text))


@pytest.fixture(scope="module")
def page(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A metrics page after a bit of everything."""
    with daemon(tmp_path_factory.mktemp("metrics"), base, pool={"mode": "transaction"}) as running:
        with running.connect("catalog") as connection:
            connection.execute("select 1")
            with pytest.raises(psycopg.errors.DivisionByZero):
                connection.execute("select 1/0")
            connection.execute("create temporary table t (a int)")
        with pytest.raises(psycopg.OperationalError):
            running.connect("catalog", password="wrong")
        with pytest.raises(psycopg.OperationalError):
            running.connect("no_such_plugin_")
        until(lambda: running.metric("switchboard_clients", plugin="catalog") == 0, "the client's end")
        return running.get("/metrics")


def value(page: str, name: str, **labels: str) -> float:
    for line in page.splitlines():
        if line.startswith((f"{name}{{", f"{name} ")) and all(f'{key}="{word}"' in line for key, word in labels.items()):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"{name} {labels} is not on the page")


@pytest.mark.parametrize(("name", "labels", "least"), [
    ("switchboard_client_logins_total", {"plugin": "catalog", "user": "backstage"}, 1),
    ("switchboard_leases_total", {"plugin": "catalog"}, 2), ("switchboard_queries_total", {"plugin": "catalog"}, 3),
    ("switchboard_transactions_total", {"plugin": "catalog"}, 3), ("switchboard_errors_total", {"plugin": "catalog", "class": "22"}, 1),
    ("switchboard_pins_total", {"plugin": "catalog", "reason": "temporary object"}, 1),
    ("switchboard_client_received_bytes_total", {"plugin": "catalog"}, 10),
    ("switchboard_client_sent_bytes_total", {"plugin": "catalog"}, 10),
    ("switchboard_query_seconds_count", {"plugin": "catalog"}, 3), ("switchboard_query_seconds_bucket", {"le": "+Inf"}, 3),
    ("switchboard_wait_seconds_count", {"plugin": "catalog"}, 1), ("switchboard_transaction_seconds_count", {"plugin": "catalog"}, 3),
    ("switchboard_connect_seconds_count", {"plugin": "catalog"}, 1), ("switchboard_pool_size", {"plugin": "catalog"}, 20),
    ("switchboard_upstreams", {"plugin": "catalog", "state": "idle"}, 0), ("switchboard_upstreams", {"state": "cancelling"}, 0),
    ("switchboard_auth_failures_total", {"reason": "28P01"}, 1), ("switchboard_refused_total", {"class": "3D"}, 1),
    ("switchboard_provisioning_total", {"plugin": "catalog"}, 1), ("switchboard_upstream_up", {"plugin": "catalog"}, 1),
    ("switchboard_build_info", {}, 1), ("switchboard_config_info", {}, 1), ("switchboard_ready", {}, 1),
])
def test_families(page: str, name: str, labels: dict[str, str], least: float) -> None:
    assert value(page, name, **labels) >= least


def test_openmetrics_for_who_asks(proxy: Daemon) -> None:
    def get(accept: str) -> tuple[str, str]:
        with urlopen(Request(f"http://{proxy.metrics_address}/metrics", headers={"Accept": accept}), timeout=10) as answer:
            return answer.headers["Content-Type"], answer.read().decode()

    kind, text = get("application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")
    kind, text = get("*/*")
    assert kind.startswith("text/plain; version=0.0.4")
    assert "# EOF" not in text


# Shown only when there is something to show.
RARE = {"switchboard_certificate_expiry_time_seconds", "switchboard_embedded_up"}


@pytest.mark.parametrize("path", [RULES, DASHBOARD], ids=lambda path: path.name)
def test_what_they_name_exists(page: str, path: Path) -> None:
    named = used(path.read_text())
    assert named
    assert named - families(page) - RARE == set()


def test_every_alert_says_what_to_see() -> None:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert rule["annotations"]["summary"]


def test_every_alert_is_tried_quiet_and_told() -> None:
    groups = yaml.safe_load((ROOT / "tests/rules_test.yaml").read_text())["tests"]
    cases = [case for group in groups for case in group["alert_rule_test"]]
    names = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on this machine")
def test_promtool_judges_the_rules(tmp_path: Path) -> None:
    tests = tmp_path / "tests.yaml"
    tests.write_text((ROOT / "tests/rules_test.yaml").read_text().replace("RULES", str(RULES)))
    for words in (["check", "rules", RULES], ["test", "rules", tests]):
        done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_dashboard_is_whole() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert board["uid"] == "switchboard"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert all(target["expr"] for panel in board["panels"] for target in panel.get("targets", ()))


def snapshot(queries: int, plugin: str = "catalog") -> dict[str, Any]:
    pool = {"plugin": plugin, "server": "db:5432", "database": "d<b>", "mode": "session", "size": 20, "idle": 1, "active": 3,
            "waiting": 2, "max_wait": 1.5, "up": True}
    row = {"plugin": plugin, "server": "db:5432", "clients": 4, "queries": queries, "from_client": queries * 100,
           "from_upstream": queries * 1000, "errors": {"23": queries // 10}}
    return {"build": {"version": "1", "hot_path": "pure"}, "config": {"fingerprint": "f", "reload_ok": True}, "pools": [pool],
            "series": [row], "process": {"draining": False, "ready": True, "embedded": None, "clients": 4, "max_clients": 10}}


def test_the_page_shows_rates_and_waiting() -> None:
    now = iter((10.0, 12.0))
    rates = Rates(lambda: next(now))
    first = status_page(snapshot(100), rates)
    assert "<td>–</td>" in first
    second = status_page(snapshot(300), rates)
    assert "<td>100</td>" in second           # 200 queries in 2 s
    assert "10 kB" in second
    assert "1.5 s" in second
    assert "d&lt;b&gt;" in second
    assert "<b>" not in second


def test_a_stalled_worker_is_sick_not_silent(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base) as running:
        assert running.get("/healthz") == "ok\n"
        running.signal(signal.SIGSTOP)
        try:
            with pytest.raises(urllib.error.HTTPError) as caught:
                running.get("/healthz")
            with caught.value as answer:
                assert (answer.code, answer.read()) == (503, b"the daemon does not answer in time\n")
        finally:
            running.signal(signal.SIGCONT)

        def well() -> bool:
            try:
                return running.get("/healthz") == "ok\n"
            except OSError:
                return False

        until(well, "recovery")
