"""A secret is found in every spelling, and nothing else is."""

from __future__ import annotations

import html
import json
from urllib.parse import quote, quote_plus

import pytest

from marketd import masking

SECRET = "v^1.1#i^1/+x== \"é\\😀&<'"


@pytest.mark.parametrize(
    "spelled",
    [
        SECRET,
        repr(SECRET)[1:-1],
        quote(SECRET),
        quote(SECRET, safe=""),
        quote(SECRET, safe="").lower(),
        quote_plus(SECRET),
        quote(quote(SECRET, safe=""), safe=""),
        json.dumps(SECRET)[1:-1],
        json.dumps(json.dumps(SECRET))[3:-3],
        json.dumps(SECRET, ensure_ascii=False)[1:-1].replace("/", "\\/"),
        json.dumps(SECRET)[1:-1].replace("/", "\\u002F").replace("+", "\\u002b"),
        html.escape(SECRET),
        html.escape(SECRET).replace("/", "&#x2F;").replace("#i", "&#35;i"),
    ],
)
def test_every_spelling_of_a_secret_is_found(spelled: str) -> None:
    hidden = masking.pattern([SECRET])
    assert hidden is not None
    assert hidden.sub("***", f"a {spelled} b") == "a *** b"


def test_the_longest_secret_is_hidden_whole_and_other_text_stays() -> None:
    hidden = masking.pattern(["tok-1", "tok-1/2", ""])
    assert hidden is not None
    assert hidden.sub("***", "tok-1%2F2 tok-1 tok 1 tok1") == "*** *** tok 1 tok1"
    assert masking.pattern([]) is None
    assert masking.pattern([""]) is None
