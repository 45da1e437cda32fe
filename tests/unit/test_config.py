"""Configuration: what is refused and in which words, what is accepted, what a reload would change."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import time, timedelta
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, field_validator

from marketd import config, wiring
from marketd.config import ProviderTypes
from marketd.errors import ConfigError
from marketd.providers import discover
from marketd.wiring import provider_types

ROOT = Path(__file__).resolve().parents[2]
BROKEN = ROOT / "tests" / "fixtures" / "config"
SECRET = "hunter2hunter2"
ENV = {"SECRET_WORD": f"word-{SECRET}", "EMPTY": "", "HOME": "/nowhere"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StockxCredentials(_Strict):
    api_key: SecretStr = SecretStr("")
    client_id: str = ""
    client_secret: SecretStr = SecretStr("")
    refresh_token: SecretStr = SecretStr("")


class AliasCredentials(_Strict):
    token: SecretStr = SecretStr("")

    @field_validator("token")
    @classmethod
    def _quotes_what_it_refuses(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value().startswith("refused"):
            raise ValueError(f"expected another token than {value.get_secret_value()}")
        return value


class EbayCredentials(_Strict):
    client_id: SecretStr = SecretStr("")
    client_secret: SecretStr = SecretStr("")


class NoOptions(_Strict):
    pass


class StockxOptions(_Strict):
    region: str = "us"
    webhook_key: SecretStr | None = None


TYPES = {
    "stockx": ProviderTypes(StockxCredentials, StockxOptions, frozenset({"GBP", "USD", "EUR"})),
    "alias": ProviderTypes(AliasCredentials, NoOptions, frozenset({"USD"})),
    "ebay": ProviderTypes(EbayCredentials, NoOptions),
}
STOCKX = "providers: {stockx: {base_url: 'https://a.example', currency: GBP, %s}}"


def parse(text: str, env: dict[str, str] = ENV, name: str = "c.yaml") -> config.Config:
    return config.parse(text, name, TYPES, env)


def shipped_data() -> dict[str, Any]:
    """config.yaml with every variable at its default, read by another reader than ours."""
    text = (ROOT / "config.yaml").read_text()
    data: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text))
    return data


def faults(text: str, env: dict[str, str] = ENV) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, env)
    return caught.value.problems


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(BROKEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_broken_file_is_refused_with_every_fault_at_its_place(path: Path) -> None:
    text = path.read_bytes().decode()
    expected = re.findall(r"^# (.+)$", text.partition("# expected:\n")[2], re.MULTILINE)
    assert expected, "the fixture names the messages it expects"
    with pytest.raises(ConfigError) as caught:
        config.load(path, TYPES, ENV)
    assert [problem.removeprefix(f"{path}:") for problem in caught.value.problems] == expected
    assert SECRET not in str(caught.value)


def test_there_are_at_least_forty_broken_files() -> None:
    assert len(list(BROKEN.glob("*.yaml"))) >= 40


def test_a_missing_file_is_a_fault_of_that_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: no such file or directory"):
        config.load(tmp_path / "none.yaml", TYPES, ENV)


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("log: {level: info} # caf\xe9\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.load(path, TYPES, ENV)


def test_an_alias_bomb_costs_nothing() -> None:
    bomb = "a: &a [x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(20)
    )
    assert any("aliases" in problem for problem in faults(bomb))


def test_bottomless_nesting_is_a_fault_and_not_a_crash() -> None:
    assert any("nested too deeply" in problem for problem in faults("jobs: " + "[" * 900 + "]" * 900))


def test_a_substituted_value_cannot_add_keys() -> None:
    evil = {"X": "info\nhttp: {port: 1}\n#"}
    assert faults("log: {level: '${X}'}", evil) == [
        "c.yaml:1:7: log.level: expected one of debug, info, warning, error, "
        "got the value of ${X} (not shown)"
    ]


def test_an_unreadable_secret_file_is_named_and_its_content_never_shown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\nmore\n")
    [problem] = faults(STOCKX % f"credentials: {{api_key: '${{file:{tmp_path}/key}}'}}")
    assert "holds more than one line" in problem
    assert SECRET not in problem


@pytest.mark.parametrize("name", ["a\\0b", "~\\0", "\\ud800"])
def test_a_name_that_no_file_can_have_is_a_fault_of_its_key(name: str) -> None:
    [problem] = faults(f'log:\n  level: "${{file:{name}}}"')
    assert problem.startswith("c.yaml:2:10: log.level: no file can have the name ")
    assert problem.isprintable()


def test_a_fault_carries_no_exception_that_holds_the_input() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(STOCKX % f"credentials: {{api_kye: {SECRET}}}")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


# --- what is accepted --------------------------------------------------------------------------------------


def test_the_shipped_file_loads_with_an_empty_environment() -> None:
    shipped = config.load(ROOT / "config.yaml", TYPES, {})
    assert shipped.database.dsn is None
    assert {name: one.budget.per_hour for name, one in shipped.providers.items()} == {
        "stockx": 100,
        "alias": 200,
        "ebay": 150,
    }
    ebay = shipped.providers["ebay"].budget
    assert (ebay.per_day, ebay.day_starts.at, ebay.day_starts.zone) == (5000, time(0), "America/Los_Angeles")
    assert shipped.providers["stockx"].pace.interval_s == 1.0
    assert shipped.providers["alias"].timeout == timedelta(seconds=60)


def test_the_shipped_file_writes_out_every_key_with_its_default() -> None:
    data = shipped_data()
    shipped = config.load(ROOT / "config.yaml", TYPES, {})
    bare = config.from_mapping({"providers": data["providers"]}, TYPES)
    assert [str(change) for change in config.diff(bare, shipped)] == []
    assert set(data) | {"testing"} == set(config.Config.model_fields)
    for part in ("database", "http", "log", "scheduler", "jobs", "catalog", "planner"):
        assert set(data[part]) == set(type(getattr(shipped, part)).model_fields)
    for stanza in data["providers"].values():
        assert set(stanza) == set(config.Provider.model_fields)


@pytest.mark.parametrize("name", ["stockx", "alias", "ebay"])
def test_the_shipped_file_writes_out_every_option_with_its_default(name: str) -> None:
    (stanza,) = re.findall(
        rf"^  {name}:\n((?: {{4}}.*\n)+)", (ROOT / "config.yaml").read_text(), re.MULTILINE
    )
    written = yaml.safe_load("\n".join(re.findall(r"^      # (\w+: .*)$", stanza, re.MULTILINE))) or {}
    options = provider_types()[name].options
    assert set(written) == set(options.model_fields)
    assert options.model_validate(written) == options()


@pytest.mark.parametrize("name", ["stockx", "alias", "ebay"])
def test_a_stanza_that_says_nothing_has_the_limits_of_the_shipped_file(name: str) -> None:
    shipped = config.from_mapping(shipped_data(), provider_types()).providers[name]
    silent = config.from_mapping({"providers": {name: {}}}, provider_types()).providers[name]
    assert silent.model_dump() == shipped.model_dump()


def test_who_sets_one_limit_keeps_the_others_of_the_provider() -> None:
    budget = {"per_hour": 10}
    ebay = config.from_mapping({"providers": {"ebay": {"budget": budget}}}, provider_types()).providers[
        "ebay"
    ]
    assert (ebay.budget.per_hour, ebay.budget.per_day) == (10, 5000)
    assert ebay.budget.day_starts.zone == "America/Los_Angeles"
    none = {"per_hour": None, "per_day": None}
    free = config.from_mapping({"providers": {"ebay": {"budget": none}}}, provider_types()).providers["ebay"]
    assert (free.budget.per_hour, free.budget.per_day) == (None, None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("jobs: {lease: 1s, max_attempts: 0}", "jobs.lease: expected at least 3s"),
        ("jobs: {backoff: {base: 1h, x: 1}}", "jobs.backoff.base: base is longer"),
        ("jobs: {backoff: {cap: 1s, x: 1}}", "jobs.backoff.base: base is longer"),
        ("testing: {hour: 1h, x: 1}", "testing.day: day is shorter"),
        ("database: {embedded: true, listen_dsn: 'postgresql://h/d', x: 1}", "database.embedded: true, and a"),
        (STOCKX % "budget: {reserve: 96%, per_hour: 1.5}", "reserve 96% and background_min 5% make more"),
        (STOCKX % "accounts: {a: {users: [u, u], x: 1}}", "user 'u' is listed twice"),
        (STOCKX % "timeout: 0s, accounts: {a: {users: [u]}, b: {users: [u]}}", "user 'u' is in accounts a and b"),
    ],
)  # fmt: skip
def test_a_check_of_several_keys_is_made_whatever_else_is_wrong_there(text: str, told: str) -> None:
    assert len(faults(text)) == 2
    assert any(told in line for line in faults(text))


@pytest.mark.parametrize(
    ("stanza", "reason"),
    [
        ({"base_url": "http://127.0.0.1:1"}, "required where base_url is not the provider's own"),
        ({"token_url": None}, "an address is required: this provider's access tokens are made there"),
    ],
)
def test_a_missing_token_url_is_told_whatever_else_is_wrong(stanza: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.from_mapping({"providers": {"stockx": {**stanza, "timeout": "never"}}}, provider_types())
    assert f"providers.stockx.token_url: {reason}" in caught.value.problems


@pytest.mark.parametrize(
    "stanza", [{"currency": "GBP"}, {"options": {"marketplace": "EBAY_GB"}, "timeout": "never"}]
)
def test_the_currency_of_ebay_is_that_of_its_marketplace(stanza: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.from_mapping({"providers": {"ebay": stanza}}, provider_types())
    written, other = ("GBP", "USD") if "currency" in stanza else ("USD", "GBP")
    assert (
        f"providers.ebay.currency: expected one of {other} by these options, got '{written}'"
        in caught.value.problems
    )


def test_what_ebay_may_be_asked_for_follows_its_marketplace() -> None:
    stanza = {"currency": "GBP", "options": {"marketplace": "EBAY_GB"}}
    loaded = config.from_mapping({"providers": {"ebay": stanza, "stockx": {}}}, provider_types())
    ebay, stockx = wiring.accounts_of(loaded, discover())
    assert ebay.currencies == ["GBP"]
    assert {"GBP", "USD"} < set(stockx.currencies)


def test_limits_and_token_address_of_a_provider_hold_at_its_own_address_only() -> None:
    here = {"base_url": "http://127.0.0.1:1/x"}
    ebay = config.from_mapping({"providers": {"ebay": here}}, provider_types()).providers["ebay"]
    assert ebay.token_url == "http://127.0.0.1:1/x/identity/v1/oauth2/token"
    assert (ebay.budget.per_hour, ebay.budget.per_day) == (None, None), (
        "limits are those of the provider's host"
    )
    assert ebay.budget.day_starts.zone == "America/Los_Angeles"
    with pytest.raises(ConfigError, match=r"stockx\.token_url: required where base_url is not"):
        config.from_mapping({"providers": {"stockx": here}}, provider_types())


def test_values_are_substituted_from_variables_files_and_credentials(tmp_path: Path) -> None:
    (tmp_path / "creds").mkdir()
    (tmp_path / "creds" / "stockx.key").write_text("from-cred\n")
    (tmp_path / "secret").write_text("from-file")
    env = {"CREDENTIALS_DIRECTORY": str(tmp_path / "creds"), "ID": "a: b # c", "PORT": "0", "BLANK": ""}
    text = """
http: {port: "${PORT}", host: "${HOST:-::1}"}
log: {level: "${BLANK:-debug}"}
providers:
  stockx:
    base_url: https://a.example/
    currency: GBP
    credentials: {api_key: "${cred:stockx.key}", client_id: "${ID}", client_secret: "${file:secret}",
                  refresh_token: "a$$b$c${BLANK}"}
"""
    loaded = parse(text, env, str(tmp_path / "c.yaml"))
    credentials = loaded.providers["stockx"].credentials
    assert isinstance(credentials, StockxCredentials)
    assert credentials.api_key.get_secret_value() == "from-cred"
    assert credentials.client_id == "a: b # c"
    assert credentials.client_secret.get_secret_value() == "from-file"
    assert credentials.refresh_token.get_secret_value() == "a$b$c"
    assert (loaded.http.port, loaded.http.host, loaded.log.level) == (0, "::1", "debug")
    assert loaded.providers["stockx"].base_url == "https://a.example"


def test_the_environment_names_the_database_where_the_file_does_not() -> None:
    env = {"MARKETD_DSN": "postgresql://u@h/d"}

    def dsn(text: str) -> str | None:
        found = parse(text, env).database.dsn
        return found and found.get_secret_value()

    assert dsn("log: {level: info}") == dsn("database: {pool_size: 3}") == "postgresql://u@h/d"
    assert dsn("database: {dsn: 'postgresql://u@h/other'}") == "postgresql://u@h/other"
    assert dsn("database: {embedded: true}") is None
    assert dsn("database: {dsn: null}") is None


def test_a_substituted_text_is_not_substituted_again() -> None:
    loaded = parse(STOCKX % "credentials: {api_key: '${X}'}", {"X": "${Y} $$"})
    credentials = loaded.providers["stockx"].credentials
    assert isinstance(credentials, StockxCredentials)
    assert credentials.api_key.get_secret_value() == "${Y} $$"


def test_empty_and_missing_credentials_are_legal() -> None:
    for credentials in ("", "credentials: {}", "credentials: {api_key: , client_id: ''}"):
        assert parse(STOCKX % credentials).providers["stockx"].credentials == StockxCredentials()


def test_words_that_old_yaml_twists_stay_text() -> None:
    loaded = parse(STOCKX % "accounts: {no: {users: [no, 'on', y, 2026-01-01, 12:30]}}")
    assert loaded.providers["stockx"].accounts["no"].users == ("no", "on", "y", "2026-01-01", "12:30")


def test_test_durations_may_be_small() -> None:
    loaded = parse("scheduler: {poll: 1s, interval: 2s}\njobs: {lease: 10s, fresh_for: 1s}")
    assert loaded.jobs.heartbeat == timedelta(seconds=2.5)
    assert parse("jobs: {lease: 3s}").jobs.heartbeat == timedelta(seconds=1)


def test_reserve_and_shares_are_parsed() -> None:
    budget = parse(STOCKX % "budget: {reserve: 20%, background_min: 0%}").providers["stockx"].budget
    assert (budget.reserve.auto, budget.reserve.share, budget.background_min) == (False, 0.2, 0.0)
    assert parse(STOCKX % "budget: {reserve: auto}").providers["stockx"].budget.reserve.auto


def test_an_account_budget_starts_from_the_budget_of_the_provider() -> None:
    text = STOCKX % (
        "budget: {per_hour: 100, per_day: 1000, window: rolling}, "
        "accounts: {b: {budget: {per_hour: 7}}, c: {credentials: {api_key: k}}}"
    )
    stockx = parse(text).providers["stockx"]
    assert stockx.budget_of("b") == config.Budget(per_hour=7, per_day=1000, window="rolling")
    assert stockx.budget_of("c") == stockx.budget_of("default") == stockx.budget
    assert stockx.credentials_of("c") == StockxCredentials(api_key=SecretStr("k"))
    assert stockx.credentials_of("default") == StockxCredentials()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]", "LOCALHOST"])
def test_plain_http_and_short_windows_are_legal_on_this_machine(host: str) -> None:
    text = f"testing: {{}}\nproviders: {{ebay: {{base_url: 'http://{host}:8080/x', currency: USD}}}}"
    loaded = parse(text)
    assert loaded.testing == config.Testing(hour=timedelta(seconds=60), day=timedelta(minutes=24))


def test_a_disabled_provider_does_not_forbid_short_windows() -> None:
    assert parse("testing: {}\n" + STOCKX % "enabled: false").testing is not None


@pytest.mark.parametrize(
    ("stanza", "key"),
    [
        ("base_url: 'https://a.example', concurrency: none", "base_url"),
        ("base_url: 'https://a.example', enabled: perhaps", "base_url"),
        ("base_url: 'http://localhost:1', token_url: 'https://x.example', x: 1", "token_url"),
    ],
)
def test_short_windows_are_refused_whatever_else_is_wrong_with_the_provider(stanza: str, key: str) -> None:
    with pytest.raises(ConfigError) as found:
        parse(f"testing: {{}}\nproviders: {{stockx: {{currency: GBP, {stanza}}}}}")
    assert len(found.value.problems) == 2
    assert f"this machine, and providers.stockx.{key} is not" in found.value.problems[0]


@pytest.mark.parametrize("stanza", ["{enabled: false, x: 1}", "{base_url: 'ftp://x', token_url: null}", "5"])
def test_what_is_not_known_to_be_elsewhere_does_not_forbid_short_windows(stanza: str) -> None:
    with pytest.raises(ConfigError) as found:
        parse(f"testing: {{}}\nproviders: {{stockx: {stanza}}}")
    assert "testing" not in str(found.value)


def test_plain_data_gives_the_same_as_the_file() -> None:
    shipped = config.load(ROOT / "config.yaml", TYPES, {})
    assert config.diff(config.from_mapping(shipped_data(), TYPES), shipped) == []


def test_faults_of_plain_data_have_no_place() -> None:
    with pytest.raises(ConfigError) as caught:
        config.from_mapping({"http": {"port": "x"}}, TYPES)
    assert caught.value.problems == ["http.port: expected a whole number, got 'x'"]


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config.Config().http.port = 1


@given(st.sampled_from(["ms", "s", "m", "h", "d"]), st.integers(min_value=1, max_value=3650))
def test_a_duration_survives_being_written(unit: str, number: int) -> None:
    duration = config.parse_duration(f"{number}{unit}")
    assert config.parse_duration(config.format_duration(duration)) == duration


@given(st.text(max_size=60))
def test_no_text_makes_the_loader_fail_otherwise(text: str) -> None:
    try:
        parse(text, {})
    except ConfigError as error:
        assert error.problems  # noqa: PT017  (most texts are refused, some are legal)


# --- reload ------------------------------------------------------------------------------------------------


def test_a_diff_names_every_change_and_masks_secrets_on_both_sides() -> None:
    old = parse(
        "database: {dsn: 'postgresql://u:one-secret@h/d'}\n"
        + STOCKX % "credentials: {api_key: old-key, client_id: old-id}, budget: {per_hour: 100}"
    )
    new = parse(
        "database: {dsn: 'postgresql://u:two-secret@h/d'}\njobs: {lease: 90s}\n"
        + STOCKX % "credentials: {api_key: new-key, client_id: new-id}, accounts: {b: {}}"
    )
    told = [str(change) for change in config.diff(old, new)]
    assert told[:3] == [
        "database.dsn: ********** -> **********",
        "jobs.lease: 1m -> 90s",
        "providers.stockx.accounts.b.budget: added, null",
    ]
    assert "providers.stockx.credentials.api_key: ********** -> **********" in told
    assert "providers.stockx.credentials.client_id: ********** -> **********" in told
    assert "providers.stockx.budget.per_hour: 100 -> null" in told
    assert not re.search("(one|two)-secret|(old|new)-", "".join(told))


def test_a_removed_provider_is_told_key_by_key() -> None:
    told = {change.key: change for change in config.diff(parse(STOCKX % ""), config.Config())}
    assert str(told["providers.stockx.currency"]) == "providers.stockx.currency: removed, was GBP"


def test_changes_that_need_a_restart_are_told_apart() -> None:
    new = parse("database: {pool_size: 3}\nhttp: {port: 0}\nlog: {level: debug}\nstate_dir: /x")
    late = config.restart_only(config.diff(config.Config(), new))
    assert [change.key for change in late] == ["database.pool_size", "http.port", "state_dir"]


def test_a_reload_keeps_what_only_a_restart_may_change() -> None:
    running, new = config.Config(), parse("http: {port: 0}\nlog: {level: debug}")
    kept = config.keep_running_parts(running, new)
    assert (kept.http.port, kept.log.level) == (9464, "debug")


def test_a_reload_never_takes_shortened_windows_to_a_real_provider() -> None:
    with pytest.raises(ConfigError, match=r"providers\.stockx\.base_url is not on this machine"):
        config.keep_running_parts(parse("testing: {}"), parse(STOCKX % ""))


def test_every_secret_text_is_known_for_hiding() -> None:
    loaded = parse(
        "database: {dsn: 'postgresql://u:p%40ss-word@h/d'}\n"
        + STOCKX % "credentials: {api_key: key-1}, accounts: {b: {credentials: {client_id: id-2}}}"
    )
    assert loaded.secrets() == {
        "postgresql://u:p%40ss-word@h/d",
        "p%40ss-word",
        "p@ss-word",
        "key-1",
        "id-2",
    }


# --- digest ------------------------------------------------------------------------------------------------


def test_the_digest_is_the_same_however_the_file_is_written() -> None:
    assert parse("jobs: {lease: 1m}\nlog: {level: info}").digest() == parse("jobs: {lease: 60s}").digest()


def test_the_digest_changes_with_any_value_and_with_a_secret() -> None:
    texts = ["log: {}", "log: {level: debug}", STOCKX % "", STOCKX % "credentials: {api_key: a}"]
    texts += [STOCKX % "credentials: {api_key: b}", STOCKX % "credentials: {client_id: b}"]
    assert len({parse(text).digest() for text in texts}) == len(texts)


def test_daemons_that_differ_only_locally_share_a_digest() -> None:
    one = parse("http: {port: 1}\nlog: {level: debug}\nstate_dir: /a\ndatabase: {pool_size: 2}")
    assert one.digest(shared=True) == config.Config().digest(shared=True)
    assert one.digest() != config.Config().digest()
    assert parse("jobs: {lease: 61s}").digest(shared=True) != one.digest(shared=True)


def test_a_lane_digest_changes_only_with_what_its_requests_depend_on() -> None:
    def of(stanza: str, account: str = "default") -> str:
        return parse(STOCKX % stanza).lane_digest("stockx", account)

    accounts = "accounts: {b: {credentials: {api_key: %s}}}"
    assert of("budget: {per_hour: 3}, concurrency: 4") == of("") == of(accounts % "k")
    assert of("timeout: 3s") != of("")
    assert of("credentials: {api_key: k}") != of("")
    assert of(accounts % "k", "b") != of(accounts % "k")
    assert of(accounts % "k", "b") != of(accounts % "l", "b")


def test_the_digest_does_not_depend_on_the_process() -> None:
    code = (
        "import sys; from pathlib import Path; from test_config import TYPES; from marketd import config;"
        f"print(config.load(Path({str(ROOT / 'config.yaml')!r}), TYPES, {{}}).digest(shared=True))"
    )
    path = os.pathsep.join([str(ROOT / "daemon"), str(Path(__file__).parent)])
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == config.load(ROOT / "config.yaml", TYPES, {}).digest(shared=True)


# --- editors -----------------------------------------------------------------------------------------------


def test_the_json_schema_accepts_the_shipped_file_and_refuses_a_typo() -> None:
    schema = json.loads(json.dumps(config.json_schema(TYPES)))
    data: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text())
    jsonschema.validate(data, schema)
    data["jobs"]["leese"] = "60s"
    with pytest.raises(jsonschema.ValidationError, match="leese"):
        jsonschema.validate(data, schema)
