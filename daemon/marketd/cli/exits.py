"""What the exit codes of `marketd` mean, and the error that carries one."""

from __future__ import annotations

from enum import IntEnum

from marketd.errors import MarketdError


class Exit(IntEnum):
    """Exit codes, as sysexits.h has them where it has a fitting one."""

    OK = 0
    FAILED = 1  #: the command was understood and did not succeed
    USAGE = 2  #: an argument is wrong; the same command will never succeed
    TEMPORARY = 75  #: nothing is wrong with the command: try again later
    CONFIG = 78  #: the configuration or the database's schema must be put right first
    INTERRUPTED = 130


class CommandError(MarketdError):
    """An expected failure: one line for the operator, and the exit code."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code
