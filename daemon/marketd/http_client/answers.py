"""From an HTTP response to trusted JSON or to the error class that says what to do about it."""

from __future__ import annotations

import codecs
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn, TypeAlias

import aiohttp

from marketd import errors, masking

#: What `RequestReport.status_class` may be.
STATUS_CLASSES = (
    "ok",
    "bad_request",
    "unauthorized",
    "forbidden",
    "not_found",
    "throttled",
    "server_error",
    "timeout",
    "connection",
    "bad_payload",
    "other",
)

#: A provider's own reading of status, headers and JSON where it is not 2xx; None leaves it to the usual one.
Classify: TypeAlias = Callable[[int, Mapping[str, str], Any], errors.ProviderError | None]

ERROR_BYTES = 64 * 1024  #: of an error's body, no more is read
MESSAGE_CHARACTERS = 200
LONGEST_S = 90_000.0  #: that a `Retry-After` is believed
_CHUNK = 64 * 1024
_JSON_TYPE = re.compile(r"(application|text)/([\w.-]+\+)?json", re.IGNORECASE)
_CLASSES = {400: "bad_request", 401: "unauthorized", 403: "forbidden", 404: "not_found", 429: "throttled"}


def status_class(status: int | None, error: BaseException | None) -> str:
    """The closed word for one request, from its status and the error that it ended with."""
    if status is None:
        code = error.error_code if isinstance(error, errors.Transient) else ""
        return code if code in ("timeout", "connection") else "other"
    if 200 <= status < 300:
        return _class_of_success(error)
    return _CLASSES.get(status) or ("server_error" if status >= 500 else "other")


def _class_of_success(error: BaseException | None) -> str:
    match error:
        case None:
            return "ok"
        case errors.BadPayload():
            return "bad_payload"
        case errors.Transient(error_code="timeout" | "connection" as code):
            return str(code)
    return "other"


async def json_of(response: aiohttp.ClientResponse, limit: int) -> Any:
    """The JSON of a 2xx, None for a 204. Raises BadPayload: `too_large`, `content_type` or `bad_json`."""
    if response.status == 204:
        return None
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
    if not _JSON_TYPE.fullmatch(kind):
        raise errors.BadPayload(
            f"expected JSON, got {_printable(kind) or 'no content type'}",
            code="content_type",
            http_status=response.status,
        )
    try:
        return parse_json(await _body(response, limit))
    except errors.BadPayload as error:
        error.http_status = response.status
        raise


async def error_of(
    response: aiohttp.ClientResponse, classify: Classify | None, secrets: Iterable[str]
) -> errors.ProviderError:
    """What an answer that is not 2xx means. Its message is the provider's own, without anything secret."""
    hidden = masking.pattern(secrets)
    body = await _error_body(response, hidden)
    own = classify(response.status, response.headers, body) if classify else None
    said = provider_message(body) or _printable(_masked(response.reason or "no message", hidden))
    error = own or _usual(response.status, said, response.headers)
    error.args = tuple(_masked(str(arg), hidden) for arg in error.args)
    return error


def _masked(value: Any, hidden: re.Pattern[str] | None) -> Any:
    """JSON or a text, without what is hidden, in whatever spelling."""
    match value:
        case str() if hidden is not None:
            return hidden.sub("***", value)
        case dict():
            return {_masked(key, hidden): _masked(held, hidden) for key, held in value.items()}
        case list():
            return [_masked(held, hidden) for held in value]
    return value


def _usual(status: int, said: str, headers: Mapping[str, str]) -> errors.ProviderError:
    message = f"HTTP {status}: {said}"
    match status:
        case 401:
            return errors.Unauthorized(message, http_status=status)
        case 403:
            return errors.Unauthorized(message, code="forbidden", http_status=status)
        case 404:
            return errors.NotListed(message, http_status=status)
        case 429:
            return errors.Throttled(message, retry_after_s=retry_after_s(headers))
        case 408 | 425:
            return errors.Transient(message, code="timeout", http_status=status)
        case _ if 400 <= status < 500:
            return errors.Rejected(message, http_status=status)
    # A redirect is never followed (it would carry the credentials along); it is taken for a passing trouble.
    return errors.Transient(message, http_status=status)


def provider_message(body: Any) -> str:
    """The first human sentence of an error body in any of the providers' forms; empty if there is none."""
    if not isinstance(body, dict):
        return ""
    listed = body.get("errors")
    first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else {}
    candidates = (
        body.get("errorMessage"),
        body.get("message"),
        body.get("error"),
        first.get("longMessage"),
        first.get("message"),
        body.get("error_description"),
    )
    return next((_printable(text) for text in candidates if isinstance(text, str) and text.strip()), "")


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:MESSAGE_CHARACTERS]).strip()


def retry_after_s(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Seconds that `Retry-After` asks for, given as a number or as an HTTP date; None if unreadable.

    A date is of the provider's clock, so it is held against the answer's own `Date`, and only without one against ours.
    Never more than the 25 hours that a provider's day can have.
    """
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,100}(\.[0-9]{1,100})?", text, re.ASCII):
        return min(float(text), LONGEST_S)
    until = _http_date(text)
    if until is None:
        return None
    told = _http_date(headers.get("Date", ""))
    return min(max(0.0, (until - (told or now or datetime.now(UTC))).total_seconds()), LONGEST_S)


def _http_date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None


async def _error_body(response: aiohttp.ClientResponse, hidden: re.Pattern[str] | None) -> Any:
    """The error's JSON, or None: the status alone decides when its body is broken, late or not JSON."""
    try:
        # Masked before anything is cut to length, or a half of a secret would stay.
        return _masked(parse_json(await _body(response, ERROR_BYTES)), hidden)
    except (errors.BadPayload, aiohttp.ClientError, TimeoutError, RecursionError):
        return None


async def _body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The decompressed body, never holding more than `limit` bytes of it."""
    inflate = _inflater(response.headers.get("Content-Encoding", "identity"))
    pieces, held = [], 0  # a growing buffer would be held twice whenever it moves
    while not response.content.at_eof():  # a short answer is often all there by now: one look is enough
        chunk = await response.content.read(_CHUNK)
        for piece in _inflated(inflate, chunk) if inflate else (chunk,):
            held += len(piece)
            if held > limit:
                raise errors.BadPayload(f"the answer is over {limit} bytes", code="too_large")
            pieces.append(piece)
    if inflate and not inflate.eof:
        raise errors.BadPayload("the compressed answer is cut off", code="bad_json")
    return b"".join(pieces)


def _inflater(encoding: str) -> zlib._Decompress | None:
    match encoding.strip().lower():
        case "identity" | "":
            return None
        case "gzip" | "x-gzip" | "deflate":
            return zlib.decompressobj(wbits=47)  # 32 + 15: gzip or zlib, told by their header
    raise errors.BadPayload(f"unknown content encoding {_printable(encoding)}", code="content_type")


def _inflated(inflate: zlib._Decompress, chunk: bytes) -> Iterator[bytes]:
    """What the chunk holds, piece by piece: of a bomb nothing is unpacked beyond the piece that is too much."""
    while True:
        try:
            piece = inflate.decompress(chunk, _CHUNK)
        except zlib.error as error:
            raise errors.BadPayload("the compressed answer is damaged", code="bad_json") from error
        if inflate.unused_data:  # it would be kept, however much comes
            raise errors.BadPayload("the compressed answer goes on after its end", code="bad_json")
        yield piece
        chunk = inflate.unconsumed_tail
        if not chunk and len(piece) < _CHUNK:
            return


def _finite(text: str) -> Decimal:
    if not math.isfinite(float(text)):
        raise ValueError("a number out of range")
    return Decimal(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


#: json.loads would make one for each answer
_STRICT = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse)


def parse_json(body: bytes) -> Any:
    """Strict JSON in UTF-8, fractions as Decimal. Raises BadPayload for NaN, infinities and overflow too."""
    try:
        return _STRICT.decode(body.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except (ValueError, ArithmeticError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise errors.BadPayload(f"the answer is not JSON: {reason}", code="bad_json") from None
