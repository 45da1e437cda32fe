"""Style codes and other keys by which an item is asked: one canonical text each, and how two compare.

The same grammar is in sql/migrations/0002_words.sql, so that an app's INSERT and a provider's answer meet.
"""

from __future__ import annotations

import re
import unicodedata
from string import ascii_lowercase, ascii_uppercase

BLANKS = " \t\n\r\f\v"  #: what counts as whitespace; other spaces of Unicode are refused or kept as they are
MAX_CODE = 64

_UPPER = str.maketrans(ascii_lowercase, ascii_uppercase)
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
_RUN = re.compile(r"[ \t\n\r\f\v]+")
_LABEL = re.compile(r"\([^)]*\)[ \t\n\r\f\v]*")
_JOINER = re.compile(r"[ \t\n\r\f\v]*[/,|][ \t\n\r\f\v]*")
_CODE = re.compile(r"[A-Z0-9][A-Z0-9._+-]*(/[A-Z0-9][A-Z0-9._+-]*)*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LETTER = re.compile(r"[a-z0-9]|[^\x00-\xbf]")
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


def upper(text: str) -> str:
    """ASCII letters in upper case, all else as it is."""
    return text.translate(_UPPER)


def canonical(text: str) -> str:
    """The one text of a sku: `DD1391-100`, `315122-111/CW2288-111`, `id:<product id>` or `name:<words>`.

    Raises ValueError with a reason that starts with `sku`.
    """
    text = text.strip(BLANKS)
    if not text:
        raise ValueError("sku is empty")
    if text[:3].translate(_LOWER) == "id:":
        return "id:" + _id(text[3:])
    if text[:5].translate(_LOWER) == "name:":
        return "name:" + _name(text[5:])
    return _code(text)


def _id(rest: str) -> str:
    rest = rest.strip(BLANKS).translate(_LOWER)
    if not _ID.fullmatch(rest):
        raise ValueError(
            "sku id:... wants a product id of letters, digits, dots, dashes and underscores, at most 100"
        )
    return rest


def _name(rest: str) -> str:
    rest = _RUN.sub(" ", rest).strip(" ").translate(_LOWER)
    # Code points, not Unicode's classes, which the database does not know: what follows U+00BF counts as a letter.
    if not 3 <= len(rest) <= 100 or _CONTROL.search(rest) or not _LETTER.search(rest):
        raise ValueError("sku name:... wants 3 to 100 characters with at least one letter or digit")
    return rest


def _code(text: str) -> str:
    code = _LABEL.sub("", upper(text), count=1) if text.startswith("(") else upper(text)
    code = _RUN.sub("-", _JOINER.sub("/", code))
    if len(code) > MAX_CODE:
        raise ValueError(f"sku is longer than {MAX_CODE} characters")
    if not _CODE.fullmatch(code):
        raise ValueError(
            "sku is not a style code (letters, digits, dots and dashes), id:<product id> or name:<words>"
        )
    return code


def parts(code: str) -> tuple[str, ...]:
    """The codes of a joined one; a single code is its only part."""
    return tuple(code.split("/"))


def compare_form(code: str) -> str:
    """Letters and digits only, upper case: what is left when providers disagree about dashes and spaces."""
    return re.sub(r"[^A-Z0-9]", "", upper(code))


def codes(style: str | None) -> tuple[str, ...]:
    """The codes that a provider's style text names: labels in brackets are none, and `;` and `&` join them, too."""
    named = re.split(r"[/,|;&]", _LABEL.sub(" ", style or ""))
    return tuple(code for code in map(str.strip, named) if compare_form(code))


def matches(wanted: str, style: str | None) -> bool:
    """Whether a provider's style text names the wanted code: one part of each is the same in compare form."""
    theirs = set(map(compare_form, codes(style)))
    return any(compare_form(part) in theirs for part in parts(wanted))


def words(text: str) -> list[str]:
    """The words of a title or a name, whatever their case, accents and punctuation."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    plain = plain.replace("be@r", "bear")  # BE@RBRICK, as its maker writes it
    return re.findall(r"[^\W_]+", "".join(letter for letter in plain if not unicodedata.combining(letter)))
