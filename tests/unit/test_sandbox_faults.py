"""Every fault that the sandbox offers reaches the wire as its name says, as often as ordered."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest

from marketd.sandbox import KINDS, Sandbox

PATHS = {
    "stockx": "/stockx/v2/catalog/products/5e6a1e57-1c7d-435a-82bd-5666a13560fe/market-data",
    "alias": "/alias/api/v1/pricing_insights/availabilities/dunk-low-black-white-dd1391-100",
    "ebay": "/ebay/buy/browse/v1/item_summary/search?q=DD1391-100",
}


class Caller:
    """Asks each provider for prices, with credentials that work."""

    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox, self.session = sandbox, session
        stockx = sandbox._face("stockx").tokens.issue("t-", "default")
        scope = frozenset({"https://api.ebay.com/oauth/api_scope"})
        ebay = sandbox._face("ebay").tokens.issue("t-", "default", scopes=scope)
        secrets = sandbox.credentials
        self.headers = {
            "stockx": {"x-api-key": secrets["stockx"]["api_key"], "Authorization": f"Bearer {stockx}"},
            "alias": {"Authorization": f"Bearer {secrets['alias']['token']}"},
            "ebay": {"Authorization": f"Bearer {ebay}"},
        }

    async def ask(self, provider: str, path: str | None = None) -> tuple[int, bytes, Any]:
        """Status, body as sent (compressed, if it is) and headers."""
        async with self.session.get(
            self.sandbox.url + (path or PATHS[provider]),
            headers=self.headers[provider],
            allow_redirects=False,
        ) as answer:
            return answer.status, await answer.read(), answer.headers


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with (
        Sandbox(limits={"*": None}) as sandbox,
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        yield Caller(sandbox, session)


@pytest.mark.parametrize("provider", PATHS)
@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
async def test_a_status_comes_with_the_providers_own_body(caller: Caller, provider: str, status: int) -> None:
    caller.sandbox.fault(provider, "status", status=status, retry_after=3)
    found, body, headers = await caller.ask(provider)
    key = {"stockx": "message" if status == 429 else "errorMessage", "alias": "code", "ebay": "errors"}
    assert (found, headers["Retry-After"]) == (status, "3")
    assert key[provider] in json.loads(body)
    assert (await caller.ask(provider))[0] == 200


async def test_the_flex_failure_and_the_gateway_page_of_stockx(caller: Caller) -> None:
    caller.sandbox.fault("stockx", "status")
    caller.sandbox.fault("stockx", "message")
    caller.sandbox.fault("stockx", "status", status=504)
    text = "Failed to fetch flex market data"
    assert json.loads((await caller.ask("stockx"))[1]) == {"statusCode": 500, "errorMessage": text}
    assert json.loads((await caller.ask("stockx"))[1]) == {"statusCode": 500, "message": text}
    status, body, headers = await caller.ask("stockx")
    assert (status, body[:9], headers["Content-Type"]) == (504, b"<!DOCTYPE", "text/html; charset=UTF-8")


@pytest.mark.parametrize("provider", PATHS)
@pytest.mark.parametrize(("kind", "token"), [("nan", "NaN"), ("overflow", "1e309"), ("negative", '"-5"')])
async def test_amounts_can_be_poisoned(caller: Caller, provider: str, kind: str, token: str) -> None:
    caller.sandbox.fault(provider, kind)
    status, body, _ = await caller.ask(provider)
    assert (status, f": {token}" in body.decode()) == (200, True)
    assert token not in (await caller.ask(provider))[1].decode()


async def test_poisoned_amounts_wait_for_an_answer_that_has_some(caller: Caller) -> None:
    caller.sandbox.fault("stockx", "absurd")
    await caller.ask("stockx", "/stockx/v2/catalog/search?query=DD1391-100")
    assert caller.sandbox.open_faults()["open"]
    assert b"999999999999" in (await caller.ask("stockx"))[1]


async def test_bodies_can_be_unreadable_in_many_ways(caller: Caller) -> None:
    async def spoilt(kind: str, **options: Any) -> tuple[bytes, Any]:
        caller.sandbox.fault("alias", kind, **options)
        status, body, headers = await caller.ask("alias")
        assert status == 200
        return body, headers

    proper = (await caller.ask("alias"))[1]
    assert (await spoilt("truncated"))[0] == proper[: len(proper) // 2]
    assert (await spoilt("empty"))[0] == b""
    assert (await spoilt("html"))[1]["Content-Type"].startswith("text/html")
    assert (await spoilt("wrong_shape", body=[1]))[0] == b"[1]"
    body, headers = await spoilt("content_type")
    assert (body, headers["Content-Type"]) == (proper, "text/plain; charset=utf-8")
    body, _ = await spoilt("invalid_utf8")
    with pytest.raises(UnicodeDecodeError):
        body.decode()


async def test_a_huge_body_and_a_small_one_that_grows_stay_valid_json(caller: Caller) -> None:
    proper = json.loads((await caller.ask("alias"))[1])
    caller.sandbox.fault("alias", "huge", size=2**20)
    _, body, _ = await caller.ask("alias")
    assert len(body) > 2**20
    assert json.loads(body) == proper
    caller.sandbox.fault("alias", "gzip_bomb", size=2**23)
    _, packed, headers = await caller.ask("alias")
    assert headers["Content-Encoding"] == "gzip"
    assert len(packed) < 2**17
    assert json.loads(gzip.decompress(packed)) == proper


async def test_a_redirect_points_elsewhere(caller: Caller) -> None:
    caller.sandbox.fault("ebay", "redirect", location="http://127.0.0.1:9/", status=307)
    status, _, headers = await caller.ask("ebay")
    assert (status, headers["Location"]) == (307, "http://127.0.0.1:9/")


@pytest.mark.parametrize("when", ["before", "middle"])
async def test_connections_are_reset_and_logged_as_unanswered(caller: Caller, when: str) -> None:
    caller.sandbox.fault("stockx", "reset", times=None, when=when)
    with pytest.raises((aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)):
        await caller.ask("stockx")
    caller.sandbox.clear_faults()
    assert (await caller.ask("stockx"))[0] == 200
    reset = [entry for entry in caller.sandbox.requests if entry.fault == "reset"]
    assert reset
    assert {entry.status for entry in reset} == {0}


async def test_a_stall_and_a_drip_take_their_time(caller: Caller) -> None:
    for kind in ("stall", "drip"):
        caller.sandbox.fault("alias", kind, seconds=0.2)
        began = time.monotonic()
        assert (await caller.ask("alias"))[0] == 200
        assert time.monotonic() - began >= 0.19


async def test_a_caller_that_gives_up_leaves_a_finished_entry(caller: Caller) -> None:
    caller.sandbox.fault("alias", "stall", seconds=60)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(caller.ask("alias"), 0.1)
    await caller.ask("alias", "/alias/api/v1/test")
    async with asyncio.timeout(5):
        while (entry := caller.sandbox.requests[0]).seconds is None:
            await caller.ask("alias", "/alias/api/v1/test")
    assert (entry.status, entry.fault) == (0, "stall")


async def test_stopping_ends_a_stall_and_a_restart_keeps_port_and_memory(caller: Caller) -> None:
    caller.sandbox.fault("alias", "stall", seconds=60)
    url = caller.sandbox.url
    stalled = asyncio.create_task(caller.ask("alias"))
    async with asyncio.timeout(5):
        while not any(entry.fault == "stall" for entry in caller.sandbox.requests):
            await caller.ask("stockx")
    async with asyncio.timeout(5):
        await caller.sandbox.stop()
        await asyncio.wait([stalled])
    assert stalled.done()
    stalled.exception()  # answered or cut off, either will do
    served = len(caller.sandbox.requests)
    with pytest.raises(aiohttp.ClientConnectionError):
        await caller.ask("alias")
    await caller.sandbox.start()
    assert (caller.sandbox.url, len(caller.sandbox.requests)) == (url, served)
    assert (await caller.ask("stockx"))[0] == 200


async def test_faults_strike_in_order_where_and_as_often_as_ordered(caller: Caller) -> None:
    order = caller.sandbox.fault
    order("alias", "status", 2, "test", status=500)
    order("alias", "status", 1, after=1, status=503)
    order("ebay", "status", None, status=500)
    test = "/alias/api/v1/test"
    assert [(await caller.ask("alias", test))[0] for _ in range(5)] == [500, 500, 200, 503, 200]
    assert [(await caller.ask("ebay"))[0] for _ in range(3)] == [500] * 3
    assert caller.sandbox.clear_faults() == 1
    assert (await caller.ask("ebay"))[0] == 200


async def test_chances_depend_on_the_seed_only(caller: Caller) -> None:
    async def draw() -> list[int]:
        async with Sandbox(seed=7, limits={"*": None}) as sandbox:
            other = Caller(sandbox, caller.session)
            sandbox.fault("alias", "status", None, probability=0.5)
            return [(await other.ask("alias", "/alias/api/v1/test"))[0] for _ in range(20)]

    first = await draw()
    assert set(first) == {200, 500}
    assert await draw() == first


async def test_a_fault_is_kept_when_the_answer_is_an_error_anyway(caller: Caller) -> None:
    caller.sandbox.fault("stockx", "truncated")
    missing = "/stockx/v2/catalog/products/0f0e0d0c-1111-4aaa-8bbb-000000000001"
    assert (await caller.ask("stockx", missing))[0] == 404
    with pytest.raises(json.JSONDecodeError):
        json.loads((await caller.ask("stockx"))[1])


def test_mistyped_orders_are_refused() -> None:
    sandbox = Sandbox()
    for provider, kind, options in (
        ("stockx", "explode", {}),
        ("nobody", "stall", {}),
        ("stockx", "stall", {"minutes": 3}),
        ("stockx", "stall", {"endpoint": "offers"}),
        ("alias", "invalid_grant", {}),
    ):
        with pytest.raises(ValueError, match=r"unknown|takes no|no endpoint|no token"):
            sandbox.fault(provider, kind, **options)
    with pytest.raises(ValueError, match="unknown providers: stocks"):
        Sandbox(limits={"stocks": None})


class TestControl:
    """The same from another process."""

    async def test_everything_can_be_steered_over_http(self, caller: Caller) -> None:
        async def call(method: str, path: str, **body: Any) -> Any:
            url = f"{caller.sandbox.url}/_sandbox/{path}"
            async with caller.session.request(method, url, json=body or None) as answer:
                return await answer.json()

        assert "id" in await call("POST", "faults", provider="alias", kind="status", status=503)
        assert [fault["kind"] for fault in (await call("GET", "faults"))["open"]] == ["status"]
        assert (await caller.ask("alias"))[0] == 503
        assert await call("DELETE", "faults") == {"cleared": 0}
        assert await call("POST", "advance", ticks=3) == {"tick": 3}
        assert await call("POST", "tokens/expire", provider="stockx") == {"expired": 1}
        truth = await call("GET", "truth?provider=stockx&product=DD1391-100&size=10&currency=GBP")
        ask = caller.sandbox.truth("stockx", "DD1391-100", "10", "GBP").ask
        assert (truth["ask"], truth["tick"]) == (str(ask), 3)
        limits = await call("POST", "limits", provider="alias", per_window=1, window_s=60, spend=5)
        assert (limits["alias"]["per_window"], limits["alias"]["used_calls"]) == (1, 6)
        logged = await call("GET", "requests?provider=alias")
        assert [entry["status"] for entry in logged["requests"]] == [503]
        assert await call("GET", f"requests?since={logged['requests'][0]['number']}") == {
            "total": 0,
            "requests": [],
        }
        assert "id" in await call("POST", "retire", product="DD1391-100")
        assert (await call("GET", "catalog?limit=1"))[0]["key"] == "DD1391-100"
        settings = await call("GET", "settings")
        assert settings["ebay"]["token_url"].endswith("/ebay/identity/v1/oauth2/token")

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("GET", "truth?provider=stockx", ""),
            ("GET", "truth?provider=nobody&product=x", ""),
            ("POST", "faults", '{"provider": "stockx", "kind": "explode"}'),
            ("POST", "faults", "[]"),
            ("POST", "faults", "{"),
            ("POST", "limits", '{"provider": "stockx", "per_week": 3}'),
            ("GET", "requests?since=yesterday", ""),
        ],
    )
    async def test_mistakes_are_answered_with_their_reason(
        self, caller: Caller, method: str, path: str, body: str
    ) -> None:
        url = f"{caller.sandbox.url}/_sandbox/{path}"
        async with caller.session.request(method, url, data=body) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]

    async def test_the_first_page_explains_itself(self, caller: Caller) -> None:
        async with caller.session.get(f"{caller.sandbox.url}/_sandbox/") as answer:
            assert f"POST {caller.sandbox.url}/_sandbox/faults" in await answer.text()


async def test_retry_after_may_be_a_date(caller: Caller) -> None:
    date = "Wed, 21 Oct 2026 07:28:00 GMT"
    caller.sandbox.fault("stockx", "status", status=429, retry_after=date)
    _, _, headers = await caller.ask("stockx")
    assert parsedate_to_datetime(headers["Retry-After"]).year == 2026


def test_every_kind_is_played() -> None:
    from marketd.sandbox import mishaps

    assert set(mishaps.PLAYED) == set(KINDS)
