"""The one-time browser login at a provider that needs a person, and where its refresh token is kept.

StockX gives no token to a program alone (fact sheet 2.1): a person logs in once, the address that the browser is sent
back to carries a code, and the code is exchanged for a long-lived refresh token.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from aiohttp import web
from pydantic import BaseModel, SecretStr

from marketd import errors, oauth, private_file
from marketd.clock import monotonic
from marketd.http_client import Door, Pacer, ProviderHttp, Request, open_session
from marketd.limiter import Grant
from marketd.models import DEFAULT_ACCOUNT
from marketd.provider import Reply
from marketd.telemetry import Observers

AUDIENCE = "gateway.stockx.com"
_TIMEOUT_S = 30.0


def login_file(state_dir: Path, provider: str, account: str) -> Path:
    """Where the refresh token of a login is kept, mode 0600."""
    return state_dir / f"{provider}-{account}-login.json"


def stored(state_dir: Path, provider: str, account: str, credentials: BaseModel) -> BaseModel:
    """`credentials` with the refresh token of an earlier login, where they lack one and the client is the same.

    Raises ConfigError for a file that cannot be read as what `login` wrote.
    """
    held = getattr(credentials, "refresh_token", None)
    if not isinstance(held, SecretStr) or held.get_secret_value():
        return credentials
    file = login_file(state_dir, provider, account)
    which = "" if account == DEFAULT_ACCOUNT else f" --account {account}"
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        client, token = kept["client_id"], kept["refresh_token"]
    except FileNotFoundError:
        return credentials
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.ConfigError(
            [
                f"{file}: not a stored login ({type(error).__name__}); run `marketd auth {provider}{which}` again"
            ]
        ) from None
    if client != getattr(credentials, "client_id", None):
        return credentials
    return credentials.model_copy(update={"refresh_token": SecretStr(token)})


async def login(
    *,
    token_url: str,
    client_id: str,
    client_secret: str,
    redirect_uri: str,
    file: Path,
    show: Callable[[str], None],
    answer: Callable[[], Awaitable[str]],
) -> None:
    """Show the address, get the browser's answer, exchange the code, store the refresh token.

    `answer` yields the address that the browser was sent back to. Raises ValueError for an answer that is not of this
    login, Unauthorized when the provider refuses the code, Transient when it cannot be reached, OSError when the file
    cannot be written.
    """
    state = secrets.token_urlsafe(16)
    show(
        oauth.authorize_url(
            token_url, client_id=client_id, redirect_uri=redirect_uri, audience=AUDIENCE, state=state
        )
    )
    code = code_of(await answer(), state)
    request = oauth.code_request(
        token_url, client_id=client_id, client_secret=client_secret, code=code, redirect_uri=redirect_uri
    )
    reply = await _sent(request, token_url)
    token = reply.body.get("refresh_token") if isinstance(reply.body, dict) else None
    if not isinstance(token, str) or not token:
        raise errors.BadPayload("the answer holds no refresh_token; was the scope offline_access granted?")
    private_file.write(file, json.dumps({"client_id": client_id, "refresh_token": token}))


async def _sent(request: Request, token_url: str) -> Reply:
    async with open_session() as session:
        door = Door(
            provider="login",
            account="login",
            base_url=token_url,
            timeout_s=_TIMEOUT_S,
            session=session,
            auth=oauth.StaticToken({}),
            pacer=Pacer(1),
        )
        http = ProviderHttp(door, gate=_Unmetered(), observer=Observers(), priority=0)
        return await http.send(request)


def code_of(address: str, state: str) -> str:
    """The code in the address that the browser was sent back to. ValueError says what is wrong with it."""
    query = parse_qs(urlsplit(address.strip()).query)
    if refused := query.get("error"):
        raise ValueError(f"the login was refused: {refused[0][:100]}")
    if query.get("state") != [state]:
        raise ValueError("this address is not the answer to this login (its state differs): start again")
    match query.get("code"):
        case [str(code)] if code:
            return code
    raise ValueError("the address holds no code")


async def heard(redirect_uri: str) -> str:
    """Listen at a loopback `redirect_uri` until the browser comes back, and tell the address it came with.

    Raises OSError when the port is taken.
    """
    parts = urlsplit(redirect_uri)
    came: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def back(request: web.Request) -> web.Response:
        if not came.done():
            came.set_result(str(request.url))
        return web.Response(text="marketd has heard the answer; you may close this page.\n")

    application = web.Application()
    application.router.add_get(parts.path or "/", back)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, parts.hostname or "127.0.0.1", parts.port or 80).start()
        return await came
    finally:
        await runner.cleanup()


class _Unmetered:
    """A login is one request by a person's hand, at an address with no meter."""

    async def take(self, endpoint: str, *, meter: str = "calls") -> Grant:
        now = monotonic()
        return Grant(granted_at=datetime.now(UTC), leave_at=now, until=now + _TIMEOUT_S, receipt="")

    async def move(self, grant: Grant, within_s: float) -> Grant | None:
        """Nothing is spaced."""
        return replace(grant, leave_at=monotonic())

    async def give_back(self, grant: Grant) -> None:
        """Nothing was charged."""

    def trouble(self) -> None:
        """Nothing was granted ahead."""
