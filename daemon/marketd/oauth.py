"""How a provider knows who we are: fixed headers, or access tokens that are minted, kept and minted again.

A minted token is kept in a file, so that a restart does not cost a mint; the file holds a fingerprint of the
credentials it belongs to, so that changed credentials never ride on an old token.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

from marketd import errors, private_file
from marketd.http_client import Request, Send

_log = logging.getLogger(__name__)

EARLY_S = 60.0  #: a token is replaced so long before it expires, or after nine tenths of a shorter life
_LONGEST_S = 365 * 86_400  #: that a token is believed to live


class StaticToken:
    """Headers that never change, such as a personal access token; implements `http_client.Auth`."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = dict(headers)

    async def headers(self, send: Send) -> Mapping[str, str]:
        """The fixed headers; sends nothing."""
        return self._headers

    def refused(self, headers: Mapping[str, str]) -> bool:
        """Always False: there is no other token to try."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A minted token as it is kept. Times are seconds of the wall clock, since they outlive the process."""

    fingerprint: str
    access_token: str = field(repr=False)
    expires_at: float
    refresh_token: str | None = field(default=None, repr=False)  #: a rotated one, if the provider sent one

    def good(self) -> bool:
        return time.time() < self.expires_at


class Grant(Protocol):
    """One way of asking for a token."""

    @property
    def hint(self) -> str:
        """What a person does when the provider refuses for good."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 over all that a token depends on."""
        ...

    def request(self, rotated: str | None) -> Request:
        """The token request; `rotated` is a refresh token that came after the configured one."""
        ...


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshGrant:
    """OAuth 2 refresh token, as Auth0 has it: form-encoded, with an audience (fact sheet 2.1)."""

    token_url: str
    client_id: str
    client_secret: str = field(repr=False)
    refresh_token: str = field(repr=False)
    audience: str
    hint: str

    @property
    def fingerprint(self) -> str:
        return _digest(
            "refresh", self.token_url, self.client_id, self.client_secret, self.refresh_token, self.audience
        )

    def request(self, rotated: str | None) -> Request:
        form = {
            "grant_type": "refresh_token",
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "audience": self.audience,
            "refresh_token": rotated or self.refresh_token,
        }
        return _token_request(self.token_url, form, {})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientGrant:
    """OAuth 2 client credentials with Basic authentication and a scope (fact sheet 4.1)."""

    token_url: str
    client_id: str
    client_secret: str = field(repr=False)
    scope: str
    hint: str

    @property
    def fingerprint(self) -> str:
        return _digest("client", self.token_url, self.client_id, self.client_secret, self.scope)

    def request(self, rotated: str | None) -> Request:
        pair = base64.b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()
        form = {"grant_type": "client_credentials", "scope": self.scope}
        return _token_request(self.token_url, form, {"Authorization": f"Basic {pair}"})


def _token_request(url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Request:
    return Request(
        endpoint="token",
        url=url,
        form=form,
        headers={"Accept": "application/json", **headers},
        meter="mints",
        classify=_refusal,
    )


def _refusal(status: int, _headers: Mapping[str, str], body: Any) -> errors.ProviderError | None:
    """A token endpoint's 4xx is about credentials, whatever its number.

    `invalid_grant` needs a person, `invalid_scope` says that the application may do less than it asks for.
    """
    if not 400 <= status < 500 or status in (408, 425, 429):
        return None
    reason = body.get("error") if isinstance(body, dict) else None
    detail = body.get("error_description") if isinstance(body, dict) else None
    said = ": ".join(text[:100] for text in (reason, detail) if isinstance(text, str))
    code = reason if reason in ("invalid_grant", "invalid_scope") else None
    # Never 401: that status makes the caller mint a token again, which is what has just failed.
    return errors.Unauthorized(f"no access token, HTTP {status}: {said or 'no reason given'}", code=code)


class MintedToken:
    """An access token kept in memory and in `file`, minted when needed; implements `http_client.Auth`.

    Concurrent callers wait for one mint. Raises Unauthorized (code `invalid_grant` when a person must act), and
    Throttled when the day's mints are spent.
    """

    def __init__(self, grant: Grant, file: Path, extra: Mapping[str, str] | None = None) -> None:
        self._grant = grant
        self._file = file
        self._extra = dict(extra or {})
        self._token: Token | None = None
        self._distrusted: str | None = None
        self._minting = asyncio.Lock()

    async def headers(self, send: Send) -> Mapping[str, str]:
        """Bearer header of a token that is not about to expire, and the extra headers."""
        async with self._minting:
            if not self._usable(self._token):
                self._token = self._latest()
            if not self._usable(self._token):
                self._token = await self._mint(send)
            assert self._token is not None
            return {"Authorization": f"Bearer {self._token.access_token}", **self._extra}

    def refused(self, headers: Mapping[str, str]) -> bool:
        """Forgets the token if it is the one that was refused; True, for another can be minted."""
        if self._token and headers.get("Authorization") == f"Bearer {self._token.access_token}":
            self._distrusted = self._token.access_token
        return True

    def _usable(self, token: Token | None) -> bool:
        return token is not None and token.good() and token.access_token != self._distrusted

    def _latest(self) -> Token | None:
        """What is kept, which another process may have minted; but ours where it is newer and could not be written."""
        kept, own = self._kept(), self._token
        return kept if kept and (own is None or kept.expires_at > own.expires_at) else own

    async def _mint(self, send: Send) -> Token:
        rotated = self._token.refresh_token if self._token else None
        try:
            reply = await send(self._grant.request(rotated))
        except errors.Unauthorized as error:
            if error.error_code == "invalid_grant":
                raise errors.Unauthorized(f"{error}; {self._grant.hint}", code="invalid_grant") from None
            raise
        except errors.NotGranted as refusal:
            if refusal.reason != "budget":
                raise
            # Calls may be left, but none can leave: the lane has to wait, or it would try for ever at once.
            raise errors.Throttled(
                "no access token: the day's token requests are spent", day_spent=True
            ) from refusal
        token = _read_token(reply.body, self._grant.fingerprint, rotated)
        self._distrusted = None
        self._keep(token)
        return token

    def _kept(self) -> Token | None:
        """The token of the file, if it is of these very credentials."""
        try:
            token = Token(**json.loads(self._file.read_text(encoding="utf-8")))
            if token.fingerprint != self._grant.fingerprint:
                return None
            if not _sendable(token.access_token) or not isinstance(token.expires_at, int | float):
                raise ValueError("not a token")
            return token
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            _log.warning("token file %s is not usable (%s); minting", self._file.name, type(error).__name__)
            return None

    def _keep(self, token: Token) -> None:
        try:
            private_file.write(self._file, json.dumps(asdict(token)))
        except OSError as error:
            # The token in memory still works; only a restart will have to mint again.
            _log.warning("token file %s cannot be written: %s", self._file, error.strerror)


def _sendable(access: Any) -> bool:
    """Whether it can stand in a header."""
    return isinstance(access, str) and re.fullmatch(r"[\x21-\x7e]+", access) is not None


def _life_s(given: Any) -> float | None:
    """What `expires_in` says; None for what is no time to come."""
    if isinstance(given, str) and re.fullmatch(r"[0-9]+", given, re.ASCII):
        given = Decimal(given)
    if isinstance(given, bool) or not isinstance(given, int | Decimal) or given <= 0:
        return None
    return float(min(given, _LONGEST_S))


def _read_token(body: Any, fingerprint: str, rotated: str | None) -> Token:
    life = _life_s(body.get("expires_in")) if isinstance(body, dict) else None
    match body:
        case {"access_token": str(access)} if _sendable(access) and life is not None:
            new = body.get("refresh_token")
            return Token(
                fingerprint=fingerprint,
                access_token=access,
                expires_at=time.time() + max(life - EARLY_S, life * 0.9 if life < 10 * EARLY_S else 0),
                refresh_token=new if isinstance(new, str) and new else rotated,
            )
    raise errors.BadPayload("the token answer holds no access_token with expires_in")


def authorize_url(token_url: str, *, client_id: str, redirect_uri: str, audience: str, state: str) -> str:
    """The address a person opens once in a browser; the code that comes back goes to `code_request`."""
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "scope": "offline_access openid",  # any other makes the login fail without a word
        "audience": audience,
        "state": state,
    }
    return f"{token_url.removesuffix('/oauth/token')}/authorize?{urlencode(query)}"


def code_request(
    token_url: str, *, client_id: str, client_secret: str, code: str, redirect_uri: str
) -> Request:
    """Exchanges the login's code; the answer's `refresh_token` goes into the configuration."""
    form = {
        "grant_type": "authorization_code",
        "client_id": client_id,
        "client_secret": client_secret,
        "code": code,
        "redirect_uri": redirect_uri,
    }
    return _token_request(token_url, form, {})
