"""Commands that serve until they are told to stop: the daemon, and the providers' stand-ins."""

from __future__ import annotations

import asyncio
import signal
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from marketd import signals
from marketd.cli import access
from marketd.cli.exits import CommandError, Exit
from marketd.cli.tables import age, as_json

if TYPE_CHECKING:
    from marketd.tick import Tally

_TALLIED = ("busy", "planned", "done", "failed", "again", "calls", "next_s", "stopped")


def run(arguments: Namespace) -> int:
    """The daemon, until a signal."""
    signals.hold_hangups_back()  # what is read from here on may be out of date by then
    config, path = access.whole(arguments)
    access.own_dsn(config, path)  # says what is missing before anything starts

    from marketd import process

    return process.run(config, path)


def tick(arguments: Namespace) -> int:
    """One pass and the work that waits, by a deadline."""
    config, path = access.whole(arguments)
    access.own_dsn(config, path)

    from marketd import process

    return process.tick(config, arguments.within, _tell_as_json if arguments.json else _tell)


def _tell_as_json(tally: Tally) -> int:
    print(as_json({name: getattr(tally, name) for name in _TALLIED}))
    return Exit.OK


def _tell(tally: Tally) -> int:
    if tally.busy:
        print("other ticks are at work on this database; nothing was left to do for this one")
        return Exit.OK
    if tally.stopped:
        later = f"stopped by {tally.stopped}, what was under way is given back"
    elif tally.next_s is None:
        later = "nothing waits"
    else:
        later = f"more can be done in {age(max(0.0, tally.next_s))}"
    planned = "" if tally.planned or tally.stopped else " (planned already within scheduler.interval)"
    print(
        f"{tally.done} done, {tally.failed} failed, {tally.again} to be tried again; "
        f"{tally.calls} calls; {later}{planned}"
    )
    return Exit.OK


def sandbox(arguments: Namespace) -> int:
    """The stand-ins, until a signal."""
    return asyncio.run(_sandbox(arguments))


async def _sandbox(arguments: Namespace) -> int:
    from marketd.sandbox import Sandbox

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = Sandbox(
        arguments.seed,
        arguments.host,
        arguments.port,
        arguments.products,
        limits={"*": None} if arguments.no_limits else None,
        move_every_s=arguments.move_every.total_seconds() if arguments.move_every else 0.0,
    )
    try:
        await server.start()
    except OSError as error:
        raise CommandError(
            f"cannot listen on {arguments.host}:{arguments.port}: {error.strerror}; choose another --port"
        ) from error
    try:
        print("\n".join(_settings(server.url, server.settings)), flush=True)
        await stop.wait()
    finally:
        await server.stop()
    return Exit.OK


def _settings(url: str, providers: dict[str, dict[str, Any]]) -> list[str]:
    """A configuration's lines that lead to the stand-ins; credentials and prices are made up."""
    lines = [
        f"# stand-ins at {url}, help at {url}/_sandbox/; Ctrl-C ends them",
        "# a configuration leads to them by these keys:",
        "providers:",
    ]
    for name, settings in providers.items():
        lines += [f"  {name}:", f"    base_url: {settings['base_url']}"]
        if settings["token_url"]:
            lines.append(f"    token_url: {settings['token_url']}")
        words = ", ".join(f"{key}: {value}" for key, value in settings["credentials"].items())
        lines.append(f"    credentials: {{{words}}}")
    return lines
