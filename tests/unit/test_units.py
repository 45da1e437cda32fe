"""The shipped units: nothing that systemd has to say against them, and as little as they can be exposed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from marketd import config, wiring

UNITS = Path(__file__).resolve().parents[2] / "systemd"
NAMES = ("marketd.service", "marketd-migrate.service")
EXPOSED_AT_MOST = 1.3

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units beside each other, with a program that exists; verify looks for it."""
    for name in NAMES:
        text = (UNITS / name).read_text()
        assert "/opt/marketd/bin/marketd" in text
        (tmp_path / name).write_text(text.replace("/opt/marketd/bin/marketd", "/bin/true"))
    return tmp_path


def _analyze(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], cwd=cwd, capture_output=True, text=True, timeout=30, check=False
    )


def _settings(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


@needs_systemd
def test_systemd_has_nothing_to_say_against_the_units(installed: Path) -> None:
    said = _analyze("verify", *(f"./{name}" for name in NAMES), cwd=installed)
    # Unknown keys are only warned about: the exit code alone proves nothing.
    assert (said.returncode, said.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_a_unit_is_exposed_no_more_than_a_network_client_must_be(installed: Path, name: str) -> None:
    said = _analyze("security", "--offline=true", f"./{name}", cwd=installed)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said.stdout)
    if found is None:
        pytest.skip(f"this systemd-analyze cannot judge a file: {said.stderr.strip()}")
    assert float(found[1]) <= EXPOSED_AT_MOST


def test_a_configuration_fault_is_not_restarted_and_an_absent_database_always_is() -> None:
    settings = _settings("marketd.service")
    assert "78" in settings["RestartPreventExitStatus"][0].split()
    assert "75" not in settings["RestartPreventExitStatus"][0].split()
    assert settings["Restart"] == ["on-failure"]
    assert settings["StartLimitIntervalSec"] == ["0"]


def test_a_reload_checks_the_file_before_the_signal() -> None:
    first, second = _settings("marketd.service")["ExecReload"]
    assert " check-config --config /etc/marketd/config.yaml" in first
    # Tried under systemd 252: otherwise /run/credentials is empty for it, and every reload of a good file fails.
    assert first.startswith("+/usr/bin/env CREDENTIALS_DIRECTORY=/proc/${MAINPID}/root%d ")
    assert second == "/bin/sh -c 'kill -HUP ${MAINPID}'"
    assert _settings("10-notify-reload.conf") == {
        "Type": ["notify-reload"],
        "ReloadSignal": ["SIGHUP"],
        "ExecReload": ["", first],
    }


def test_the_process_metrics_survive_the_sandbox() -> None:
    assert _settings("marketd.service")["ProcSubset"] == ["all"]


@pytest.mark.parametrize("name", NAMES)
def test_every_credential_of_the_example_is_loaded_and_no_other(name: str) -> None:
    loaded = {line.partition(":")[0] for line in _settings(name)["LoadCredential"]}
    live = [line for line in _example().splitlines() if not line.lstrip().startswith("#")]
    assert set(re.findall(r"\$\{cred:(\w+)\}", "\n".join(live))) == loaded


def test_the_example_loads_and_a_provider_with_empty_credentials_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in re.findall(r"\$\{cred:(\w+)\}", _example()):
        (tmp_path / name).write_text("")
    (tmp_path / "dsn").write_text("postgresql://marketd@db.example/market\n")
    (tmp_path / "alias_token").write_text("t-123456\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    loaded = config.load(UNITS / "config.example.yaml", wiring.provider_types())
    off = {name: wiring.off_reason(stanza, stanza.credentials) for name, stanza in loaded.providers.items()}
    assert off["alias"] is None
    assert off["stockx"] is not None
    assert off["ebay"] is not None


def test_the_example_has_the_addresses_and_limits_of_the_shipped_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in re.findall(r"\$\{cred:(\w+)\}", _example()):
        (tmp_path / name).write_text("")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    example = config.load(UNITS / "config.example.yaml", wiring.provider_types())
    shipped = config.load(UNITS.parent / "config.yaml", wiring.provider_types())
    for name, stanza in shipped.providers.items():
        own = example.providers[name]
        assert (own.base_url, own.token_url, own.currency) == (
            stanza.base_url,
            stanza.token_url,
            stanza.currency,
        )
        assert (own.budget.per_hour, own.budget.per_day) == (stanza.budget.per_hour, stanza.budget.per_day)
        assert own.budget.day_starts == stanza.budget.day_starts


def _example() -> str:
    return (UNITS / "config.example.yaml").read_text()
