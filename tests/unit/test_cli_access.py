"""Which configuration and which database a command uses, and what it says when there is none."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import asyncpg
import pytest

from marketd.cli import access, main
from marketd.cli.exits import CommandError, Exit
from marketd.errors import ConfigError, DatabaseUnavailable, SchemaError

DSN = "postgresql://somebody@localhost:1/nowhere"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and none of the variables that the shipped configuration reads."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(access, "SYSTEM_FILE", tmp_path / "etc" / "config.yaml")
    for name in ("MARKETD_CONFIG", "MARKETD_DSN", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


def _given(config: str | None = None) -> Namespace:
    return Namespace(config=config)


def test_the_option_wins_over_the_variable_over_this_folder_over_the_system(tmp_path: Path) -> None:
    assert access.find_file(_given(), {}) is None
    (tmp_path / "etc").mkdir()
    access.SYSTEM_FILE.touch()
    assert access.find_file(_given(), {}) == access.SYSTEM_FILE
    (tmp_path / "config.yaml").touch()
    assert access.find_file(_given(), {}) == Path("config.yaml")
    assert access.find_file(_given(), {"MARKETD_CONFIG": "b.yaml"}) == Path("b.yaml")
    assert access.find_file(_given("a.yaml"), {"MARKETD_CONFIG": "b.yaml"}) == Path("a.yaml")


def test_without_any_file_the_variables_of_the_shipped_one_count(tmp_path: Path) -> None:
    config = access.outline(_given(), {"MARKETD_DSN": DSN, "STATE_DIRECTORY": str(tmp_path)})
    assert access.any_dsn(config) == DSN
    assert config.state_dir == tmp_path


def test_a_credential_that_cannot_be_read_does_not_keep_an_operator_from_asking(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        f"database: {{dsn: '{DSN}'}}\n"
        "providers:\n  alias: {base_url: https://example.org, currency: USD, credentials: {token: '${cred:alias}'}}\n"
    )
    assert access.any_dsn(access.outline(_given(str(path)), {})) == DSN
    with pytest.raises(ConfigError, match="CREDENTIALS_DIRECTORY"):
        access.whole(_given(str(path)))


def test_credentials_are_looked_for_beside_the_file_where_no_service_manager_gives_them(
    tmp_path: Path,
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("database: {dsn: '${cred:dsn}'}\n")
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "dsn").write_text(f"{DSN}\n")
    assert access.any_dsn(access.outline(_given(str(path)), {})) == DSN
    given = tmp_path / "given"
    given.mkdir()
    (given / "dsn").write_text("postgresql://another@db.example/market")
    found = access.any_dsn(access.outline(_given(str(path)), {"CREDENTIALS_DIRECTORY": str(given)}))
    assert found == "postgresql://another@db.example/market"


def test_only_the_faults_of_the_part_that_is_needed_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "database: {dsn: '${cred:dsn}'}\n"
        "providers:\n  alias: {base_url: https://example.org, currency: USD, credentials: {token: '${cred:alias}'}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        access.outline(_given(str(path)), {})
    [problem] = caught.value.problems
    assert problem.startswith(f"{path}:1:17: database.dsn: credential dsn needs $CREDENTIALS_DIRECTORY")


def test_a_fault_in_the_part_that_is_needed_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("database:\n  dns: x\n")
    with pytest.raises(ConfigError, match=r"a\.yaml:2:3: database\.dns: unknown key; did you mean 'dsn'"):
        access.outline(_given(str(path)), {})


def test_a_missing_file_that_was_asked_for_is_a_fault() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        access.outline(_given("nowhere.yaml"), {})


def test_run_and_migrate_without_a_dsn_exit_78_and_say_how_to_set_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(f"state_dir: {tmp_path}\n")
    for command in ("run", "migrate"):
        assert main([command]) == 78
        told = capsys.readouterr()
        assert told.out == ""
        assert "MARKETD_DSN=postgresql://" in told.err
        assert "database.embedded" in told.err
        assert len(told.err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]


def test_run_without_any_configuration_exits_78_and_names_the_places(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run"]) == 78
    assert "MARKETD_CONFIG" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["status"], ["jobs"], ["why", "1"], ["enqueue", "stockx", "A-1"], ["retry"]]
)
def test_other_commands_without_a_database_exit_75_and_say_so(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    assert main(command) == 75
    told = capsys.readouterr().err
    assert "no database" in told
    assert str(tmp_path) in told


def test_a_database_that_does_not_answer_exits_75_without_showing_the_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKETD_DSN", "postgresql://somebody:s3cr3tword@127.0.0.1:1/x")
    assert main(["status"]) == 75
    told = capsys.readouterr().err
    assert "cannot connect to Postgres" in told
    assert "s3cr3tword" not in told


def test_every_fault_of_a_configuration_is_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("htttp: {}\njobs: {lease: 1s}\n")
    assert main(["check-config", "--config", str(path)]) == 78
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"marketd: {path}:") for line in lines)


def test_check_config_tells_of_every_account_whether_it_would_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.yaml"
    client = "api_key: a-key-12345, client_id: an-id, client_secret: a-secret-12345"
    path.write_text(
        f"database: {{dsn: '{DSN}'}}\nstate_dir: {tmp_path}\n"
        f"providers: {{stockx: {{credentials: {{{client}}}, accounts: {{shop2: {{users: [ann]}}}}}}}}\n"
    )
    assert main(["check-config", "--config", str(path)]) == 0
    missing = "  stockx: off (no credentials: refresh_token not set)"
    assert missing in capsys.readouterr().out.splitlines()
    # What `marketd auth` has left counts, as it does for the daemon.
    (tmp_path / "stockx-default-login.json").write_text(
        '{"client_id": "an-id", "refresh_token": "t-1234567"}'
    )
    assert main(["check-config", "--config", str(path)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1] == "  stockx: on"
    assert told[2].startswith("  stockx/shop2: off (no credentials: api_key")


def test_check_config_tells_of_each_login_that_cannot_be_read_and_where_it_belongs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        f"state_dir: {tmp_path}\nproviders:\n  stockx:\n    credentials: {{client_id: an-id}}\n"
        "    accounts:\n      shop2: {credentials: {client_id: an-id}, users: [ann]}\n"
    )
    for account in ("default", "shop2"):
        (tmp_path / f"stockx-{account}-login.json").write_text("{}")
    assert main(["check-config", "--config", str(path)]) == 78
    assert capsys.readouterr().err.splitlines() == [
        f"marketd: {path}:3:3: providers.stockx: {tmp_path}/stockx-default-login.json: not a stored login "
        "(KeyError); run `marketd auth stockx` again",
        f"marketd: {path}:6:7: providers.stockx.accounts.shop2: {tmp_path}/stockx-shop2-login.json: not a stored "
        "login (KeyError); run `marketd auth stockx --account shop2` again",
    ]


def test_a_damaged_record_of_an_embedded_server_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "postgres"
    data.mkdir()
    (data / "server.json").write_text("not json")
    with pytest.raises(DatabaseUnavailable, match="damaged"):
        access.any_dsn(access.outline(_given(), {"STATE_DIRECTORY": str(tmp_path)}))


def test_what_postgres_refuses_becomes_one_line_and_a_code() -> None:
    bad = asyncpg.InvalidParameterValueError("market_enqueue: provider 'x' is unknown")
    told = access.in_words(bad)
    assert isinstance(told, CommandError)
    assert (str(told), told.code) == ("provider 'x' is unknown", Exit.USAGE)
    assert isinstance(access.in_words(asyncpg.UndefinedTableError("no market_jobs")), SchemaError)
    denied = access.in_words(
        asyncpg.InsufficientPrivilegeError("permission denied for function market_retry")
    )
    assert "market_operator" in str(denied)
    assert "22012" in str(access.in_words(asyncpg.DivisionByZeroError("division by zero")))
