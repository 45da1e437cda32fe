"""Faults of a configuration, and how pydantic's errors are put into an operator's words.

No message shows a secret: nothing under a key of `SECRET_KEYS`, nothing that came from a substitution
(the text as written is shown instead), and no part of a mapping or list.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic_core import ErrorDetails

KeyPath = tuple[str | int, ...]
Place = tuple[int, int]  #: line and column, from 1

SECRET_KEYS = frozenset({"credentials", "dsn", "listen_dsn"})
_MASK = "**********"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong: at which key, why, and where in the file if that is not the key's own place."""

    path: KeyPath
    reason: str
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """The file that a configuration was read from (none: plain data), and where its keys stand in it."""

    file: str = ""
    places: Mapping[KeyPath, Place] = field(default_factory=dict, compare=False, repr=False)

    def place(self, fault: Fault) -> Place:
        """Line and column of a fault's key, or of what it should stand in."""
        path = fault.path
        while path and path not in self.places:
            path = path[:-1]
        return fault.place or self.places.get(path, (1, 1))

    def line(self, fault: Fault) -> str:
        """`file:line:col: key: reason`."""
        where = "{}:{}:{}: ".format(self.file, *self.place(fault)) if self.file else ""
        return f"{where}{dotted(fault.path)}: {fault.reason}"


def dotted(path: KeyPath) -> str:
    """`providers.stockx.accounts.main.users[1]`; an empty path is `(file)`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".") or "(file)"


def in_words(
    errors: Iterable[ErrorDetails],
    model: type[BaseModel],
    written: Mapping[KeyPath, str],
    hidden: Collection[str] = (),
    base: KeyPath = (),
) -> list[Fault]:
    """Translates pydantic's errors on `model`, whose data sits at `base` of the file.

    `written` is the raw text of substituted values; the texts in `hidden` are masked wherever a check quotes
    them.
    """
    return [_fault(error, model, written, hidden, base) for error in errors]


def _fault(
    error: ErrorDetails,
    model: type[BaseModel],
    written: Mapping[KeyPath, str],
    hidden: Collection[str],
    base: KeyPath,
) -> Fault:
    loc = tuple(part for part in error["loc"] if part != "[key]")
    path = (*base, *loc)
    context = error.get("ctx") or {}
    kind = error["type"]
    if kind == "marketd":
        return Fault(path, str(context["reason"]))
    if kind == "extra_forbidden":
        return Fault(path, _unknown_key(str(loc[-1]), _owner(model, loc[:-1])))
    if kind == "missing":
        return Fault(path, "required key is missing")
    secret = not SECRET_KEYS.isdisjoint(path) or _is_secret(model, loc)
    subject = error["input"] if "[key]" not in error["loc"] else str(loc[-1])
    expected, hint = _expected(error)
    # A text where a section belongs may be a secret that slipped one line up.
    secret = secret or (isinstance(subject, str) and expected == f"expected {_KINDS['model']}")
    got = _got(subject, secret, written.get(path))
    return Fault(path, f"{scrubbed(expected, hidden)}, got {got}{hint}")


def _unknown_key(key: str, owner: type[BaseModel] | None) -> str:
    if owner is None:
        return "unknown key"
    known = list(owner.model_fields)
    near = suggestion(key, known)
    if near:
        return f"unknown key{near}"
    homes = [name for name in known if key in getattr(_owner(owner, (name,)), "model_fields", {})]
    if homes:
        return f"unknown key; it belongs under {homes[0]!r}"
    return (
        f"unknown key; expected one of {', '.join(known)}" if known else "unknown key; none is expected here"
    )


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` or an empty text."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
    "string_too_short": ("text of at least length", "min_length"),
    "string_too_long": ("text of at most length", "max_length"),
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "string": "text",
    "model": "a mapping (key: value)",
    "dict": "a mapping (key: value)",
    "list": "a list",
    "tuple": "a list",
    "none": "null",
}
_PATTERNS = {
    "^[A-Z]{3}$": "three capital letters such as GBP",
    "^[a-z0-9][a-z0-9_-]{0,62}$": "a name of lower-case letters, digits, - and _",
    r"^[^\s/@]+$": "a host name or an IP address",
}


def _expected(error: ErrorDetails) -> tuple[str, str]:
    """What the check wanted, and a hint to put after what it got."""
    kind, context = error["type"], error.get("ctx") or {}
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error", error["msg"])), ""
    if kind in ("literal_error", "enum"):
        choices = re.findall(r"'([^']*)'", str(context["expected"]))
        hint = suggestion(error["input"], choices) if isinstance(error["input"], str) else ""
        return f"expected one of {', '.join(choices)}", hint
    if kind in _LIMITS:
        word, key = _LIMITS[kind]
        limit = context[key]
        return f"expected {word} {limit:g}" if isinstance(limit, float) else f"expected {word} {limit}", ""
    if kind == "string_pattern_mismatch":
        pattern = str(context["pattern"])
        return f"expected {_PATTERNS.get(pattern, f'text that matches {pattern}')}", ""
    family = kind.split("_", 1)[0]
    if family in _KINDS:
        return f"expected {_KINDS[family]}", ""
    return error["msg"][:1].lower() + error["msg"][1:], ""


def _got(value: Any, secret: bool, written: str | None) -> str:
    """What was found, without showing what must not be shown."""
    match value:
        case None:
            return "nothing"
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case "":
            return f"an empty text from {_short(written)}" if written and not secret else "an empty text"
        case str() if secret:
            return "a text (not shown)"
        case _ if secret:
            return "an unquoted number or word (not shown); put it in quotes"
        case str() if written is not None:
            return f"the value of {_short(written)} (not shown)"
        case str() if re.search(r"://[^/]*@", value):
            return "an address that may hold a password (not shown)"
        case bool():
            return str(value).lower()
    return _short(repr(value))


def _short(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= 60 else f"{text[:57]}..."


def scrubbed(reason: str, secrets: Collection[str]) -> str:
    """`reason` without any of the secret texts, whatever a provider's own check has put into it."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= 4:
            reason = reason.replace(secret, _MASK)
    return reason


def _plain(annotation: Any) -> Any:
    """The one class inside Annotated[...], Optional[...] and the like."""
    while get_origin(annotation) in (Annotated, Union, UnionType):
        arguments = [item for item in get_args(annotation) if item is not type(None)]
        annotation = arguments[0]
    return annotation


def _annotation(model: type[BaseModel], loc: KeyPath) -> Any:
    """The type declared at `loc` below `model`, or None where nothing is declared."""
    found: Any = model
    for part in loc:
        if isinstance(found, type) and issubclass(found, BaseModel):
            field = found.model_fields.get(str(part))
            found = _plain(field.annotation) if field else None
        elif get_origin(found) in (dict, tuple, list):
            arguments = get_args(found)
            found = _plain(arguments[1] if get_origin(found) is dict else arguments[0])
        else:
            return None
    return found


def _owner(model: type[BaseModel], loc: KeyPath) -> type[BaseModel] | None:
    found = _annotation(model, loc)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def _is_secret(model: type[BaseModel], loc: KeyPath) -> bool:
    return _annotation(model, loc) in (SecretStr, SecretBytes)
