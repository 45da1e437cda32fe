"""Sizes: one canonical text each, and which variant of a product a wanted size is.

A bare number is a US men's size, `7.5W` women's, `5Y` youth, `9C` child; `UK 9`, `EU 42.5`, `EU 38 2/3`,
`CM 28`, `KR 280` are other systems, `PSA 10` a grade, `XL` a letter size. The same grammar is in
sql/migrations/0002_words.sql. Nothing here ever guesses: what fits two variants is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from marketd.errors import Unmatched
from marketd.models import Variant
from marketd.skus import upper

SYSTEMS = ("uk", "eu", "cm", "kr")  #: systems that are looked up in a product's own chart

_ONE_SIZE = ("ONE SIZE", "OS", "O/S")
_LETTERS = ("XXS", "XS", "S", "M", "L", "XL", "XXL", "XXXL", "XXXXL")
_GRADERS = "PSA|BGS|CGC|SGC|BVG|HGA|TAG|ACE"
_NUMBER = re.compile(r"[0-9]{1,2}(\.[05]0{0,20})?")
_GROUPS = {"": "men's", "W": "women's", "Y": "youth", "C": "child"}


def _number(text: str, low: str, high: str) -> str | None:
    """Half steps without needless zeros (`09.50` is 9.5); None when out of range or anything else."""
    if not _NUMBER.fullmatch(text) or not Fraction(low) <= Fraction(text) <= Fraction(high):
        return None
    whole, _, half = text.partition(".")
    return f"{int(whole)}.5" if half.startswith("5") else str(int(whole))


_Read = Callable[[re.Match[str]], str | None]


def _ranged(low: str, high: str, *, prefix: str = "", suffix: str = "") -> _Read:
    def read(found: re.Match[str]) -> str | None:
        number = _number(found["n"], low, high)
        return None if number is None else f"{prefix}{number}{suffix}"

    return read


def _third(found: re.Match[str]) -> str | None:
    number = _number(found["n"], "15", "60")
    return None if number is None else f"EU {number} {found['third']}"


def _grade(found: re.Match[str]) -> str | None:
    number = _number(found["n"], "1", "10")
    return None if number is None else f"{found['grader']} {number}"


_FORMS: tuple[tuple[re.Pattern[str], _Read], ...] = tuple(
    (re.compile(pattern), read)
    for pattern, read in (
        (r"(US ?)?(M ?)?(?P<n>[0-9.]+)( ?M)?", _ranged("0.5", "22")),
        (r"(US ?)?W ?(?P<n>[0-9.]+)", _ranged("0.5", "22", suffix="W")),
        (r"(US ?)?(?P<n>[0-9.]+) ?W", _ranged("0.5", "22", suffix="W")),
        (r"(US ?)?(?P<n>[0-9.]+) ?Y", _ranged("0.5", "13.5", suffix="Y")),
        (r"(US ?)?(?P<n>[0-9.]+) ?C", _ranged("0.5", "13.5", suffix="C")),
        (r"UK ?(?P<n>[0-9.]+)", _ranged("0.5", "22", prefix="UK ")),
        (r"EU ?(?P<n>[0-9]+) (?P<third>[12]/3)", _third),
        (r"EU ?(?P<n>[0-9.]+)", _ranged("15", "60", prefix="EU ")),
        (r"CM ?(?P<n>[0-9.]+)", _ranged("5", "40", prefix="CM ")),
        (r"KR ?(?P<n>[1-3][0-9][05]|400)", lambda found: f"KR {found['n']}"),
        (rf"(?P<grader>{_GRADERS}) ?(?P<n>[0-9.]+)", _grade),
        (rf"(?P<n>{'|'.join(_LETTERS)})", lambda found: found["n"]),
        (r"(?P<n>[234])XL", lambda found: "X" * int(found["n"]) + "L"),
    )
)


def canonical(text: str | None, default_system: str = "us") -> str | None:
    """The one text of a size; None for no size and for words such as `One Size`.

    A bare number is taken in `default_system` (us, uk or eu). Raises ValueError that starts with `size`.
    """
    if text is None:
        return None
    plain = upper(re.sub(r"[ \t\n\r\f\v]+", " ", text).strip(" ")).replace(",", ".").replace("½", ".5")
    if plain in _ONE_SIZE:
        return None
    if re.fullmatch(r"[0-9.]+", plain) and default_system in ("uk", "eu"):
        plain = f"{default_system.upper()} {plain}"
    for pattern, read in _FORMS:
        found = pattern.fullmatch(plain)
        size = read(found) if found else None
        if size is not None:
            return size
    raise ValueError(
        f"size {text[:40]!r} cannot be read (10, 7.5W, 5Y, 9C, UK 9, EU 42.5, PSA 10, XL are forms that can)"
    )


@dataclass(frozen=True, slots=True)
class Size:
    """A canonical size taken apart. `system` is us, uk, eu, cm, kr, grade or letter."""

    text: str
    system: str
    number: Fraction | None = None
    group: str = ""  #: of a US size: empty (men), W, Y or C

    @classmethod
    def parse(cls, text: str) -> Size:
        """Of canonical text; ValueError for any other."""
        if canonical(text) != text:
            raise ValueError(f"size {text[:40]!r} is not in canonical form")
        head, _, rest = text.partition(" ")
        if head.lower() in SYSTEMS:
            return cls(text, head.lower(), _fraction(rest))
        if rest:
            return cls(text, "grade", Fraction(rest))
        if text in _LETTERS:
            return cls(text, "letter")
        group = text[-1] if text[-1] in "WYC" else ""
        return cls(text, "us", Fraction(text.removesuffix(group)), group)


def _fraction(text: str) -> Fraction:
    """`38 2/3` and `42.5` exactly; ValueError for anything else."""
    return sum((Fraction(part) for part in text.split()), Fraction(0))


def chart_number(given: str) -> Fraction | None:
    """What a chart's cell says: `UK 6 (EU 39)` is 6, `EU 38 2/3` is 38 and two thirds; None if unreadable."""
    plain = re.sub(r"\(.*?\)", "", given)
    found = re.fullmatch(r"\s*(?:[A-Za-z]+\s*)*([0-9]+(?:\.[0-9]+)?(?:\s+[12]/3)?)\s*", plain)
    return _fraction(found[1]) if found else None


def match(
    wanted: str | None, variants: Sequence[Variant], *, brand: str | None = None, gender: str | None = None
) -> Variant:
    """The one variant that a canonical size means.

    Raises Unmatched: `size_required` (None, but there are several), `size_not_offered`, `ambiguous_size` (the
    message names the candidates), `size_system` (a men's size of a women's product, or no known conversion).
    `brand` and `gender` (men, women, youth) choose the conversion of a product that has no chart of its own.
    """
    if wanted is None:
        if len(variants) != 1:
            raise Unmatched(f"one of {len(variants)} sizes must be named", code="size_required")
        return variants[0]
    exact = [variant for variant in variants if variant.size == wanted]
    if exact:
        return _only(wanted, exact)
    size = Size.parse(wanted)
    if size.system in SYSTEMS:
        return _only(wanted, _converted(size, variants, brand, gender))
    raise _not_offered(size, variants)


def _only(wanted: str, found: Sequence[Variant]) -> Variant:
    if len(found) == 1:
        return found[0]
    if not found:
        raise Unmatched(f"size {wanted} is not offered", code="size_not_offered")
    raise _ambiguous(wanted, [str(variant.size) for variant in found])


def _ambiguous(wanted: str, us_sizes: Sequence[str]) -> Unmatched:
    names = " and ".join(f"US {us}" for us in us_sizes)
    return Unmatched(f"size {wanted} fits {names}: ask for the US size", code="ambiguous_size")


def _not_offered(size: Size, variants: Sequence[Variant]) -> Unmatched:
    offered = {
        known.group
        for variant in variants
        if variant.size and (known := Size.parse(variant.size)).system == "us"
    }
    if size.system == "us" and offered and size.group not in offered:
        groups = " and ".join(_GROUPS[group] for group in sorted(offered))
        mine = _GROUPS[size.group]
        return Unmatched(
            f"size {size.text} is a US {mine} size, the product comes in {groups} sizes", code="size_system"
        )
    return Unmatched(f"size {size.text} is not offered", code="size_not_offered")


def _converted(
    size: Size, variants: Sequence[Variant], brand: str | None, gender: str | None
) -> list[Variant]:
    """Variants whose own chart says the wanted number; the maker's table only where none has a chart."""
    if any(size.system in variant.chart for variant in variants):
        told = [(variant, chart_number(variant.chart.get(size.system, ""))) for variant in variants]
        found = [variant for variant, number in told if number is not None and number == size.number]
        if len(found) == 1:
            silent = [variant for variant, number in told if number is None]
            _check_alone(found[0], size, silent, us_equivalents(size, brand=brand, gender=gender))
        return found
    us_sizes = us_equivalents(size, brand=brand, gender=gender)
    if not us_sizes:
        what = f"{brand or 'this brand'} {gender or 'of unknown gender'}"
        raise Unmatched(f"no conversion of {size.text} is known for {what}", code="size_system")
    if len(us_sizes) > 1:
        raise _ambiguous(size.text, us_sizes)
    return [variant for variant in variants if variant.size == us_sizes[0]]


def _check_alone(found: Variant, size: Size, silent: Sequence[Variant], by_maker: Sequence[str]) -> None:
    """Raises Unmatched (`ambiguous_size`) if another US size is the wanted one, too.

    That is one that the maker's table puts there, whether it is listed or not (UK 6 of Nike is US 6.5 and 7), or a
    neighbour whose own chart does not tell.
    """
    if found.size is None:
        return
    if found.size in by_maker and len(by_maker) > 1:
        raise _ambiguous(size.text, by_maker)
    mine = Size.parse(found.size)
    for variant in silent:
        other = Size.parse(variant.size) if variant.size else None
        if other and (other.system, other.group) == (mine.system, mine.group) and _is_next(other, mine):
            raise _ambiguous(size.text, [mine.text, other.text])


def _is_next(one: Size, other: Size) -> bool:
    if one.number is None or other.number is None:
        return False
    return abs(one.number - other.number) <= Fraction(1, 2)


@dataclass(frozen=True, slots=True)
class _Run:
    """One maker's sizes of one gender: parallel rows, EU written out since it follows no rule."""

    suffix: str
    first: str
    eu: str
    uk_less: tuple[tuple[str, str], ...]  #: from this US size on, UK is so much less
    cm_more: tuple[tuple[str, str], ...] = ()  #: likewise, centimetres are so much more
    step: str = "1/2"

    def rows(self) -> Mapping[str, Mapping[str, Fraction]]:
        table: dict[str, Mapping[str, Fraction]] = {}
        us = Fraction(self.first)
        for eu in self.eu.split(" "):
            row = {"eu": _fraction(eu.replace("+", " ")), "uk": us - _since(us, self.uk_less)}
            if self.cm_more:
                row["cm"] = us + _since(us, self.cm_more)
                row["kr"] = row["cm"] * 10
            number = str(us.numerator) if us.denominator == 1 else f"{us.numerator // 2}.5"
            table[number + self.suffix] = row
            us += Fraction(self.step)
        return table


def _since(us: Fraction, steps: tuple[tuple[str, str], ...]) -> Fraction:
    bounds = (*steps, ("99", "0"))
    return next(
        Fraction(by) for (low, by), (high, _) in pairwise(bounds) if Fraction(low) <= us < Fraction(high)
    )


_NIKE_EU = "35.5 36 36.5 37.5 38 38.5 39 40 40.5 41 42 42.5 43 44 44.5 45 45.5 46 47 47.5 48 48.5 49"
_NIKE_CM = (("3.5", "19"), ("5", "18.5"), ("6", "18"))
_NIKE_UK = (("3.5", "0.5"), ("7", "1"))
_ADIDAS_EU = " ".join(f"{n} {n}+2/3 {n + 1}+1/3" for n in range(34, 50, 2))

#: Facts about the makers' own charts. Only what makers publish per brand is here: anything else is refused.
_RUNS: Mapping[tuple[str, str], _Run] = {
    ("nike", "men"): _Run("", "3.5", _NIKE_EU, _NIKE_UK, _NIKE_CM),
    ("nike", "youth"): _Run("Y", "3.5", " ".join(_NIKE_EU.split()[:8]), _NIKE_UK, _NIKE_CM),
    ("nike", "women"): _Run("W", "5", _NIKE_EU, (("5", "2.5"),), (("5", "17"),)),
    ("adidas", "women"): _Run("W", "3.5", _ADIDAS_EU, (("3.5", "1.5"),), (("3.5", "17"),)),
    ("ugg", "women"): _Run("W", "5", "36 37 38 39 40 41 42 43", (("5", "2"),), (("5", "17"),), step="1"),
    ("asics", "men"): _Run(
        "",
        "3.5",
        "35 36 37 37.5 38 39 39.5 40 40.5 41.5 42 42.5 43.5 44 44.5 45 46 46.5 47 48",
        (("3.5", "1"),),
    ),
    ("asics", "women"): _Run(
        "W", "5", "35.5 36 37 37.5 38 39 39.5 40 40.5 41.5 42 42.5 43.5 44 44.5", (("5", "2"),)
    ),
}
_MAKERS = {"air jordan": "nike", "jordan": "nike"}
_GENDERS = {"kids": "youth"}


def conversions(brand: str | None, gender: str | None) -> Mapping[str, Mapping[str, Fraction]]:
    """The maker's own table: for each US size its number in other systems; empty where none is known."""
    maker, group = (brand or "").lower(), (gender or "").lower()
    run = _RUNS.get((_MAKERS.get(maker, maker), _GENDERS.get(group, group)))
    return run.rows() if run else {}


def us_equivalents(size: Size, *, brand: str | None, gender: str | None) -> tuple[str, ...]:
    """Every US size that the maker's table puts at this size; empty where no table is known."""
    rows = conversions(brand, gender)
    return tuple(us for us, row in rows.items() if row.get(size.system) == size.number)
