"""`marketd auth`: the login that a person makes once in a browser, for a provider that needs one."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from argparse import Namespace
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

from marketd import login, private_file
from marketd.cli import access
from marketd.cli.exits import CommandError, Exit
from marketd.config import Config
from marketd.errors import ConfigError, ProviderError, Unauthorized
from marketd.models import DEFAULT_ACCOUNT

_PATIENCE_S = 900.0  #: for a person to log in
_PROBE_BYTES = 16384  #: more than any login takes
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def auth(arguments: Namespace) -> int:
    """Log in, store the refresh token, and say what comes next."""
    config, path = access.whole(arguments)
    credentials, token_url = _client(config, path, arguments.provider, arguments.account)
    file = login.login_file(config.state_dir, arguments.provider, arguments.account)
    _prepare(file)
    try:
        asyncio.run(
            login.login(
                token_url=token_url,
                client_id=_text(credentials, "client_id"),
                client_secret=_text(credentials, "client_secret"),
                redirect_uri=arguments.redirect_uri,
                file=file,
                show=_show,
                answer=_answer(arguments.redirect_uri, paste=arguments.paste),
            )
        )
        _hand_over(file)
    except Unauthorized as error:
        raise CommandError(f"{error}. {_remedy(error)}") from error
    except ProviderError as error:
        raise CommandError(
            f"{arguments.provider} did not answer as it should: {error}", Exit.TEMPORARY
        ) from error
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    _say_what_is_next(file, path, arguments, set_already=bool(_text(credentials, "refresh_token")))
    return Exit.OK


def _client(config: Config, path: Path, provider: str, account: str) -> tuple[BaseModel, str]:
    """The credentials of the application and the provider's token address. Raises ConfigError."""
    place = f"{path}: providers.{provider}"
    stanza = config.providers.get(provider)
    if stanza is None or not stanza.token_url:
        raise ConfigError([f"{place}.token_url: is not set, so there is nothing to log in to"])
    if account not in (DEFAULT_ACCOUNT, *stanza.accounts):
        raise ConfigError([f"{place}.accounts: there is no account {account!r}"])
    credentials = stanza.credentials_of(account)
    missing = [name for name in ("client_id", "client_secret") if not _text(credentials, name)]
    if missing:
        raise ConfigError(
            [
                f"{place}.credentials.{name}: is not set; it is in the provider's developer portal"
                for name in missing
            ]
        )
    return credentials, stanza.token_url


def _text(credentials: BaseModel, name: str) -> str:
    value = getattr(credentials, name, "")
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _prepare(file: Path) -> None:
    """Before the login, whose code is good only once: there must be a place for what it yields."""
    folder = file.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"state_dir {folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CommandError(f"state_dir {folder} cannot be written: run this as the user that runs the daemon")
    probe = file.with_suffix(".probe")
    try:
        private_file.write(probe, "x" * _PROBE_BYTES)
        probe.unlink()
    except OSError as error:
        raise CommandError(
            f"state_dir {folder} takes no file ({error.strerror}), so a login would be lost: make room first"
        ) from error


def _show(address: str) -> None:
    print(f"Open this address in a browser and log in:\n\n  {address}\n", flush=True)


def _answer(redirect_uri: str, *, paste: bool) -> Callable[[], Awaitable[str]]:
    """How the address comes back to which the browser is sent."""
    here = urlsplit(redirect_uri).hostname in _LOOPBACK and not paste

    async def answer() -> str:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await (_heard(redirect_uri) if here else _pasted())
        except TimeoutError:
            raise ValueError(f"no answer within {_PATIENCE_S / 60:g} minutes: start again") from None

    return answer


async def _heard(redirect_uri: str) -> str:
    print(f"Waiting for the browser at {redirect_uri} ... (a browser elsewhere: use --paste)", flush=True)
    try:
        return await login.heard(redirect_uri)
    except OSError as error:
        raise ValueError(f"cannot listen at {redirect_uri} ({error.strerror}): use --paste") from error


async def _pasted() -> str:
    print("The browser ends at an address that may not load. Paste that whole address here:", flush=True)
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        # Not through sys.stdin, whose lock a thread that still waits at exit would hold for ever.
        given = bytearray()
        while not given.endswith(b"\n") and (more := os.read(sys.stdin.fileno(), 65536)):
            given += more
        loop.call_soon_threadsafe(told, given.decode(errors="replace"))

    def told(text: str) -> None:
        if not line.done():
            line.set_result(text)

    threading.Thread(target=read, daemon=True).start()
    return await line


def _hand_over(file: Path) -> None:
    """What root stores belongs to whom the folder belongs to, or the daemon could not read it."""
    if os.geteuid() == 0:
        owner = file.parent.stat()
        os.chown(file, owner.st_uid, owner.st_gid)


def _remedy(error: Unauthorized) -> str:
    if error.error_code == "invalid_grant":
        return (
            "A code is good once and for some minutes: run this again. If it happens again, --redirect-uri is not "
            "the one that is registered for the application"
        )
    return "Check client_id and client_secret"


def _say_what_is_next(file: Path, config: Path, arguments: Namespace, *, set_already: bool) -> None:
    print(f"Logged in. The refresh token is in {file}, which only its owner can read.")
    if set_already:
        print(
            f"But {config} sets credentials.refresh_token of {arguments.provider}, and that one counts: make it empty, "
            "then restart marketd."
        )
    else:
        print("A daemon that runs takes it up within seconds: `marketd status` shows its lane.")
    print("The token lasts until it is withdrawn.")
    print("Should a refresh ever answer invalid_grant, the daemon says so and waits: then run this again.")
