"""The alert rules: Prometheus takes them, each fires when it should, and none on a healthy service."""

import re
import subprocess
from pathlib import Path

import yaml

from tests.support.processes import ROOT

RULES = ROOT / "deploy" / "alerts.yml"
CASES = Path(__file__).with_name("alerts.test.yml")


def promtool(*arguments: str) -> str:
    ended = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_prometheus_takes_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(RULES))


def test_every_alert_fires_when_it_should_and_none_on_a_healthy_service() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(CASES))


def test_no_alert_is_without_a_case() -> None:
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"]

    fired = set(re.findall(r'labels: \'\{alertname="(\w+)"\}', CASES.read_text(encoding="utf-8")))

    assert fired == {rule["alert"] for rule in rules}
