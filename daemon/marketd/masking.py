"""Finds secrets in text, however whoever echoes them spells them: plain, percent-encoded, escaped for JSON or HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable


def pattern(secrets: Iterable[str]) -> re.Pattern[str] | None:
    """Matches any of the texts in any spelling, the longest first; None for no text at all."""
    longest_first = sorted({secret for secret in secrets if secret}, key=lambda text: (-len(text), text))
    return (
        re.compile("|".join("".join(map(_spelled, text)) for text in longest_first))
        if longest_first
        else None
    )


def _spelled(letter: str) -> str:
    """One character; letters and digits of ASCII are escaped by nobody."""
    if letter.isascii() and letter.isalnum():
        return letter
    percent = "".join(f"%(?:25)*{byte:02x}" for byte in letter.encode("utf-8", "surrogatepass"))
    units = letter.encode("utf-16-be", "surrogatepass").hex()
    escaped = "".join(rf"\\+u{units[at : at + 4]}" for at in range(0, len(units), 4))
    code = ord(letter)
    forms = [
        rf"\\*{re.escape(letter)}",
        rf"(?i:{percent}|{escaped}|&#0*{code};|&#x0*{code:x};)",
        re.escape(html.escape(letter)),
        rf"\\*{re.escape(repr(letter)[1:-1])}",
    ]
    if letter == " ":
        forms.append(r"\+")
    return f"(?:{'|'.join(dict.fromkeys(forms))})"
