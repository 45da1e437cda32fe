"""What a seller's title says of a listing: which product, for whom, in which size and grade. Nothing is guessed."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

from marketd import skus
from marketd.providers.ebay import beside, sizing

_GRADE = re.compile(
    r"\b(psa|bgs|cgc|sgc|bvg|hga|tag|ace|ags|gma)[ :#-]{0,2}"
    r"(?:(?:(?:gem )?(?:mint|mt|nm-mt|pristine)|graded?)[ :#-]{0,2})?(10|[1-9](?:\.5)?)(?:\.0)?(?![0-9]|\.[0-9])"
)
#: Style codes in the makers' usual forms (DD1391-100, 555088-134, 1203A383-104, CP9366), but no season such as FW2023.
_CODE = re.compile(
    r"(?<![a-z0-9])([a-z]{2}[0-9]{4}[ -]?[0-9]{3}|[0-9]{6}[ -][0-9]{3}|[0-9]{4}[a-z][0-9]{3}[ -][0-9]{3}"
    r"|(?!(?:fw|ss|fa|sp|su|ho|wi|aw|ah)20)[a-z]{2}[0-9]{4})(?![a-z0-9])"
)
#: `U.K.`, `P.S.A.`
_DOTTED = re.compile(r"(?<![\w.])(?:[a-z]\.){1,3}[a-z](?![a-z0-9])\.?")
_WIDTH = re.compile(r"(?<=[0-9]) ?[bd] ?\(m\)")  #: medium, of women and men: `10 D(M) US`
#: `10,5` as Europeans write it; but `4,5` may be two sizes, and what stays with its comma is never read.
_DECIMAL_COMMA = re.compile(r"(?<![0-9.,])([6-9]|[1-9][0-9]),5(?![0-9,])")
#: How many of it a seller has, each at the price: `2 pairs available`, `1 pair`.
_IN_STOCK = re.compile(
    r"(?<!size )(?<!sz )(?<!us )(?<!men )(?<!mens )(?<!men's )"
    r"\b((1|one) pair|([2-9]|two|three|several|multiple) pairs (available|left|in stock))\b"
)
#: `kids` may be either; whoever is meant by it is nobody else.
_KIDS = (
    r"kids?'?|kid's|(?<!powerpuff )girls?'?(?! don'?t cry)|girl's|boys?'?|boy's|juniors?|jr|child(ren'?s?)?"
)
_AUDIENCES = {
    "": r"\bm[ae]n'?s?'?(?![a-z])",
    "W": r"\b(wom[ae]n'?s?'?|wmns?|ladies|female)(?![a-z])|\(w\)",
    "Y": rf"\b(gs|grade school|youth|{_KIDS})(?![a-z])",
    "C": rf"\b(td|ps|toddlers?|infants?|bab(y|ies)|pre-?school|little kids?|(?<!big ){_KIDS})(?![a-z])",
}
LONGEST = 200  #: characters; eBay takes 80, and the patterns here are made for about that many


_kept = lru_cache(maxsize=1000)  #: of what is asked several times of each title of a page


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a listing must be."""

    currency: str
    marketplace: str
    conditions: frozenset[str]
    category: str | None = None  #: must be among the listing's, where it tells any
    shelf: str | None = None  #: where such shoes stand, if that is known
    foreign: frozenset[str] = (
        frozenset()
    )  #: categories of shoes that it cannot be, unless it stands on its shelf too
    code: str = ""  #: style codes joined by /, empty for what is found by name
    twins: str = ""  #: further codes of the same product, joined by /, which may stand in the title too
    words: tuple[str, ...] = ()  #: all must stand in the title
    epid: str = ""  #: eBay's own product id, empty for what is found by words
    epid_told: bool = False  #: the listing must tell it, for the search does not vouch for it
    number: str = ""  #: of a shoe size: 7.5
    group: str = ""  #: of a shoe size: empty (men), W, Y, C
    grade: str = ""  #: PSA 10
    known: frozenset[str] = frozenset()  #: words of its name, which mean nothing else
    chart: sizing.Chart = frozenset()  #: what the size, and no other of the product, is in other systems
    stated: bool = False  #: the title must state the size, for no aspect vouches for it
    floor: Decimal | None = None  #: cheaper than this cannot be the real thing
    ceiling: Decimal | None = None  #: nor what is dearer than this


@_kept
def names(title: str, wanted: Wanted) -> bool:
    """Whether a title names the wanted thing and no other, in any size: its code or words, its grade, no accessory."""
    if len(title) > LONGEST:
        return False
    shoe = bool(wanted.number)
    low = beside.without_extras(plain(title), wanted.known, shoe=shoe)
    if wanted.code and not _holds_code(low, wanted.code):
        return False
    told, name = skus.words(low), frozenset(wanted.words)
    if not name.issubset(told) or beside.belongs_to_it(told, name):
        return False
    if beside.is_beside(low, wanted.known, shoe=shoe, graded=bool(wanted.grade)):
        return False
    grades = {f"{grader.upper()} {grade}" for grader, grade in _GRADE.findall(low)}
    if grades != ({wanted.grade} if wanted.grade else set()):
        return False
    return not (wanted.code and _CODE.search(_rest(low, wanted)))


def fits(title: str, wanted: Wanted) -> bool:
    """Whether the sizes that a title states, if any, are the wanted one; a thing of one size states none."""
    said = _sizes(title, wanted)
    if not wanted.number:
        return bool(wanted.grade) or not any(one.keyed for one in said.said)
    audience = _audience(_rest(plain(title), wanted), wanted) - _whose_else(said, wanted)
    if audience and wanted.group not in audience | {one.group for one in said.said}:
        return False
    clear = any(
        one.number == wanted.number and one.group in (None, wanted.group)
        for one in said.clear(wanted.marketplace)
    )
    vouched = clear or not wanted.stated or said.by_chart(wanted.chart)
    return bool(vouched) and said.fit(wanted.number, wanted.group, wanted.chart)


def _audience(rest: str, wanted: Wanted) -> set[str]:
    """The groups that a title is for; words of the product's name (`Powerpuff Girls`) tell of no other one."""

    def tells(hit: re.Match[str], group: str) -> bool:
        return group == wanted.group or not wanted.known.issuperset(skus.words(hit[0]))

    return {
        group
        for group, pattern in _AUDIENCES.items()
        if any(tells(hit, group) for hit in re.finditer(pattern, rest))
    }


def _whose_else(said: sizing.Sizes, wanted: Wanted) -> set[str]:
    """Women, where a title has the men's size and, called so, theirs for the same pair: `Size 10 / Women's 11.5`."""
    theirs = [Decimal(one.number) - Decimal(wanted.number) for one in said.said if one.group == "W"]
    mine = any(one.keyed and one.group is None and one.number == wanted.number for one in said.said)
    return {"W"} if not wanted.group and mine and theirs and all(1 <= more <= 2 for more in theirs) else set()


def says(title: str, wanted: Wanted) -> bool:
    """Whether a title names the wanted thing in the wanted size."""
    return names(title, wanted) and fits(title, wanted)


def tells_size(title: str, wanted: Wanted) -> bool:
    """Whether a title, which `names` the thing, states a size at all, if only one of another system."""
    said = _sizes(title, wanted)
    return any(one.keyed or one.clear for one in said.said) or bool(said.foreign)


def confirms(title: str, wanted: Wanted) -> bool:
    """Whether a title states the wanted size, and not only one of another system that may be the same."""
    said = _sizes(title, wanted)
    return fits(title, wanted) and (bool(said.said) or said.by_chart(wanted.chart) is True)


def is_silent(title: str, wanted: Wanted) -> bool:
    """Whether a title, which `names` the thing, leaves its US size open; a choice of sizes is never the ask of one."""
    said = _sizes(title, wanted)
    return not said.choice and not said.clear(wanted.marketplace) and said.by_chart(wanted.chart) is None


def tells_whose(title: str, wanted: Wanted) -> bool:
    """Whether a title states the wanted size and whose it is: `Men's 10`, `7.5W`, `5Y`."""
    said = _sizes(title, wanted).said
    return any((one.number, one.group) == (wanted.number, wanted.group) for one in said)


def stated(title: str) -> Sequence[tuple[str, str | None]]:
    """US sizes that a title states, each with its group if told: `Women's size 7.5` is (7.5, W)."""
    return [(one.number, one.group) for one in sizing.read(plain(title)).said]


@_kept
def _sizes(title: str, wanted: Wanted) -> sizing.Sizes:
    return sizing.read(_rest(plain(title[:LONGEST]), wanted), wanted.known)


@_kept
def plain(title: str) -> str:
    """A title in lower case without what only looks different: halves, wide digits, dotted short forms, entities."""
    text = re.sub(r"\s?½", ".5", html.unescape(title)).replace("⅓", " 1/3").replace("⅔", " 2/3")
    even = unicodedata.normalize("NFKC", text.replace("\u2019", "'"))
    low = "".join(letter for letter in even.lower() if unicodedata.category(letter) != "Cf")
    halves = re.sub(r"[\s-]?1/2\b|(?<=[0-9]) and a half\b", ".5", _WIDTH.sub("", low))
    joined = _DOTTED.sub(lambda hit: hit[0].replace(".", ""), halves)
    return " ".join(_IN_STOCK.sub(" ", _DECIMAL_COMMA.sub(r"\1.5", joined)).split())


def _rest(low: str, wanted: Wanted) -> str:
    """The title without the codes of the wanted thing."""
    return _without_codes(_without_codes(low, wanted.code), wanted.twins)


def _holds_code(title: str, code: str) -> bool:
    """The code with any dash, space or none between its parts, not within a longer one."""
    return any(re.search(_spelled(part), title) for part in skus.parts(code))


def _spelled(part: str) -> str:
    chunks = re.findall(r"[a-z0-9]+", part.lower())
    return r"(?<![a-z0-9])" + r"[\s._/+\u2010-\u2015-]{0,3}".join(chunks) + r"(?![a-z0-9])"


def _without_codes(title: str, code: str) -> str:
    for part in skus.parts(code) if code else ():
        title = re.sub(_spelled(part), " ; ", title)
    return title
