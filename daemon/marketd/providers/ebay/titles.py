"""What a seller's title says of a listing: which product, for whom, in which size and grade. Nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from marketd import skus

_ACCESSORY = re.compile(
    r"\b((shoe)?-?laces?|(shoe )?box(es)? only|only (the )?box|empty (shoe ?)?box|no shoes?|insoles?|key ?-?chains?"
    r"|replacement|display case|dust ?bag|stickers?|posters?|shoe ?trees?|tags? only|proxy|custom(s|ized)?|replicas?"
    r"|(left|right|one|single) (shoe )?only|crease (protectors?|guards?)|sole (protectors?|shields?)"
    r"|reprints?|facsimile|digital|novelty|fan ?art|(packs?|promos?|sleeves?|dice|codes?|case|sticker) only|code cards?"
    r"|no packs?|without packs?|opened|unsealed|re-?packs?|acrylic)\b"
)
#: What a pair that is called new with box cannot be.
_FLAWED = re.compile(
    r"\b((no|without( an?)?|w/o|missing) (original )?(box|lid)|(box|lid) (missing|not included)|defects?|defective"
    r"|factory seconds?|[bc][ -]?grade|pre-?owned|(lightly|gently|slightly|barely|once) (worn|used)"
    r"|worn (once|twice|[0-9])|(?<!never )(?<!not )used|(?<!no )samples?|ua|reps?|unauthorized|inspired"
    r"|read desc(ription)?)\b"
)
_GRADE = re.compile(r"\b(psa|bgs|cgc|sgc|bvg|hga|tag|ace) ?(10|[1-9](?:\.5)?)\b")
#: Style codes in the makers' usual forms (DD1391-100, 555088-134, 1203A383-104, CP9366), but no season such as FW2023.
_CODE = re.compile(
    r"(?<![a-z0-9])([a-z]{2}[0-9]{4}[ -]?[0-9]{3}|[0-9]{6}[ -][0-9]{3}|[0-9]{4}[a-z][0-9]{3}[ -][0-9]{3}"
    r"|(?!(?:fw|ss|fa|sp|su|ho|wi|aw|ah)20)[a-z]{2}[0-9]{4})(?![a-z0-9])"
)
_OTHER = r"(?:uk|eur?|cm|jp|kr|aus?|mx)"
_SYSTEM = rf"(?:us|{_OTHER})"
#: `10,5` as Europeans write it; but `4,5` may be two sizes, and what stays with its comma is never read.
_DECIMAL_COMMA = re.compile(r"(?<![0-9.,])([6-9]|[1-9][0-9]),5(?![0-9,])")
_SIZE = r"[0-9]{1,3}(?:\.[0-9]{1,2})?"
_GAP = r"[\s/|,()-]*"
#: `10 US / 9 UK`: systems after their numbers, told from `US 10 UK 9` by what ends the run.
_POSTFIX = re.compile(
    rf"(?P<before>\b{_SYSTEM}\b[\s:.]*)?(?<![\w.])(?<![0-9][,'-])(?P<run>(?:{_SIZE}[mwyc]?[\s(]{{0,2}}{_SYSTEM}\b{_GAP})+)"
    rf"(?!{_GAP}{_SIZE}[mwyc]?\b)"
)
_PAIR = re.compile(rf"({_SIZE}[mwyc]?)[\s(]{{0,2}}({_SYSTEM})\b")
_FOREIGN = re.compile(rf"\b{_OTHER}(?![a-z])[\s:.]*(?:(?:size|sz)[\s:.]*)?{_SIZE}(?:\s[12]/3)?(?!\w)")
_WHO = r"\b(?:wo)?men'?s?'?\b|\bwmns\b|\bm\b|\bw\b"
_KEY = r"\b(?:sizes?|sz|us)(?![a-z])[:.]?"
_STATED = re.compile(
    rf"(?P<who>{_WHO})?\s*(?P<key>{_KEY})?\s*(?P<in>(?:us\b)?\s*(?:{_WHO})?)\s*"
    r"(?<![0-9])(?<![0-9][.,'-])(?P<n>[0-9]{1,2}(?:\.[05])?)(?P<suffix>[ywcm])?(?![\w.]*[0-9]|[,'-][0-9]|[a-z])"
)
_RANGE = re.compile(
    rf"(?:{_KEY}|{_WHO})\s*(?P<low>{_SIZE})(?P<suffix>[mwyc]?)\s?(?:-|\u2013|\u2014|~|to|thru|through)\s?"
    r"(?P<high>[0-9]{1,2}(?:\.5)?)(?P=suffix)(?![\w.]*[0-9])(?![a-z])"
)
_LIST = re.compile(rf"{_KEY}\s*(?P<sizes>{_SIZE}(?:\s?[,/&]\s?{_SIZE})+)(?!\w)")
_MANY = re.compile(
    r"\b((all|multiple|many|various|several|different|any|assorted|choose|pick|select|your) (your )?sizes?"
    r"|sizes (available|options?|from)|sizes? (selection|run|range|var(y|ies))|multi-?size)\b"
)
_AUDIENCES = {
    "": r"\bmen'?s?'?\b",
    "W": r"\b(women'?s?'?|wmns|ladies)\b|\(w\)",
    "Y": r"\b(gs|grade school|youth|big kids?)\b",
    "C": r"\b(td|ps|toddlers?|infants?|pre-?school|little kids?)\b",
}
_LONGEST = 200  #: characters; eBay takes 80, and the patterns here are made for about that many
_LARGEST = 22  #: US size; a greater number beside it is of another system


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
    stated: bool = False  #: the title must state the size, for no aspect vouches for it
    floor: Decimal | None = None  #: cheaper than this cannot be the real thing
    ceiling: Decimal | None = None  #: nor what is dearer than this


def names(title: str, wanted: Wanted) -> bool:
    """Whether a title names the wanted thing and no other, in any size: its code or words, its grade, no accessory."""
    if len(title) > _LONGEST:
        return False
    low = _plain(title)
    if _ACCESSORY.search(low) or (wanted.number and _FLAWED.search(low)):
        return False
    if wanted.code and not _holds_code(low, wanted.code):
        return False
    if not set(wanted.words) <= set(skus.words(low)):
        return False
    grades = {f"{grader.upper()} {grade}" for grader, grade in _GRADE.findall(low)}
    if grades != ({wanted.grade} if wanted.grade else set()):
        return False
    return not (wanted.code and _CODE.search(_rest(low, wanted)))


def fits(title: str, wanted: Wanted) -> bool:
    """Whether the sizes that a title states, if any, are the wanted one; a thing of one size states none."""
    rest = _rest(_plain(title), wanted)
    if wanted.number:
        return _size_fits(rest, wanted)
    return bool(wanted.grade) or not sizes_stated(rest)


def says(title: str, wanted: Wanted) -> bool:
    """Whether a title names the wanted thing in the wanted size."""
    return names(title, wanted) and fits(title, wanted)


def tells_size(title: str, wanted: Wanted) -> bool:
    """Whether a title, which `names` the thing, states a size at all."""
    return len(title) <= _LONGEST and sizes_stated(_rest(_plain(title), wanted))


def is_silent(title: str, wanted: Wanted) -> bool:
    """Whether a title, which `names` the thing, holds no number that could be its US size."""
    return not any(_statements(_american(_rest(_plain(title), wanted))))


def tells_whose(title: str, wanted: Wanted) -> bool:
    """Whether a title states the wanted size and whose it is: `Men's 10`, `7.5W`, `5Y`."""
    said = _statements(_american(_rest(_plain(title[:_LONGEST]), wanted)))
    return any((one.number, one.group) == (wanted.number, wanted.group) for one in said)


def sizes_stated(title: str) -> bool:
    """Whether a lower-case title calls some number a size."""
    return any(one.keyed for one in _statements(_american(title)))


def _plain(title: str) -> str:
    halves = re.sub(r"[\s-]?(1/2\b|½)", ".5", title.lower().replace("\u2019", "'"))
    return " ".join(_DECIMAL_COMMA.sub(r"\1.5", halves).split())


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
        title = re.sub(_spelled(part), " ", title)
    return title


def _size_fits(title: str, wanted: Wanted) -> bool:
    """Whether the sizes that the title states, if any, are the wanted one and no choice among several."""
    american = _american(title)
    if _is_choice(american):
        return False
    said = list(_statements(american))
    audience = {group for group, pattern in _AUDIENCES.items() if re.search(pattern, title)}
    if audience and wanted.group not in audience | {one.group for one in said}:
        return False
    if not said:
        return not wanted.stated
    mine = [one for one in said if one.group in (None, wanted.group)]
    # `Men's 11 Retro size 10` is of size 10; but no model's number is a half one.
    keyed = {one.number for one in mine if one.keyed or one.number.endswith(".5")}
    return (keyed or {one.number for one in mine}) == {wanted.number}


@dataclass(frozen=True, slots=True)
class _Statement:
    number: str
    group: str | None  #: as in US sizes, None if it is not told
    keyed: bool  #: called a size, not merely a number after `men's`


def stated(title: str) -> Sequence[tuple[str, str | None]]:
    """US sizes that a title states, each with its group if told: `Women's size 7.5` is (7.5, W)."""
    return [(one.number, one.group) for one in _statements(_american(_plain(title)))]


def _american(title: str) -> str:
    """The title with every US size after its key, and without sizes of other systems."""

    def turned(run: re.Match[str]) -> str:
        if run["before"]:
            return run[0]
        return "".join(f" us {size} " for size, system in _PAIR.findall(run["run"]) if system == "us") or " "

    return _FOREIGN.sub(" ", _POSTFIX.sub(turned, title))


def _is_choice(title: str) -> bool:
    """Whether several sizes are on offer, so that the price may be that of any."""
    if _MANY.search(title):
        return True
    if any(Decimal(run["low"]) < Decimal(run["high"]) <= _LARGEST for run in _RANGE.finditer(title)):
        return True
    lists = (set(map(Decimal, re.findall(_SIZE, run["sizes"]))) for run in _LIST.finditer(title))
    return any(len({size for size in sizes if size <= _LARGEST}) > 1 for sizes in lists)


def _statements(title: str) -> Iterator[_Statement]:
    for hit in _STATED.finditer(title):
        who = (hit["who"] or "") + (hit["in"] or "")
        if not (hit["key"] or who.strip() or hit["suffix"]):
            continue
        if hit["suffix"] in ("y", "c", "w"):
            group: str | None = hit["suffix"].upper()
        elif "wom" in who or "wm" in who or re.search(r"\bw\b", who):
            group = "W"
        else:
            group = "" if hit["suffix"] == "m" or "m" in who else None
        whole, _, half = hit["n"].partition(".")
        number = f"{int(whole)}.5" if half == "5" else str(int(whole))
        yield _Statement(number, group, keyed=bool(hit["key"] or hit["suffix"] or "us" in who))
