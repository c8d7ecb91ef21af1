"""What deploy/ brings for looking on: rules, alerts and dashboard, by the real promtool and Prometheus."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from gateway.cli.metric_table import MARKER, metric_table
from gateway.metrics import Metrics, Spread
from tests.gateway_process import Gateway, eventually
from tests.services import Prometheus
from tests.services.programs import PROMTOOL

ROOT = Path(__file__).parent.parent
RULES = ROOT / "deploy/prometheus"
PAGE = (ROOT / "docs/metrics.md").read_text()
# Queries whose series begin with a first fault, a signed callback or a certificate.
MAY_BE_EMPTY = {"Refused, by reason", "Clock skew", "Published, failed"}
VARIABLES = {"$__rate_interval": "5s", "$instance": ".*", "$app": ".*", "$sink": ".*"}


@pytest.fixture
def promtool():
    """Run promtool in the folder of the rules; return what it printed, on failure as the assertion."""
    program = PROMTOOL.path()

    def run(*words, stdin=None):
        done = subprocess.run([program, *words], cwd=RULES, input=stdin, capture_output=True, timeout=100)
        said = (done.stdout + done.stderr).decode()
        assert done.returncode == 0, said
        return said

    return run


def alerts():
    groups = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions():
    """Return (where, expression) of every rule and of every panel."""
    found = []
    for name in ("recording.yml", "alerts.yml"):
        for group in yaml.safe_load((RULES / name).read_text())["groups"]:
            found += [(rule.get("alert") or rule["record"], rule["expr"]) for rule in group["rules"]]
    return found + queries()


def queries():
    """Return (title, expression) of every query of the dashboard, its variables filled in."""
    dashboard = json.loads((ROOT / "deploy/grafana/im-gateway.json").read_text())
    found = []
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            found.append((panel["title"], expression))
    return found


def samples_of(metric):
    """Return the names of the samples that the metric gives."""
    if metric._type == "counter":
        return {f"{metric._name}_total"}
    if metric._type == "histogram":
        return {f"{metric._name}_{part}" for part in ("bucket", "sum", "count")}
    return {metric._name}


def test_the_page_is_fresh():
    """docs/metrics.md is generated below its marker."""
    _, found, generated = PAGE.partition(f"{MARKER}\n\n")

    assert found, "the marker is gone"
    assert generated == metric_table(), "stale: write it again with `gateway schema --metrics`"


def test_every_metric_that_is_asked_for_exists():
    """A metric that is renamed takes no rule and no panel with it unseen."""
    metrics = [one for one in vars(Metrics()).values() if isinstance(one, (MetricWrapperBase, Spread))]
    known = set().union(*map(samples_of, metrics))
    recorded = {name for name, _ in expressions() if ":" in name}

    for where, expression in expressions():
        asked = set(re.findall(r"[\w:]*gateway_[\w:]+", expression))
        assert asked <= known | recorded, where


def test_every_alert_says_what_to_do():
    """Each alert has a severity, two sentences, a row in the documentation, and a unit test that makes it fire."""
    rows = set(re.findall(r"^\| `(Gateway\w+)`", PAGE, re.MULTILINE))
    tested = {one["name"] for one in yaml.safe_load((RULES / "alerts.test.yml").read_text())["tests"]}

    for alert in alerts():
        assert alert["labels"]["severity"] in ("critical", "warning"), alert["alert"]
        assert set(alert["annotations"]) == {"summary", "description"}, alert["alert"]
    names = {alert["alert"] for alert in alerts()}
    assert names == rows
    assert names <= tested


def test_rules_and_their_unit_tests(promtool):
    """promtool takes the files, and every alert fires when it should and not before."""
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "recording.yml", "alerts.yml")

    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yml")


def test_a_running_gateway_answers_every_panel(promtool, tmp_path):
    """Prometheus reads a real gateway and worker; promtool finds no fault with names; no panel stays empty."""
    gateway = Gateway(tmp_path / "gateway")
    server = None
    try:
        gateway.start("run")
        promtool("check", "metrics", stdin=gateway.get("/metrics")[1])
        sender = gateway.sender()
        rules = (RULES / "recording.yml", RULES / "alerts.yml")
        server = Prometheus({"im-gateway": [gateway.admin_port]}, rules)

        numbers = iter(range(100_000))
        has_rates = "rate(gateway_callbacks_stored_total[5s]) > 0"

        def unanswered():
            sender.post(next(numbers))
            found = {
                title: [server.query(one) for name, one in queries() if name == title]
                for title, _ in queries()
            }
            return {
                title for title, results in found.items() if title not in MAY_BE_EMPTY and not all(results)
            }

        eventually(lambda: sender.post(next(numbers)) and server.query(has_rates), "rates")
        eventually(lambda: not unanswered(), "every panel shows something")
        for group in server.api("rules")["groups"]:
            assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}, group
        assert server.query('gateway_build_info{job="im-gateway"}')
    finally:
        if server is not None:
            server.close()
        gateway.close()
