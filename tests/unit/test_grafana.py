"""The dashboard: every query parses and names what is exported, and no panel hides another."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from marketd.metrics import Metrics

GRAFANA = Path(__file__).resolve().parents[2] / "grafana"
BOARD: dict[str, Any] = json.loads((GRAFANA / "marketd.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [
    *((panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]),
    *((note["name"], note["expr"]) for note in BOARD["annotations"]["list"]),
]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_every_query_parses(tmp_path: Path) -> None:
    rules = [
        {
            "record": f"query:{number}",
            "expr": expr.replace("$__rate_interval", "5m").replace("$provider", ".*"),
        }
        for number, (_, expr) in enumerate(QUERIES)
    ]
    assert not [rule for rule in rules if "$" in rule["expr"]]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_query_names_what_is_exported() -> None:
    metrics = Metrics()
    metrics.init_labels(["stockx"])
    body = metrics.render()[0].decode()
    exported = set(re.findall(r"^(\w+)[{ ]", body, re.MULTILINE))
    for title, expr in QUERIES:
        named = set(re.findall(r"\b(?:marketd|process)_\w+", expr))
        assert named or "up{" in expr, title
        assert named <= exported, title


def test_every_family_of_the_daemon_is_on_the_board() -> None:
    metrics = Metrics(process=False)
    text = " ".join(expr for _, expr in QUERIES)
    #: told elsewhere: by the variables, an alert, or as part of another figure
    elsewhere = {"marketd_config_differs", "marketd_notifications_ignored", "marketd_fetch_seconds"}
    missing = {family.name for family in metrics.registry.collect() if family.name not in text}
    assert missing - elsewhere == set()


def test_panels_have_their_own_place_and_number() -> None:
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(numbers) == len(set(numbers))
    for one, other in itertools.combinations(BOARD["panels"], 2):
        a, b = one["gridPos"], other["gridPos"]
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, (one["title"], other["title"])
        assert a["x"] + a["w"] <= 24


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_asks_the_chosen_source(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_the_board_can_be_provisioned() -> None:
    assert BOARD["uid"] == "marketd"
    assert "id" not in BOARD
    assert {variable["name"] for variable in BOARD["templating"]["list"]} == {"datasource", "provider"}
    for file in GRAFANA.glob("provisioning/*/*.yaml"):
        assert yaml.safe_load(file.read_text())["apiVersion"] == 1
