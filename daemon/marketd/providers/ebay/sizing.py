"""Which shoe sizes a seller's title states, in whose system and for whom. What is not clear is never taken for clear.

All texts here are as `titles.plain` leaves them: lower case, one blank between words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TypeAlias

#: What a US size is in other systems: system and number, of each no more than one.
Chart: TypeAlias = frozenset[tuple[str, Fraction]]

AMERICAN = frozenset(("EBAY_US", "EBAY_CA"))  #: where a size without a system is one of the US
_LARGEST = 22  #: US size; a greater number beside it is of another system
_WIDEST = 3  #: by how much a US size is at most greater than the same one in the UK; it is never the lesser

_NAMES = {"british": "uk", "eur": "eu", "european": "eu", "jp": "cm", "aus": "au", "australian": "au"}
_OTHER = r"(?:uk|british|eur?|european|cm|jp|kr|aus?|australian|mx)"
_SYSTEM = rf"(?:us|{_OTHER})"
_SIZE = r"[0-9]{1,3}(?:\.[0-9]{1,2})?"
_THIRDS = rf"{_SIZE}(?:\s[12]/3)?"
_GAP = r"[\s/|,()-]*"
_MARKS = r"[\s:.,#=()/-]{0,4}"  #: between a word and its number: `Size: 10`, `Size (10)`, `US-10`
#: `10 US / 9 UK`: systems after their numbers, told from `US 10 UK 9` by what ends the run.
_POSTFIX = re.compile(
    rf"(?P<before>\b{_SYSTEM}\b[\s:.]*)?(?<![\w.])(?<![0-9][,'-])(?P<run>(?:{_THIRDS}[mwyc]?[\s(]{{0,2}}{_SYSTEM}\b{_GAP})+)"
    rf"(?!{_GAP}{_SIZE}[mwyc]?\b)"
)
_PAIR = re.compile(rf"({_THIRDS}[mwyc]?)[\s(]{{0,2}}({_SYSTEM})\b")
_WHOM = r"(?:(?:wo)?m[ae]n'?s?'?|wmns?|ladies|female)"
_WHO = rf"(?:\b{_WHOM}(?![a-z])|\b[mw](?![a-z0-9]))"
_WHOSE = rf"(?:{_WHOM}(?![a-z])|[mw](?![a-z0-9]|/(?! ?[0-9])))"
#: `10 M / 11.5 W`: the men's and the women's size of one pair, each before its word.
_BOTH = re.compile(
    rf"(?<![\w.])(?<![0-9][,'-])(?P<n>{_SIZE})\s?(?P<who>{_WHOSE}){_GAP}(?P<m>{_SIZE})\s?(?P<whose>{_WHOSE})"
    rf"(?!{_MARKS}[0-9])"
)
_FOREIGN = re.compile(
    rf"\b(?P<system>{_OTHER})(?![a-z]){_MARKS}(?:(?:{_WHOM}|sizes?|sizing|sz)(?![a-z]){_MARKS}){{0,3}}"
    rf"(?P<n>{_THIRDS})(?!\w)"
)
_LOOSE = re.compile(rf"\b{_OTHER}\b")
_KEY = r"\b(?:sizes?|sz|gr(?:ö(?:ß|ss)e)?|us)(?![a-z])"
_END = r"(?![\w.]*[0-9]|[,'-][0-9]|[a-z])"
_STATED = re.compile(
    rf"(?P<who>{_WHO}{_MARKS})?(?P<key>{_KEY}{_MARKS})?(?P<in>(?:us(?![a-z]){_MARKS})?(?:{_WHO}{_MARKS})?)"
    rf"(?<![0-9])(?<![0-9][.,'-])(?P<letter>\b[mw])?(?P<n>[0-9]{{1,2}}(?:\.[05])?)(?P<suffix>[ywcm])?{_END}"
)
#: `11 Mens`, unless the next number is what the word belongs to.
_BEFORE_WHOM = re.compile(
    rf"(?<![\w.'])(?<![0-9][,-])(?P<n>[0-9]{{1,2}}(?:\.[05])?)\s(?P<who>{_WHOM})(?![a-z])"
    rf"(?!{_MARKS}(?:{_KEY}{_MARKS})?[0-9])"
)
#: Shoes that are counted by small numbers, which are no sizes.
_NUMBERED = re.compile(r"\b(?:jordan|retro|aj|kobe|lebron|kyrie|kd|pg|max|force|kayano|vomero)\s*$")
#: What may follow a size that is not called one; any other word makes a model's number of it (`Mens 11 Retro`).
_PLAIN_END = re.compile(
    r"\s*(?:$|[^\w\s'.]|(?:brand|new|ds|deadstock|[bn]nib|nib|nwb|in|with|w|shoes?|sneakers?|trainers?|us)\b)"
)
_RANGE = re.compile(
    rf"(?:{_KEY}{_MARKS}|{_WHO}\s*)(?P<low>{_SIZE})(?P<suffix>[mwyc]?)\s?(?:-|\u2013|\u2014|~|to|thru|through)\s?"
    r"(?P<high>[0-9]{1,2}(?:\.5)?)(?P=suffix)(?![\w.]*[0-9])(?![a-z])"
)
_LIST = re.compile(
    rf"(?:{_KEY}{_MARKS}(?P<sizes>{_SIZE}(?:\s?(?:[,/&\s]|\bor\b|\band\b)\s?{_SIZE})+)"
    rf"|{_WHO}{_MARKS}(?P<theirs>{_SIZE}(?:\s?(?:[,&]|\bor\b|\band\b)\s?{_SIZE})+))(?!\w)"
)
_MANY = re.compile(
    r"\b((all|multiple|many|various|several|different|any|assorted|choose|pick|select|your) (your )?sizes?"
    r"|sizes (available|options?|from)|sizes? (selection|run|range|var(y|ies))|multi[ -]?sizes?"
    r"|m[ae]n'?s sizes(?! *[:#]? *[0-9]))\b"
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A number that a title seems to call its size."""

    number: str
    group: str | None  #: as in US sizes, None if it is not told
    keyed: bool  #: called a size, not merely a number beside `men's`
    us: bool  #: called one of the US
    clear: bool  #: it can be nothing but the size, whatever its system


@dataclass(frozen=True, slots=True)
class Sizes:
    """All that a title says of sizes."""

    said: tuple[Statement, ...]
    foreign: tuple[tuple[str, Fraction], ...]  #: system and number
    loose: bool  #: another system is named that no number belongs to, and the US nowhere
    choice: bool  #: several sizes are on offer, so that the price may be that of any

    def clear(self, marketplace: str) -> list[Statement]:
        """The US sizes that leave no doubt: called so, or where nobody thinks of another system."""
        told = not self.foreign or any(system == "uk" for system, _ in self.foreign)
        bare = marketplace in AMERICAN and not self.loose and told  # of `Size 10 UK 9` the 10 is not the UK's
        return [one for one in self.said if one.clear and (one.us or bare)]

    def by_chart(self, chart: Chart) -> bool | None:
        """Whether sizes of other systems alone are the wanted one by the product's chart; None if that is not told."""
        systems = {system for system, _ in chart}
        told = {one for one in self.foreign if one[0] in systems}
        return told <= chart if told and not self.said else None

    def fit(self, number: str, group: str, chart: Chart) -> bool:
        """Whether nothing here contradicts a US size; a title that states none contradicts none."""
        if self.choice or (self.loose and self.said):
            return False
        wanted = Fraction(number)
        if any(system == "uk" and not wanted - _WIDEST <= size < wanted for system, size in self.foreign):
            return False
        if not self.said:
            return self.by_chart(chart) is not False
        mine = [one for one in self.said if one.group in (None, group)]
        # `Men's 11 Retro size 10` is of size 10; but no model's number is a half one.
        keyed = {one.number for one in mine if one.keyed or one.number.endswith(".5")}
        return (keyed or {one.number for one in mine}) == {number}


def read(title: str, known: frozenset[str] = frozenset()) -> Sizes:
    """What a title, without its codes, says; `known` are words of the product's name."""
    american, foreign = _american(_BOTH.sub(_whose_first, title))
    said = tuple(_statements(american, known))
    return Sizes(
        said=said,
        foreign=foreign,
        loose=bool(_LOOSE.search(american)) and not any(one.us for one in said),
        choice=_is_choice(american),
    )


def _whose_first(hit: re.Match[str]) -> str:
    """The two sizes of one pair after their words, if that is what they are: a women's one is a little greater."""
    first, second = (_group(hit[who], None) for who in ("who", "whose"))
    more = Fraction(hit["m"]) - Fraction(hit["n"]) if second else Fraction(hit["n"]) - Fraction(hit["m"])
    if first == second or not 1 <= more <= 2 or _NUMBERED.search(hit.string[: hit.start()]):
        return hit[0]
    return f" {hit['who']} {hit['n']} {hit['whose']} {hit['m']} "


def _american(title: str) -> tuple[str, tuple[tuple[str, Fraction], ...]]:
    """The title with every US size after its key and without sizes of other systems, and those."""
    foreign: list[tuple[str, Fraction]] = []

    def add(system: str, size: str) -> None:
        number = sum(map(Fraction, size.rstrip("mwyc").split()), Fraction(0))
        foreign.append((_NAMES.get(system, system), number))

    def turned(run: re.Match[str]) -> str:
        if run["before"]:
            return run[0]
        pairs = _PAIR.findall(run["run"])
        for size, system in pairs:
            if system != "us":
                add(system, size)
        return "".join(f" us {size} " for size, system in pairs if system == "us") or " "

    def taken(hit: re.Match[str]) -> str:
        add(hit["system"], hit["n"])
        return " "

    rest = _FOREIGN.sub(taken, _POSTFIX.sub(turned, title))
    return rest, tuple(foreign)


def _is_choice(title: str) -> bool:
    if _MANY.search(title):
        return True
    if any(Decimal(run["low"]) < Decimal(run["high"]) <= _LARGEST for run in _RANGE.finditer(title)):
        return True
    lists = (
        set(map(Decimal, re.findall(_SIZE, run["sizes"] or run["theirs"]))) for run in _LIST.finditer(title)
    )
    return any(len({size for size in sizes if size <= _LARGEST}) > 1 for sizes in lists)


def _statements(title: str, known: frozenset[str]) -> Iterator[Statement]:
    taken: list[tuple[int, int]] = []
    for hit in _STATED.finditer(title):
        who, letter = (hit["who"] or "") + (hit["in"] or ""), hit["suffix"] or hit["letter"]
        if not (hit["key"] or who.strip() or letter):
            continue
        us = "us" in re.findall(r"[a-z]+", (hit["key"] or "") + hit["in"])
        number, keyed = _number(hit["n"]), bool(hit["key"] or letter or us)
        if not keyed and _is_model(title[: hit.start()], number, known):
            continue
        taken.append(hit.span())
        clear = keyed or number.endswith(".5") or bool(_PLAIN_END.match(title, hit.end()))
        yield Statement(number, _group(who, letter), keyed, us, clear)
    for hit in _BEFORE_WHOM.finditer(title):
        number = _number(hit["n"])
        if not any(low <= hit.start() < high for low, high in taken) and not _is_model(
            title[: hit.start()], number, known
        ):
            yield Statement(number, _group(hit["who"], None), keyed=False, us=False, clear=True)


def _number(text: str) -> str:
    whole, _, half = text.partition(".")
    return f"{int(whole)}.5" if half == "5" else str(int(whole))


def _is_model(before: str, number: str, known: frozenset[str]) -> bool:
    """Whether a number that is not called a size is that of a model: by the product's name, or by the word before."""
    return Decimal(number) > _LARGEST or number in known or bool(_NUMBERED.search(before))


def _group(who: str, letter: str | None) -> str | None:
    if letter in ("y", "c", "w"):
        return letter.upper()
    if re.search(r"wom|wm|ladies|female|\bw\b", who):
        return "W"
    return "" if letter == "m" or "m" in who else None
