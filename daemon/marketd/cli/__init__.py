"""The command line: parses, hands over to the command, and turns expected failures into one line and a code."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import cast

from marketd.cli import parser
from marketd.cli.exits import CommandError, Exit
from marketd.errors import ConfigError, DatabaseUnavailable, SchemaError

Handler = Callable[[Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Only what is a bug leaves as an exception."""
    try:
        arguments = parser.build().parse_args(argv)
    except SystemExit as end:  # argparse has said what is wrong, or has printed its help
        return end.code if isinstance(end.code, int) else Exit.USAGE
    try:
        command = handler(arguments.handler)
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on a Ctrl-C tidies up
        code = command(arguments)
        sys.stdout.flush()
        return code
    except ConfigError as error:
        return _fail(Exit.CONFIG, *error.problems)
    except SchemaError as error:
        return _fail(Exit.CONFIG, str(error))
    except DatabaseUnavailable as error:
        return _fail(Exit.TEMPORARY, str(error))
    except CommandError as error:
        return _fail(error.code, str(error))
    except BrokenPipeError:
        # The reader, `head` perhaps, has seen enough. What is still buffered must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


def handler(name: str) -> Handler:
    """The function that a command names as `module:function`."""
    module, _, function = name.partition(":")
    return cast(Handler, getattr(importlib.import_module(f"{__name__}.{module}"), function))


def _fail(code: Exit, *lines: str) -> int:
    for line in lines:
        print(f"marketd: {line}", file=sys.stderr)
    return code
