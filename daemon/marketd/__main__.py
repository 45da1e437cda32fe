"""`marketd` and `python -m marketd`."""

from __future__ import annotations

import io
import signal
import sys


def main() -> int:
    """Run the command line; returns the exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # While modules load there is nothing to tidy up: Ctrl-C simply ends us, without a traceback out of an import.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    from marketd.cli import main as run

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A product's name must not break a command where the terminal's character set lacks a letter.
            stream.reconfigure(errors="replace")
    return run()


if __name__ == "__main__":
    sys.exit(main())
