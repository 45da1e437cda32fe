"""Tokens: minted once, kept across restarts, replaced when refused, never shown, never of other credentials."""

from __future__ import annotations

import asyncio
import json
import stat
import time
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from marketd import errors, oauth, private_file
from marketd.http_client import Request
from marketd.oauth import ClientGrant, MintedToken, RefreshGrant, StaticToken
from marketd.provider import Reply
from provider_kit import GRANTED_AT

REFRESH = RefreshGrant(
    token_url="https://login.example/oauth/token",
    client_id="the-client",
    client_secret="the-secret",
    refresh_token="the-refresh-token",
    audience="gateway",
    hint="log in again with `marketd auth stockx`",
)
CLIENT = ClientGrant(
    token_url="https://api.example/token",
    client_id="app",
    client_secret="cert",
    scope="basic",
    hint="check them",
)


class Endpoint:
    """A token endpoint: `answers` in order, the last one stays."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[Request] = []

    async def __call__(self, request: Request) -> Reply:
        self.asked.append(request)
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(answered.set_result, None)
        await answered  # lets others in, as a real request does
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return Reply(status=200, body=answer, headers={}, granted_at=GRANTED_AT)


def token(name: str, **more: Any) -> dict[str, Any]:
    return {"access_token": name, "expires_in": 43_200, "token_type": "Bearer", **more}


def bearer(headers: Mapping[str, str]) -> str:
    return headers["Authorization"].removeprefix("Bearer ")


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def write(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)


def no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "stockx-token.json"


async def test_many_at_once_wait_for_one_mint(file: Path) -> None:
    endpoint, source = Endpoint(token("t1")), MintedToken(REFRESH, file, {"x-api-key": "k"})
    got = await asyncio.gather(*(source.headers(endpoint) for _ in range(5)))
    assert all(headers == {"Authorization": "Bearer t1", "x-api-key": "k"} for headers in got)
    assert len(endpoint.asked) == 1
    assert endpoint.asked[0].meter == "mints"
    assert endpoint.asked[0].form == {
        "grant_type": "refresh_token",
        "client_id": "the-client",
        "client_secret": "the-secret",
        "audience": "gateway",
        "refresh_token": "the-refresh-token",
    }


async def test_client_credentials_go_into_basic_authentication_with_a_scope(file: Path) -> None:
    endpoint = Endpoint(token("t1"))
    await MintedToken(CLIENT, file).headers(endpoint)
    assert endpoint.asked[0].headers["Authorization"] == "Basic YXBwOmNlcnQ="
    assert endpoint.asked[0].form == {"grant_type": "client_credentials", "scope": "basic"}


async def test_a_restart_does_not_cost_a_mint(file: Path) -> None:
    await MintedToken(REFRESH, file).headers(Endpoint(token("t1")))
    endpoint = Endpoint(AssertionError("not to be asked"))
    assert bearer(await MintedToken(REFRESH, file).headers(endpoint)) == "t1"


def test_the_file_is_its_owners_alone_and_holds_no_configured_secret(file: Path) -> None:
    asyncio.run(MintedToken(REFRESH, file).headers(Endpoint(token("t1"))))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in file.parent.iterdir()] == ["stockx-token.json"]
    assert "the-secret" not in file.read_text()
    assert "the-refresh-token" not in file.read_text()


@pytest.mark.parametrize(
    "other",
    [
        replace(REFRESH, refresh_token="another"),
        replace(REFRESH, client_id="another"),
        replace(REFRESH, client_secret="another"),
        replace(REFRESH, token_url="https://other.example/oauth/token"),
    ],
)
async def test_changed_credentials_never_use_the_old_token(file: Path, other: RefreshGrant) -> None:
    await MintedToken(REFRESH, file).headers(Endpoint(token("old")))
    assert bearer(await MintedToken(other, file).headers(Endpoint(token("new")))) == "new"


async def test_a_refused_token_is_minted_anew_once_for_all_who_held_it(file: Path) -> None:
    endpoint, source = Endpoint(token("t1"), token("t2")), MintedToken(REFRESH, file)
    first = await source.headers(endpoint)
    assert source.refused(first)
    second = await source.headers(endpoint)
    assert source.refused(first)  # a slower fetch was refused with the old one, too
    assert (bearer(second), bearer(await source.headers(endpoint))) == ("t2", "t2")
    assert len(endpoint.asked) == 2


async def test_a_token_that_another_process_minted_is_used(file: Path) -> None:
    endpoint, mine = Endpoint(token("t1")), MintedToken(REFRESH, file)
    held = await mine.headers(endpoint)
    theirs = MintedToken(REFRESH, file)
    theirs.refused(await theirs.headers(endpoint))
    await theirs.headers(Endpoint(token("t2")))
    mine.refused(held)
    assert bearer(await mine.headers(Endpoint(AssertionError("not to be asked")))) == "t2"


@pytest.mark.parametrize("life", ["7200", Decimal("7200.0"), 7200])
async def test_a_life_is_a_life_in_every_usual_dress(file: Path, life: Any) -> None:
    endpoint = Endpoint(token("t1", expires_in=life))
    assert bearer(await MintedToken(REFRESH, file).headers(endpoint)) == "t1"
    assert time.time() + 7_000 < read(file)["expires_at"] <= time.time() + 7_200 - oauth.EARLY_S


@pytest.mark.parametrize(
    "life", [10**400, "9" * 400, Decimal("1e300"), 10**12], ids=["int", "text", "fraction", "long"]
)
async def test_an_absurd_life_is_believed_for_a_year(file: Path, life: Any) -> None:
    await MintedToken(REFRESH, file).headers(Endpoint(token("t1", expires_in=life)))
    assert read(file)["expires_at"] <= time.time() + 366 * 86_400
    assert bearer(await MintedToken(REFRESH, file).headers(Endpoint())) == "t1"


async def test_a_token_about_to_expire_is_replaced(file: Path) -> None:
    endpoint = Endpoint(token("t1", expires_in=1), token("t2"))
    source = MintedToken(REFRESH, file)
    await source.headers(endpoint)
    kept = read(file)
    assert time.time() < kept["expires_at"] <= time.time() + 1
    write(file, json.dumps(kept | {"expires_at": time.time() - 1}))
    assert bearer(await MintedToken(REFRESH, file).headers(endpoint)) == "t2"
    long = Endpoint(token("t3", expires_in=7_200))
    await MintedToken(replace(REFRESH, client_id="another"), file).headers(long)
    assert read(file)["expires_at"] <= time.time() + 7_200 - oauth.EARLY_S


async def test_a_rotated_refresh_token_is_kept_and_used(file: Path) -> None:
    endpoint = Endpoint(token("t1", refresh_token="rotated"), token("t2"))
    source = MintedToken(REFRESH, file)
    source.refused(await source.headers(endpoint))
    restarted = MintedToken(REFRESH, file)
    restarted.refused(await restarted.headers(endpoint))
    await restarted.headers(endpoint)
    assert [(request.form or {})["refresh_token"] for request in endpoint.asked] == [
        "the-refresh-token",
        "rotated",
    ]


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", '{"fingerprint": 1}', '{"access_token": "a b", "expires_at": 9e9, "fingerprint": "F"}'],
)
async def test_a_damaged_file_costs_one_mint_and_no_more(file: Path, damage: str) -> None:
    write(file, damage.replace("F", REFRESH.fingerprint))
    assert bearer(await MintedToken(REFRESH, file).headers(Endpoint(token("t1")))) == "t1"
    assert bearer(await MintedToken(REFRESH, file).headers(Endpoint(AssertionError()))) == "t1"


async def test_a_file_that_cannot_be_written_is_told_and_the_token_still_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "blocked", "a file where a folder belongs")
    source = MintedToken(REFRESH, tmp_path / "blocked" / "token.json")
    assert bearer(await source.headers(Endpoint(token("t1")))) == "t1"
    assert "cannot be written" in caplog.text
    assert "t1" not in caplog.text


async def test_a_rotated_refresh_token_that_could_not_be_written_is_used_all_the_same(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = Endpoint(token("t1", expires_in=1), token("t2", refresh_token="rotated"), token("t3"))
    source = MintedToken(REFRESH, file)
    source.refused(await source.headers(endpoint))
    with monkeypatch.context() as full:
        full.setattr(private_file.os, "replace", no_space)
        source.refused(await source.headers(endpoint))
    await source.headers(endpoint)
    assert (endpoint.asked[-1].form or {})["refresh_token"] == "rotated"


@pytest.mark.parametrize(
    "body",
    [
        *(None, [], {}, {"access_token": "t"}, token("two words"), token("line\nbreak")),
        *(token("t", expires_in=life) for life in (0, -7200, "-1", "", "an hour", "٣", True, None, [7200])),
        *(token("t", expires_in=Decimal(life)) for life in ("0.0", "-1.5")),
    ],
)
async def test_an_answer_without_a_usable_token_is_a_bad_payload(file: Path, body: Any) -> None:
    with pytest.raises(errors.BadPayload):
        await MintedToken(REFRESH, file).headers(Endpoint(body))


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_about_credentials_whatever_its_number(status: int) -> None:
    body = {"error": "invalid_grant", "error_description": "Unknown or invalid refresh token."}
    request = REFRESH.request(None)
    assert request.classify is not None
    error = request.classify(status, {}, body)
    assert isinstance(error, errors.Unauthorized)
    assert error.error_code == "invalid_grant"
    assert error.http_status is None
    plain = request.classify(status, {}, None)
    assert plain is not None
    assert plain.error_code == "unauthorized"


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_trouble_of_the_endpoint_is_not_about_credentials(status: int) -> None:
    classify = REFRESH.request(None).classify
    assert classify is not None
    assert classify(status, {}, {"error": "x"}) is None


async def test_invalid_grant_says_what_a_person_must_do(file: Path) -> None:
    refusal = errors.Unauthorized("no access token", code="invalid_grant")
    with pytest.raises(errors.Unauthorized, match="marketd auth stockx") as refused:
        await MintedToken(REFRESH, file).headers(Endpoint(refusal))
    assert refused.value.error_code == "invalid_grant"


async def test_nothing_that_is_shown_holds_a_secret(file: Path) -> None:
    source = MintedToken(REFRESH, file)
    await source.headers(Endpoint(token("the-access-token")))
    kept = oauth.Token(**read(file))
    static = StaticToken({"Authorization": "the-secret"})
    shown = " ".join(
        map(repr, (source, REFRESH, CLIENT, kept, REFRESH.request(None), CLIENT.request(None), static))
    )
    assert not any(word in shown for word in ("the-secret", "the-refresh-token", "the-access-token", "cert"))


async def test_a_static_token_is_what_it_is() -> None:
    source = StaticToken({"Authorization": "Bearer pat"})
    headers = await source.headers(Endpoint(AssertionError("not to be asked")))
    assert headers == {"Authorization": "Bearer pat"}
    assert not source.refused(headers)


def test_the_login_address_asks_for_what_the_provider_knows() -> None:
    url = oauth.authorize_url(
        REFRESH.token_url, client_id="c", redirect_uri="http://localhost:1/cb", audience="gateway", state="s"
    )
    assert url.startswith("https://login.example/authorize?")
    assert {name: value[0] for name, value in parse_qs(urlsplit(url).query).items()} == {
        "response_type": "code",
        "client_id": "c",
        "redirect_uri": "http://localhost:1/cb",
        "scope": "offline_access openid",
        "audience": "gateway",
        "state": "s",
    }
    request = oauth.code_request(
        REFRESH.token_url, client_id="c", client_secret="s", code="once", redirect_uri="http://localhost:1/cb"
    )
    assert request.form is not None
    assert request.form["grant_type"] == "authorization_code"
    assert "audience" not in request.form
