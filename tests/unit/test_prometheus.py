"""The rules: each alert fires and does not fire when it should, and can be acted upon."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from marketd.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "prometheus"
CASES = sorted((RULES / "tests").glob("*.yml"))

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def _promtool(*arguments: str) -> str:
    """What promtool says; fails the test unless it is content."""
    done = subprocess.run(
        ["promtool", *arguments], cwd=RULES, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((RULES / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in _rules("alerts.yml")}


@needs_promtool
def test_promtool_accepts_rules_and_scrape_example() -> None:
    _promtool("check", "rules", "alerts.yml", "recording.yml")
    _promtool("check", "config", "scrape.example.yml")


@needs_promtool
@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(case: Path) -> None:
    _promtool("test", "rules", str(case.relative_to(RULES)))


def test_every_alert_is_tested_to_fire_and_to_stay_quiet() -> None:
    fires, quiet = set(), set()
    for case in CASES:
        for one in yaml.safe_load(case.read_text())["tests"]:
            for check in one["alert_rule_test"]:
                (fires if check["exp_alerts"] else quiet).add(check["alertname"])
    assert (set(ALERTS) - fires, set(ALERTS) - quiet) == (set(), set())


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_is_wrong_and_links_its_section_of_the_runbook(name: str) -> None:
    told = ALERTS[name]["annotations"]
    assert told["summary"]
    assert told["description"]
    page, _, anchor = told["runbook"].partition("#")
    assert anchor == name.lower()
    assert re.search(rf"^#+ {name}$", (ROOT / page).read_text(), re.MULTILINE), "no such section"
    assert ALERTS[name]["labels"]["severity"] in ("page", "ticket")


def test_rules_name_only_metrics_that_are_exported_or_recorded() -> None:
    metrics = Metrics()
    metrics.init_labels(["stockx"])
    body = metrics.render()[0].decode()
    exported = set(re.findall(r"^(\w+)[{ ]", body, re.MULTILINE))
    recorded = {rule["record"] for rule in _rules("recording.yml")}
    for rule in [*_rules("alerts.yml"), *_rules("recording.yml")]:
        named = set(re.findall(r"\bmarketd[_:][\w:]+", rule["expr"]))
        assert named <= exported | recorded, rule


def _expressions() -> dict[str, str]:
    board = json.loads((ROOT / "grafana" / "marketd.json").read_text())
    panels = {
        f"{panel['title']} {n}": target["expr"].replace("$provider", ".*")
        for panel in board["panels"]
        for n, target in enumerate(panel.get("targets", ()))
    }
    rules = [*_rules("alerts.yml"), *_rules("recording.yml")]
    return panels | {rule.get("alert") or rule["record"]: rule["expr"] for rule in rules}


def test_rules_and_panels_pick_by_labels_and_words_that_are_exported() -> None:
    """One that does not exist matches nothing, or (negated) everything, without a word."""
    metrics = Metrics()
    metrics.init_labels(["stockx"])
    words: dict[tuple[str, str], set[str]] = {}
    for name, labels in re.findall(r"^(\w+)\{([^}]*)\} ", metrics.render()[0].decode(), re.MULTILINE):
        for label, word in re.findall(r'(\w+)="([^"]*)"', labels):
            words.setdefault((name, label), {".*"}).add(word)
    picked = 0
    for where, expr in _expressions().items():
        for name, matchers in re.findall(r"\b(marketd_\w+)\{([^}]*)\}", expr):
            for label, wanted in re.findall(r'(\w+)[=!]~?"([^"]*)"', matchers):
                picked += 1
                assert set(wanted.split("|")) <= words.get((name, label), set()), (where, name, label)
    assert picked > 50


def test_what_counts_as_trouble_is_one_set_in_code_and_rules() -> None:
    from marketd.metrics.words import TROUBLES

    for rule in _rules("recording.yml"):
        if rule["record"].startswith("marketd:job_trouble"):
            [codes] = re.findall(r'code=~"([^"]+)"', rule["expr"])
            assert tuple(codes.split("|")) == TROUBLES
