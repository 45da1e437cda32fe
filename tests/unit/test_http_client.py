"""One wire request per grant, whatever the other side does; every answer in its class; every report once."""

from __future__ import annotations

import asyncio
import gzip
import html
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from aiohttp import ClientSession, TCPConnector

from marketd import errors
from marketd.http_client import STATUS_CLASSES, Door, ProviderHttp, Request
from marketd.http_client.answers import parse_json, provider_message, retry_after_s
from marketd.oauth import StaticToken
from provider_kit import GRANTED_AT, Gate, Notes, grant, open_door

SECRET = "very-secret-token"
AUTH = StaticToken({"Authorization": f"Bearer {SECRET}"})


@dataclass
class Wire:
    """A server that reads whole requests, counts them, and answers raw bytes; None resets the connection."""

    url: str = ""
    answer: Callable[[bytes], bytes | Awaitable[bytes] | None] = lambda _request: ok(b"{}")
    hang_up: bool = False  #: close the connection after an answer
    seen: list[bytes] = field(default_factory=list)
    connections: int = 0
    latest: asyncio.StreamWriter | None = None  #: of the connection that came last
    serving: set[asyncio.Task[Any] | None] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.latest = writer
        self.serving.add(asyncio.current_task())
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                self.seen.append(request)
                answer = self.answer(request)
                if isinstance(answer, Awaitable):
                    answer = await answer
                if answer is None:
                    abort(writer)
                    return
                writer.write(answer)
                await writer.drain()
                if self.hang_up:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.serving.discard(asyncio.current_task())
            writer.close()


def abort(writer: asyncio.StreamWriter) -> None:
    """Closes with a reset instead of an orderly end."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()


def ok(body: bytes, *, status: str = "200 OK", kind: str = "application/json", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def never_done() -> asyncio.Future[bytes]:
    return asyncio.get_running_loop().create_future()


@asynccontextmanager
async def running(wire: Wire) -> AsyncIterator[Wire]:
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    async with server:
        wire.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield wire
        finally:
            for task in wire.serving:  # from Python 3.12 on a server waits for its connections when it closes
                if task is not None:
                    task.cancel()


@dataclass
class Bench:
    wire: Wire
    door: Door
    gate: Gate = field(default_factory=Gate)
    notes: Notes = field(default_factory=Notes)

    def http(self) -> ProviderHttp:
        return ProviderHttp(self.door, gate=self.gate, observer=self.notes, priority=150)

    async def get(self, path: str = "/x", **params: str) -> Any:
        return await self.http().get(path, params, endpoint="thing")

    async def failure(self) -> errors.ProviderError:
        with pytest.raises(errors.ProviderError) as failed:
            await self.get()
        assert len(self.notes.requests) == 1
        assert self.notes.classes[0] in STATUS_CLASSES
        return failed.value


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running(Wire()) as wire, open_door("p", wire.url, AUTH, 10, 10_000) as door:
        yield Bench(wire, door)


async def test_an_answer_is_json_with_exact_fractions_and_the_time_of_its_grant(bench: Bench) -> None:
    bench.wire.answer = lambda _: ok(b'{"price": 10.10, "count": 3}', more="X-Request-Id: 7\r\n")
    reply = await bench.get("/a%2Fb", filter="conditionIds:{1000},price:[1..2]", plus="a+b &c")
    assert reply.body == {"price": Decimal("10.10"), "count": 3}
    assert isinstance(reply.body["price"], Decimal)
    assert (reply.status, reply.granted_at, reply.headers["x-request-id"]) == (200, GRANTED_AT, "7")
    target = bench.wire.seen[0].split()[1].decode()
    assert target.startswith("/a%2Fb?filter=conditionIds:%7B1000%7D,price:%5B1..2%5D&plus=a%2Bb")
    assert bench.notes.requests[0].status_class == "ok"
    assert bench.notes.requests[0].priority == 150


async def test_a_reset_before_the_answer_is_one_request_on_the_wire(bench: Bench) -> None:
    bench.wire.answer = lambda _: None
    error = await bench.failure()
    assert (type(error), error.error_code) == (errors.Transient, "connection")
    assert len(bench.wire.seen) == 1
    assert (bench.gate.charged, bench.notes.classes) == (1, ["connection"])


async def test_a_kept_connection_that_is_reset_costs_no_second_request(bench: Bench) -> None:
    bench.wire.answer = lambda _: ok(b"1") if len(bench.wire.seen) == 1 else None
    await bench.get()
    with pytest.raises(errors.Transient):
        await bench.get()
    assert len(bench.wire.seen) == bench.gate.charged == 2


async def test_connections_are_kept_and_one_that_was_closed_meanwhile_costs_nothing(bench: Bench) -> None:
    for _ in range(3):
        await bench.get()
    assert bench.wire.connections == 1
    bench.wire.hang_up = True
    for _ in range(3):
        await bench.get()
        await asyncio.sleep(0.05)  # the end of the connection arrives
    assert bench.wire.connections == 3
    assert len(bench.wire.seen) == bench.gate.charged == 6
    assert bench.notes.classes == ["ok"] * 6


@pytest.mark.parametrize("read_by_then", [False, True])
@pytest.mark.parametrize("unasked", [b'"of another"', b""], ids=["an answer", "the end"])
async def test_what_comes_unasked_on_a_kept_connection_is_never_the_next_answer(
    bench: Bench, unasked: bytes, read_by_then: bool
) -> None:
    bench.wire.answer = lambda request: ok(json.dumps(request.split()[1].decode()).encode())
    assert (await bench.get("/first")).body == "/first"
    assert bench.wire.latest is not None
    if unasked:
        bench.wire.latest.write(ok(unasked))
    else:
        bench.wire.latest.get_extra_info("socket").shutdown(socket.SHUT_WR)
    if read_by_then:
        await asyncio.sleep(0.05)  # it arrives
    assert (await bench.get("/second")).body == "/second"
    assert (await bench.get("/third")).body == "/third"
    assert (bench.wire.connections, len(bench.wire.seen), bench.gate.charged) == (2, 3, 3)
    assert [report.status_class for report in bench.notes.requests if not report.given_back] == ["ok"] * 3


async def test_what_comes_unasked_before_a_late_request_is_written_is_not_its_answer(bench: Bench) -> None:
    bench.wire.answer = lambda request: ok(json.dumps(request.split()[1].decode()).encode())
    await bench.get("/first")

    class Late(Gate):
        async def move(self, grant: Any, within_s: float) -> Any:
            assert bench.wire.latest is not None
            bench.wire.latest.write(ok(b'"of another"'))
            return await super().move(grant, within_s)

    bench.gate = Late([grant(delay_s=-1)])
    assert (await bench.get("/second")).body == "/second"
    assert (bench.gate.moved, bench.wire.connections) == (1, 2)
    assert (len(bench.wire.seen), bench.gate.charged) == (2, 1)


async def test_kept_connections_that_break_at_random_never_carry_more_than_was_charged(bench: Bench) -> None:
    dice = random.Random(5)

    def answer(_: bytes) -> bytes | None:
        bench.wire.hang_up = dice.random() < 0.2
        return None if dice.random() < 0.3 else ok(b"1")

    bench.wire.answer = answer

    async def worker() -> None:
        for _ in range(40):
            with suppress(errors.Transient):
                await bench.get()

    await asyncio.gather(*(worker() for _ in range(5)))
    assert 0.6 * 200 < len(bench.wire.seen) <= bench.gate.charged <= 200
    assert bench.wire.connections < len(bench.wire.seen), "none was kept, so nothing was tried"
    sent = [report.status_class for report in bench.notes.requests if not report.given_back]
    assert {"ok", "connection"} == set(sent)


async def test_the_http_library_by_itself_would_have_sent_it_twice(bench: Bench) -> None:
    bench.wire.answer = lambda _: None
    async with ClientSession(connector=TCPConnector()) as plain:
        with pytest.raises(OSError, match=r"reset|disconnected"):
            await plain.get(bench.wire.url)
    assert len(bench.wire.seen) == 2, "no longer repeated: open_session may be simpler now"


async def test_a_connection_that_cannot_be_made_is_given_back() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        async with open_door("p", url, AUTH, 10) as door:
            gate, notes = Gate(), Notes()
            http = ProviderHttp(door, gate=gate, observer=notes, priority=1)
            with pytest.raises(errors.Transient) as failed:
                await http.get("/x", endpoint="thing")
    assert failed.value.error_code == "connection"
    assert (gate.charged, http.requests, notes.requests[0].given_back) == (0, 0, True)


async def test_a_name_that_does_not_resolve_is_given_back() -> None:
    async with open_door("p", "http://no.such.host.invalid", AUTH, 5) as door:
        gate, notes = Gate(), Notes()
        with pytest.raises(errors.Transient):
            await ProviderHttp(door, gate=gate, observer=notes, priority=1).get("/x", endpoint="thing")
    assert (gate.charged, notes.requests[0].given_back) == (0, True)


async def test_a_tls_handshake_that_fails_is_given_back(bench: Bench) -> None:
    async with open_door("p", bench.wire.url.replace("http:", "https:"), AUTH, 2) as door:
        http = ProviderHttp(door, gate=bench.gate, observer=bench.notes, priority=1)
        with pytest.raises(errors.Transient):
            await http.get("/x", endpoint="thing")
    assert (bench.gate.charged, bench.notes.requests[0].given_back) == (0, True)


async def test_an_answer_that_never_comes_is_a_timeout_and_stays_charged(bench: Bench) -> None:
    async def never(_: bytes = b"") -> bytes:
        return await never_done()

    bench.wire.answer = never
    async with open_door("p", bench.wire.url, AUTH, 1, 10_000) as bench.door:
        error = await bench.failure()
    assert (error.error_code, bench.gate.charged, bench.notes.classes) == ("timeout", 1, ["timeout"])


async def test_cancelled_while_it_waits_to_leave_the_charge_is_given_back(bench: Bench) -> None:
    bench.gate.plan.append(grant(delay_s=60))
    task = asyncio.create_task(bench.get())
    await bench.gate.was_asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (bench.gate.charged, bench.wire.seen) == (0, [])
    assert [report.given_back for report in bench.notes.requests] == [True]


async def test_cancelled_after_it_left_the_charge_stays(bench: Bench) -> None:
    arrived = asyncio.Event()

    async def held(_: bytes) -> bytes:
        arrived.set()
        return await never_done()

    bench.wire.answer = held
    task = asyncio.create_task(bench.get())
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (bench.gate.charged, len(bench.notes.requests)) == (1, 1)


async def test_a_grant_that_ran_out_while_it_waited_is_given_back_and_taken_anew(bench: Bench) -> None:
    bench.gate.plan += [grant(delay_s=0.02, valid_s=0.01), grant()]
    await bench.get()
    assert (len(bench.gate.taken), bench.gate.returned, len(bench.wire.seen)) == (2, ["r1"], 1)


@pytest.fixture
def slow_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections take their time."""
    connect = TCPConnector._create_connection

    async def slow(*args: Any) -> Any:
        await asyncio.sleep(0.15)
        return await connect(*args)

    monkeypatch.setattr(TCPConnector, "_create_connection", slow)


async def test_a_request_that_leaves_at_its_moment_asks_for_no_other(bench: Bench) -> None:
    bench.gate.plan.append(replace(grant(), slack_s=2.0))
    await bench.get()
    assert (bench.gate.moved, len(bench.wire.seen)) == (0, 1)


@pytest.mark.usefixtures("slow_handshake")
async def test_a_request_whose_connection_took_long_leaves_at_another_moment(bench: Bench) -> None:
    moved: list[int] = []

    class Busy(Gate):
        async def move(self, grant: Any, within_s: float) -> Any:
            moved.append(len(bench.wire.seen))
            return replace(grant, leave_at=time.monotonic() + 0.1)

    began = time.monotonic()
    http = ProviderHttp(bench.door, gate=Busy(), observer=bench.notes, priority=1)
    await http.get("/", endpoint="thing")
    assert moved[0] == 0  # nothing was on the wire yet
    assert time.monotonic() - began >= 0.15 + 0.1
    assert (len(bench.wire.seen), http.requests) == (1, 1)


@pytest.mark.usefixtures("slow_handshake")
async def test_a_grant_with_slack_may_leave_so_much_later(bench: Bench) -> None:
    bench.gate.plan.append(replace(grant(), slack_s=5.0))
    await bench.get()
    assert (bench.gate.moved, len(bench.wire.seen)) == (0, 1)


@pytest.mark.usefixtures("slow_handshake")
async def test_a_request_whose_lane_was_closed_while_it_connected_is_not_written(bench: Bench) -> None:
    class Closed(Gate):
        async def move(self, grant: Any, within_s: float) -> Any:
            raise errors.NotGranted("cooldown", None)

    gate = Closed()
    with pytest.raises(errors.NotGranted):
        await ProviderHttp(bench.door, gate=gate, observer=bench.notes, priority=1).get("/", endpoint="thing")
    assert (bench.wire.seen, gate.charged) == ([], 0)


@pytest.mark.usefixtures("slow_handshake")
async def test_a_request_whose_grant_ran_out_while_it_connected_is_given_back_and_taken_anew(
    bench: Bench,
) -> None:
    class Slow(Gate):
        async def move(self, grant: Any, within_s: float) -> Any:
            return replace(grant, leave_at=time.monotonic() + (0.1 if len(self.taken) == 1 else 0.0))

    gate = Slow(plan=[grant(valid_s=0.2)])
    await ProviderHttp(bench.door, gate=gate, observer=bench.notes, priority=1).get("/", endpoint="thing")
    assert (len(gate.taken), gate.returned, len(bench.wire.seen)) == (2, ["r1"], 1)


@pytest.mark.usefixtures("slow_handshake")
async def test_a_request_that_gets_no_other_moment_in_time_is_given_back_and_taken_anew(bench: Bench) -> None:
    class Full(Gate):
        async def move(self, grant: Any, within_s: float) -> Any:
            return None if len(self.taken) == 1 else replace(grant, leave_at=time.monotonic())

    gate = Full()
    await ProviderHttp(bench.door, gate=gate, observer=bench.notes, priority=1).get("/", endpoint="thing")
    assert (len(gate.taken), gate.returned, len(bench.wire.seen)) == (2, ["r1"], 1)


async def test_what_is_not_granted_is_not_sent(bench: Bench) -> None:
    bench.gate.plan.append(errors.NotGranted("budget", None))
    with pytest.raises(errors.NotGranted):
        await bench.get()
    assert (bench.wire.seen, bench.notes.requests) == ([], [])


async def test_a_give_back_that_fails_is_told_and_the_first_error_stands(bench: Bench) -> None:
    class Broken(Gate):
        async def give_back(self, grant: Any) -> None:
            raise errors.DatabaseUnavailable("gone")

    notes = Notes()
    async with open_door("p", "http://no.such.host.invalid", AUTH, 5) as door:
        with pytest.raises(errors.Transient):
            await ProviderHttp(door, gate=Broken(), observer=notes, priority=1).get("/", endpoint="thing")
    assert [name for name, _ in notes.events] == ["give_back_failed"]
    assert notes.requests[0].given_back is False


@pytest.mark.parametrize(
    ("status", "kind", "code", "told"),
    [
        ("400 Bad", errors.Rejected, "rejected", "bad_request"),
        ("401 No", errors.Unauthorized, "unauthorized", "unauthorized"),
        ("403 No", errors.Unauthorized, "forbidden", "forbidden"),
        ("404 No", errors.NotListed, "unknown_sku", "not_found"),
        ("408 Slow", errors.Transient, "timeout", "other"),
        ("409 No", errors.Rejected, "rejected", "other"),
        ("429 Many", errors.Throttled, "throttled", "throttled"),
        ("500 Oh", errors.Transient, "server_error", "server_error"),
        ("504 Gone", errors.Transient, "server_error", "server_error"),
    ],
)
async def test_every_status_has_its_error(
    bench: Bench, status: str, kind: type[errors.ProviderError], code: str, told: str
) -> None:
    bench.wire.answer = lambda _: ok(b'{"errorMessage": "because"}', status=status, more="Retry-After: 9\r\n")
    error = await bench.failure()
    assert (type(error), error.error_code, bench.notes.classes) == (kind, code, [told])
    assert error.http_status == int(status[:3])
    assert str(error) == f"HTTP {status[:3]}: because"
    if isinstance(error, errors.Throttled):
        assert error.retry_after_s == 9


async def test_a_redirect_is_not_followed(bench: Bench) -> None:
    async with running(Wire()) as elsewhere:
        bench.wire.answer = lambda _: ok(b"", status="302 Found", more=f"Location: {elsewhere.url}/\r\n")
        assert isinstance(await bench.failure(), errors.Transient)
        assert elsewhere.seen == []
    assert len(bench.wire.seen) == 1


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (ok(b"<html>", kind="text/html"), "content_type"),
        (ok(b"{}", kind=""), "content_type"),
        (ok(b"{}", kind="text/plain"), "content_type"),
        (ok(b""), "bad_json"),
        (ok(b'{"a": 1'), "bad_json"),
        (ok(b'{"a": NaN}'), "bad_json"),
        (ok(b'{"a": -Infinity}'), "bad_json"),
        (ok(b'{"a": 1e309}'), "bad_json"),
        (ok(b'{"a": "\xff"}'), "bad_json"),
        (ok(b'{"a": ' + b"9" * 5000 + b"}"), "bad_json"),
        (ok(b"[" * 9000), "bad_json"),
        (ok(b'"' + b"x" * 20_000 + b'"'), "too_large"),
        (ok(gzip.compress(b'"' + b"x" * 9_000_000 + b'"'), more="Content-Encoding: gzip\r\n"), "too_large"),
        (ok(gzip.compress(b"{}")[:-9], more="Content-Encoding: gzip\r\n"), "bad_json"),
        (ok(gzip.compress(b"{}") + b"\0", more="Content-Encoding: gzip\r\n"), "bad_json"),
        (ok(gzip.compress(b"{}") + bytes(500_000), more="Content-Encoding: gzip\r\n"), "bad_json"),
        (ok(gzip.compress(b"[1") + gzip.compress(b"]"), more="Content-Encoding: gzip\r\n"), "bad_json"),
        (ok(b"not gzip", more="Content-Encoding: gzip\r\n"), "bad_json"),
        (ok(b"{}", more="Content-Encoding: br\r\n"), "content_type"),
    ],
)
async def test_a_200_that_cannot_be_trusted_is_a_bad_payload(bench: Bench, answer: bytes, code: str) -> None:
    bench.wire.answer = lambda _: answer
    error = await bench.failure()
    assert (type(error), error.error_code, bench.notes.classes) == (errors.BadPayload, code, ["bad_payload"])


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "application/x+json"]
)
async def test_json_is_taken_in_every_usual_dress(bench: Bench, kind: str) -> None:
    bench.wire.answer = lambda _: ok(gzip.compress(b"[1]"), kind=kind, more="Content-Encoding: gzip\r\n")
    assert (await bench.get()).body == [1]
    bench.wire.answer = lambda _: ok(
        b"\xef\xbb\xbf[1]", kind=kind
    )  # a byte order mark may be passed over (RFC 8259)
    assert (await bench.get()).body == [1]
    bench.wire.answer = lambda _: b"HTTP/1.1 204 No Content\r\n\r\n"
    assert (await bench.get()).body is None


async def test_a_body_that_breaks_off_is_a_broken_connection(bench: Bench) -> None:
    bench.wire.hang_up = True
    bench.wire.answer = lambda _: ok(b"{}").replace(b"Content-Length: 2", b"Content-Length: 50")
    error = await bench.failure()
    assert (error.error_code, bench.notes.classes, bench.gate.charged) == ("connection", ["connection"], 1)


async def test_no_message_shows_what_we_sent_to_prove_who_we_are(bench: Bench) -> None:
    bench.wire.answer = lambda request: ok(
        json.dumps({"message": request.decode()}).encode(), status="400 Bad"
    )
    error = await bench.failure()
    assert SECRET not in str(error)
    assert "***" in str(error)
    assert SECRET not in repr(error) + repr(bench.door.auth) + repr(
        Request(endpoint="x", url="u", form={"a": SECRET})
    )


@pytest.mark.parametrize(
    "answer",
    [
        ok(f'{{"message": "{"x" * 190} {SECRET}"}}'.encode(), status="400 Bad"),
        ok(f'{{"message": "{"x" * 190} {SECRET}"}}'.replace("-", "\\u002D").encode(), status="400 Bad"),
        ok(b"", status=f"400 {'x' * 190} {SECRET}"),
    ],
)
async def test_a_secret_is_masked_however_it_is_spelled_and_wherever_the_message_is_cut(
    bench: Bench, answer: bytes
) -> None:
    bench.wire.answer = lambda _: answer
    told = str(await bench.failure())
    assert told.startswith("HTTP 400: xxx")
    assert "very" not in told


async def test_a_form_that_is_echoed_as_it_was_sent_shows_no_secret(bench: Bench) -> None:
    """It was sent percent-encoded, and an address that refuses it may say what it got."""
    form = {"client_secret": "CSECRET-99/+x==", "refresh_token": "rt|0123 456"}

    for sent in (
        urlencode(form),
        urlencode(form).replace("%2F", "%2f"),
        urlencode(form, quote_via=quote),
        json.dumps(form).replace("/", "\\/"),
        html.escape(json.dumps(form)),
        repr(form),
    ):
        echo = ok(json.dumps({"message": sent}).encode(), status="400 Bad")
        bench.wire.answer = partial(lambda answer, _request: answer, echo)
        with pytest.raises(errors.Rejected) as refused:
            await bench.http().send(
                Request(endpoint="token", url=bench.door.base_url + "/t", form=form, meter="mints")
            )
        told = str(refused.value)
        assert not any(half in told for half in ("CSECRET", "99", "rt|", "rt%", "0123", "456")), told
        assert "***" in told


async def test_a_secret_that_begins_where_an_escape_ends_breaks_no_error(bench: Bench) -> None:
    bench.wire.answer = lambda _: ok(rb'{"message": "line\nabcdefgh"}', status="400 Bad")
    door = replace(bench.door, secrets=("nabcdefgh",))
    with pytest.raises(errors.Rejected, match="line abcdefgh"):
        await ProviderHttp(door, gate=bench.gate, observer=bench.notes, priority=1).get("/x", endpoint="x")


async def test_a_message_is_short_and_printable(bench: Bench) -> None:
    bench.wire.answer = lambda _: ok(
        json.dumps({"message": "a\x00\n" + "b" * 999}).encode(), status="400 Bad"
    )
    text = str(await bench.failure())
    assert text.isprintable()
    assert len(text) < 220


async def test_a_providers_own_reading_of_an_error_comes_first() -> None:
    def classify(status: int, headers: Any, body: Any) -> errors.ProviderError | None:
        return errors.Throttled("spent", day_spent=True) if body == {"code": 1} else None

    async with running(Wire()) as wire, open_door("p", wire.url, AUTH, classify=classify) as door:
        bench = Bench(wire, door)
        wire.answer = lambda _: ok(b'{"code": 1}', status="400 Bad")
        error = await bench.failure()
        assert isinstance(error, errors.Throttled)
        assert error.day_spent


async def test_a_401_without_another_token_is_final(bench: Bench) -> None:
    bench.wire.answer = lambda _: ok(b"{}", status="401 No")
    assert isinstance(await bench.failure(), errors.Unauthorized)
    assert len(bench.wire.seen) == 1


async def test_a_path_must_begin_with_a_slash(bench: Bench) -> None:
    with pytest.raises(ValueError, match="start with /"):
        await bench.get("evil.example/x")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"errorMessage": "a", "message": "b"}, "a"),
        ({"statusCode": 400, "message": "b"}, "b"),
        ({"error": "c", "error_description": "d"}, "c"),
        ({"errors": [{"message": "e", "longMessage": "f"}]}, "f"),
        ({"errors": [{"message": "e"}]}, "e"),
        ({"error_description": "g"}, "g"),
        ({"errors": [], "message": 7}, ""),
        (["x"], ""),
        (None, ""),
    ],
)
def test_the_providers_message_is_found_in_every_form(body: Any, message: str) -> None:
    assert provider_message(body) == message


def test_retry_after_is_read_as_seconds_or_as_a_date() -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert retry_after_s({"Retry-After": " 120 "}) == 120
    assert retry_after_s({"Retry-After": "Sun, 01 Mar 2026 12:02:00 GMT"}, now=now) == 120
    assert retry_after_s({"Retry-After": "Sun, 01 Mar 2026 11:00:00 GMT"}, now=now) == 0
    assert retry_after_s({"Retry-After": "soon"}) is None
    assert retry_after_s({"Retry-After": "-5"}) is None
    assert retry_after_s({}) is None


def test_a_date_to_retry_after_is_held_against_the_providers_own_clock() -> None:
    ours = datetime(2026, 3, 1, 14, tzinfo=UTC)  # two hours ahead of theirs
    told = {"Retry-After": "Sun, 01 Mar 2026 12:00:30 GMT", "Date": "Sun, 01 Mar 2026 12:00:00 GMT"}
    assert retry_after_s(told, now=ours) == 30
    assert retry_after_s({**told, "Date": "nonsense"}, now=datetime(2026, 3, 1, 12, tzinfo=UTC)) == 30
    assert retry_after_s({**told, "Date": "Sunday, 01-Mar-26 12:00:10 GMT"}, now=ours) == 20


@pytest.mark.parametrize(
    "text", ["999999999999", "9" * 100, "Fri, 31 Dec 9999 23:59:59 GMT", "Sun, 01 Mar 2027 12:00:00 GMT"]
)
def test_an_absurd_retry_after_is_bounded(text: str) -> None:
    assert retry_after_s({"Retry-After": text}, now=datetime(2026, 3, 1, 12, tzinfo=UTC)) == 90_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1e5",
        "nan",
        "inf",
        "0x10",
        "१२",
        "30 seconds",
        "Fri, 99 Foo 9999 99:99:99 GMT",
    ],
)
def test_an_unreadable_retry_after_is_none(text: str) -> None:
    assert retry_after_s({"Retry-After": text}) is None


def test_json_keeps_every_digit() -> None:
    assert parse_json(b"[0.1, 12345678901234567890.5]") == [Decimal("0.1"), Decimal("12345678901234567890.5")]
