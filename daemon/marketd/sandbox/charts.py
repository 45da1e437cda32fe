"""Size charts of the sandbox's shoes: rules per maker, as StockX publishes them for each variant.

Nike and Jordan: UK is US minus 1 for men from US 7 up, minus 0.5 below and for youth, minus 2.5 for women.
adidas: minus 0.5 for men, minus 1.5 for women, EU in thirds. UGG: minus 2, whole sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache

_HALF = Fraction(1, 2)
#: EU sizes of Nike and Jordan from US men's 3.5 up in half steps, to 15
_NIKE_EU = "35.5 36 36.5 37.5 38 38.5 39 40 40.5 41 42 42.5 43 44 44.5 45 45.5 46 47 47.5 48 48.5 49 49.5"
#: lengths in centimetres that leave the straight line (US men's + 18)
_NIKE_CM = {"3.5": "22.5", "4": "23", "4.5": "23.5", "5": "23.5", "5.5": "24", "6": "24", "6.5": "24.5"}

#: brackets tell apart two US sizes that share one UK size
_SHARED_UK = {"6.5", "7"}

Rows = tuple[tuple[str, str], ...]  #: (text, type) in the order in which StockX lists conversions


@cache
def number(size: str) -> Fraction:
    """The number of a US size such as `10.5`, `7.5W` or `5Y`."""
    return Fraction(size.rstrip("WYC"))


def text(value: Fraction) -> str:
    """`9`, `9.5`, `38 2/3`."""
    if value.denominator == 3:
        whole = value.numerator // 3
        return f"{whole} {value - whole}"
    return str(value.numerator) if value.denominator == 1 else f"{float(value):g}"


def run(first: str, last: str, *, step: str = "0.5", suffix: str = "") -> tuple[str, ...]:
    """All sizes from `first` to `last`, both included."""
    at, end, by = Fraction(first), Fraction(last), Fraction(step)
    sizes = []
    while at <= end:
        sizes.append(text(at) + suffix)
        at += by
    return tuple(sizes)


@cache
def rows(chart: str, size: str) -> Rows:
    """Conversions of one size, the default system first. `chart` is a maker: nike, adidas or ugg."""
    if size.endswith("W"):
        return _women(chart, number(size))
    if size.endswith("Y"):
        return _youth(number(size))
    return _men(chart, number(size))


def uk(chart: str, size: str) -> str:
    """The bare UK number of a size, as eBay's UK aspect has it."""
    return next(row.split()[1] for row, kind in rows(chart, size) if kind == "uk")


def default_type(size: str) -> str:
    return {"W": "us w", "Y": "us"}.get(size[-1], "us m")


def conversions(sizes: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Names and types of the systems in which a product's sizes are given."""
    kinds = {"W": ("us w", "us m"), "Y": ("us", None)}
    first, last = kinds.get(sizes[0][-1], ("us m", "us w"))
    types = [first, *(("us w",) if last == "us w" else ()), "uk", "cm", "kr", "eu"]
    types += ["us m"] if last == "us m" else []
    return tuple((kind.upper(), kind) for kind in types)


def _men(chart: str, us: Fraction) -> Rows:
    if chart == "adidas":
        uk_size, eu, cm = us - _HALF, _adidas_eu(us - _HALF), us + 18
        return _rows((f"US M {text(us)}", "us m"), text(uk_size), text(cm), eu, ("us w", us + 1))
    return _rows(
        (f"US M {text(us)}", "us m"), _nike_uk(us), _nike_cm(us), _nike_eu(us), ("us w", us + Fraction(3, 2))
    )


def _women(chart: str, us: Fraction) -> Rows:
    default = (f"US W {text(us)}", "us w")
    cm = text(us + 17)
    if chart == "adidas":
        uk_size = us - Fraction(3, 2)
        return _rows(default, text(uk_size), cm, _adidas_eu(uk_size), ("us m", us - 1))
    if chart == "ugg":
        return _rows(default, text(us - 2), cm, text(us + 31), ("us m", us - 1))
    men = us - Fraction(3, 2)
    return _rows(default, text(us - Fraction(5, 2)), cm, _nike_eu(men), ("us m", men))


def _youth(us: Fraction) -> Rows:
    return _rows((f"US {text(us)}Y", "us"), _nike_uk(us), _nike_cm(us), _nike_eu(us), None)


def _rows(
    default: tuple[str, str], uk_size: str, cm: str, eu: str, other: tuple[str, Fraction] | None
) -> Rows:
    found = [
        default,
        (f"UK {uk_size}", "uk"),
        (f"CM {cm}", "cm"),
        (f"KR {text(Fraction(cm) * 10)}", "kr"),
        (f"EU {eu}", "eu"),
    ]
    if other:
        found.append((f"{other[0].upper()} {text(other[1])}", other[0]))
    return tuple(found)


def _nike_uk(us: Fraction) -> str:
    plain = text(us - (1 if us >= 7 else _HALF))
    return f"{plain} (EU {_nike_eu(us)})" if text(us) in _SHARED_UK else plain


def _nike_eu(us: Fraction) -> str:
    if us > 15:
        return text(us + Fraction(69, 2))
    return _NIKE_EU.split()[int((us - Fraction(7, 2)) * 2)]


def _nike_cm(us: Fraction) -> str:
    return _NIKE_CM.get(text(us)) or text(us + 18)


def _adidas_eu(uk_size: Fraction) -> str:
    return text(36 + (uk_size - Fraction(7, 2)) * Fraction(4, 3))
