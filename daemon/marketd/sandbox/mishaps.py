"""Plays a fault on the wire, down to the reset of a TCP connection."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from aiohttp import web

from marketd import clock
from marketd.sandbox.face import Face

_BLOCK = b" " * 65536  #: white space before JSON keeps it valid, so only a size limit can stop a reader
_PAGE = b"<!DOCTYPE html>\n<html><head><title>Sandbox</title></head><body><h1>Not JSON</h1></body></html>\n"
_AMOUNTS = {"nan": b"NaN", "overflow": b"1e309", "negative": b'"-5"', "absurd": b'"999999999999"'}


class Harmless(Exception):
    """The answer was an error already, so there was nothing to spoil."""

    def __init__(self, response: web.Response) -> None:
        super().__init__("nothing to spoil")
        self.response = response


@dataclass(frozen=True, slots=True)
class Scene:
    """One request that is to go wrong."""

    request: web.Request
    face: Face
    kind: str
    options: dict[str, Any]
    proceed: Callable[[], Awaitable[web.Response]]  #: the proper answer
    stopping: asyncio.Event  #: set when the sandbox stops; ends every wait

    async def proper(self) -> web.Response:
        response = await self.proceed()
        if response.status != 200:
            raise Harmless(response)
        return response

    async def wait(self, seconds: float) -> None:
        await clock.happens(self.stopping, seconds)

    def __getitem__(self, option: str) -> Any:
        return self.options[option]


async def play(scene: Scene) -> web.StreamResponse:
    """Answer wrongly. Raises `Harmless` with the proper answer when that is an error anyway."""
    if scene.kind in _INSTEAD:
        return _INSTEAD[scene.kind](scene)
    if scene.kind in _SPOILT:
        response = await scene.proper()
        return _respond(_SPOILT[scene.kind](_body(response), scene), response)
    return await _DELIVERED[scene.kind](scene)


def retry_after(value: float | str, *, form: str = "seconds") -> str:
    """A `Retry-After` value: seconds as they are, or the HTTP date that lies so far ahead."""
    if form == "date":
        return format_datetime(datetime.now(UTC) + timedelta(seconds=float(value)), usegmt=True)
    return str(value)


# -- answers that need no proper one ---------------------------------------------------------------------


def _status(scene: Scene) -> web.Response:
    status = int(scene["status"])
    response = scene.face.error(status)
    if scene["html"]:
        response = web.Response(
            body=_PAGE, status=status, headers={"Content-Type": "text/html; charset=UTF-8"}
        )
    if scene["body"] is not None:
        body = scene["body"]
        response.body = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    if status == 204:
        response = web.Response(status=204)
    if scene["retry_after"] is not None:
        response.headers["Retry-After"] = str(scene["retry_after"])
    return response


def _message(scene: Scene) -> web.Response:
    response = scene.face.error(int(scene["status"]))
    response.body = _body(response).replace(b'"errorMessage"', b'"message"')
    return response


def _invalid_grant(scene: Scene) -> web.Response:
    response = scene.face.token_refused()
    assert response is not None  # the order was refused for providers without a token endpoint
    return response


def _redirect(scene: Scene) -> web.Response:
    return web.Response(status=int(scene["status"]), headers={"Location": str(scene["location"])})


# -- proper answers, spoilt ------------------------------------------------------------------------------


def _wrong_amount(body: bytes, scene: Scene) -> bytes:
    return scene.face.amount.sub(lambda found: found[1] + _AMOUNTS[scene.kind], body)


def _broken_utf8(body: bytes, scene: Scene) -> bytes:
    at = body.find(b'"') + 1
    return body[:at] + b"\xc3\x28\xff" + body[at:]


def _without_warnings(body: bytes, scene: Scene) -> bytes:
    parsed = json.loads(body)
    if isinstance(parsed, dict):
        parsed.pop("warnings", None)
    return json.dumps(parsed).encode()


# -- proper answers, badly delivered ---------------------------------------------------------------------


async def _stall(scene: Scene) -> web.StreamResponse:
    await scene.wait(float(scene["seconds"]))
    return await scene.proceed()


async def _drip(scene: Scene) -> web.StreamResponse:
    body = _body(proper := await scene.proper())
    response = await _begin(scene, proper, length=len(body))
    chunks = max(1, int(scene["chunks"]))
    step = -(-len(body) // chunks)
    for at in range(0, len(body), step):
        await scene.wait(float(scene["seconds"]) / chunks)
        await response.write(body[at : at + step])
    await response.write_eof()
    return response


async def _reset(scene: Scene) -> web.StreamResponse:
    if scene["when"] == "before":
        _slam(scene.request)
        return web.Response(status=500)  # never leaves: the connection is gone
    body = _body(proper := await scene.proper())
    response = await _begin(scene, proper, length=len(body))
    await response.write(body[: len(body) // 2])
    _slam(scene.request)
    return response


async def _typed(scene: Scene) -> web.StreamResponse:
    return _respond(_body(proper := await scene.proper()), proper, content_type=str(scene["content_type"]))


async def _page(scene: Scene) -> web.StreamResponse:
    return _respond(_PAGE, await scene.proper(), content_type="text/html; charset=utf-8")


async def _huge(scene: Scene) -> web.StreamResponse:
    body = _body(proper := await scene.proper())
    response = await _begin(scene, proper)
    for _ in range(int(scene["size"]) // len(_BLOCK)):
        await response.write(_BLOCK)
    await response.write(body)
    await response.write_eof()
    return response


async def _gzip_bomb(scene: Scene) -> web.StreamResponse:
    body = _body(proper := await scene.proper())
    packer = zlib.compressobj(level=1, wbits=31)
    response = await _begin(scene, proper, Content_Encoding="gzip")
    for _ in range(int(scene["size"]) // len(_BLOCK)):
        if packed := packer.compress(_BLOCK):
            await response.write(packed)
    await response.write(packer.compress(body) + packer.flush())
    await response.write_eof()
    return response


_INSTEAD: dict[str, Callable[[Scene], web.Response]] = {
    "status": _status,
    "message": _message,
    "invalid_grant": _invalid_grant,
    "redirect": _redirect,
}
_SPOILT: dict[str, Callable[[bytes, Scene], bytes]] = {
    **dict.fromkeys(_AMOUNTS, _wrong_amount),
    "invalid_utf8": _broken_utf8,
    "no_warnings": _without_warnings,
    "truncated": lambda body, scene: body[: len(body) // 2],
    "empty": lambda body, scene: b"",
    "wrong_shape": lambda body, scene: json.dumps(scene["body"]).encode(),
}
_DELIVERED: dict[str, Callable[[Scene], Awaitable[web.StreamResponse]]] = {
    "stall": _stall,
    "drip": _drip,
    "reset": _reset,
    "content_type": _typed,
    "html": _page,
    "huge": _huge,
    "gzip_bomb": _gzip_bomb,
}
PLAYED = frozenset(_INSTEAD) | frozenset(_SPOILT) | frozenset(_DELIVERED)


def _body(response: web.Response) -> bytes:
    return response.body if isinstance(response.body, bytes) else b""


def _respond(body: bytes, like: web.Response, *, content_type: str | None = None) -> web.Response:
    return web.Response(
        body=body,
        status=like.status,
        headers={"Content-Type": content_type or like.headers["Content-Type"]},
    )


async def _begin(
    scene: Scene, like: web.Response, *, length: int | None = None, **headers: str
) -> web.StreamResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = web.StreamResponse(
        status=like.status, headers={"Content-Type": like.headers["Content-Type"], **named}
    )
    response.content_length = length
    await response.prepare(scene.request)
    return response


def _slam(request: web.Request) -> None:
    """Close the connection with a TCP reset."""
    transport = request.transport
    if transport is None:
        return
    endpoint = transport.get_extra_info("socket")
    endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
