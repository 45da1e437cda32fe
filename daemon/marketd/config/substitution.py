"""`${VAR}`, `${VAR:-default}`, `${file:path}`, `${cred:name}` and `$$` in a value.

It works on values that are parsed already, so nothing substituted can add keys or change the structure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_TOKEN = re.compile(r"\$\$|\$\{([^{}]*)\}|\$\{")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_CREDENTIAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_LARGEST_FILE = 64 * 1024
#: where an operator's commands find credentials, outside of the unit for which systemd loads them
_BESIDE = "credentials"


class Unfilled(ValueError):
    """A substitution has no value; the text names the variable or file, never a content."""


class Substitution:
    """Fills in values from one environment; relative `${file:}` paths start at `folder`, the file's own."""

    def __init__(self, env: Mapping[str, str], folder: Path) -> None:
        self._env = env
        self._folder = folder

    def fill(self, text: str) -> str:
        """`text` with every token replaced, once. Raises `Unfilled` for the first that cannot be."""
        return _TOKEN.sub(self._one, text)

    def _one(self, match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        inner = match[1]
        if inner is None:
            raise Unfilled("a ${ without its }; a $ that is meant is written $$, and nothing is nested")
        kind, _, rest = inner.partition(":")
        if kind in ("file", "cred") and not rest.startswith("-"):
            if ":-" in rest:
                raise Unfilled(f"${{{kind}:...}} takes no default; only variables do")
            return self._file(rest) if kind == "file" else self._credential(rest)
        return self._variable(inner)

    def _variable(self, inner: str) -> str:
        match = _VARIABLE.fullmatch(inner)
        if match is None:
            raise Unfilled(
                "expected ${NAME}, ${NAME:-default}, ${file:path} or ${cred:name}; a $ that is meant is $$"
            )
        name, default = match[1], match[2]
        value = self._env.get(name)
        if default is not None:
            return value or default
        if value is None:
            raise Unfilled(f"environment variable {name} is not set (${{{name}:-}} makes it optional)")
        return value

    def _credential(self, name: str) -> str:
        if not _CREDENTIAL.fullmatch(name):
            raise Unfilled(f"expected the name of a systemd credential, got {name!r}")
        if given := self._env.get("CREDENTIALS_DIRECTORY"):
            folder = Path(given)
        elif not (folder := self._folder / _BESIDE).is_dir():
            raise Unfilled(
                f"credential {name} needs $CREDENTIALS_DIRECTORY, which systemd sets for LoadCredential=, "
                f"or a folder {_BESIDE}/ beside this file"
            )
        return _read(folder / name, f"credential {name}")

    def _file(self, name: str) -> str:
        if not name:
            raise Unfilled("expected a path in ${file:path}")
        if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in name):
            raise Unfilled(f"no file can have the name {name!r}")
        try:
            path = Path(name).expanduser()
        except RuntimeError:
            raise Unfilled(f"no home directory is known for file {name}") from None
        return _read(self._folder / path, f"file {name}")


def _read(path: Path, what: str) -> str:
    """The one line that a small UTF-8 file holds, without its line end."""
    try:
        if path.exists() and not path.is_file():
            raise Unfilled(f"{what} is not a regular file")
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise Unfilled(f"{what} cannot be read: {(error.strerror or 'error').lower()}") from None
    if len(content) > _LARGEST_FILE:
        raise Unfilled(f"{what} is larger than 64 KiB")
    try:
        text = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise Unfilled(f"{what} is not UTF-8 text") from None
    if any(character in text for character in "\r\n\0"):
        raise Unfilled(f"{what} holds more than one line")
    return text
