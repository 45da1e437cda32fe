"""What a seller's title says of a listing: which product, for whom, in which size and grade. Nothing is guessed."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from marketd import skus
from marketd.providers.ebay import sizing

_ACCESSORY = re.compile(
    r"\b((shoe)?-?laces?|(shoe )?box(es)? only|only (the )?box|empty (shoe ?)?box|no shoes?|insoles?|key ?-?chains?"
    r"|replacement|display case|dust ?bag|stickers?|posters?|shoe ?trees?|proxy|custom(s|ized)?|replicas?"
    r"|(tags?|receipt|invoice) only|raffle"
    r"|(left|right|one|single) (shoe )?only|crease (protectors?|guards?)|sole (protectors?|shields?)"
    r"|reprints?|facsimile|digital|novelty|fan ?art|(packs?|promos?|sleeves?|dice|codes?|case|sticker) only|code cards?"
    r"|no packs?|without packs?|opened|unsealed|re-?packs?|acrylic)\b"
)
#: What a pair that is called new with box cannot be.
_FLAWED = re.compile(
    r"\b((no|without( an?)?|w/o|missing) (original )?(box|lid)|(box|lid) (missing|not included)|defects?|defective"
    r"|factory seconds?|[bc][ -]?grade|pre-?owned|(lightly|gently|slightly|barely|once) (worn|used)"
    r"|worn (once|twice|[0-9])|(?<!never )(?<!not )(worn(?= *($|[,;!/|(-]))|tried on)|box damaged?|damaged box"
    r"|(factory|minor|small|slight) flaws?|refurbished|mismatched (pair|sizes?|shoes)"
    r"|(left|right) [0-9.]+[ /,&-]*(left|right)|(?<!never )(?<!not )used|(?<!no )samples?|ua|reps?|unauthorized"
    r"|inspired|read desc(ription)?)\b"
)
_GRADE = re.compile(
    r"\b(psa|bgs|cgc|sgc|bvg|hga|tag|ace|ags|gma)[ :#-]{0,2}(?:(?:gem )?(?:mint|mt|nm-mt|pristine)[ :#-]{0,2})?"
    r"(10|[1-9](?:\.5)?)(?![0-9]|\.[0-9])"
)
#: Words that make another thing of what a title names, unless they belong to its name.
_OTHER_THING = frozenset(
    (
        *(
            "sock",
            "socks",
            "shirt",
            "shirts",
            "tshirt",
            "tshirts",
            "tee",
            "hoodie",
            "hat",
            "cap",
            "magnet",
            "magnets",
        ),
        *("keyring", "keyrings", "lot", "lots", "bundle", "deposit", "preorder", "vnds", "amputee", "fake"),
    )
)
_OTHER_CARD = _OTHER_THING.union(
    (
        "japanese",
        "french",
        "german",
        "italian",
        "spanish",
        "portuguese",
        "korean",
        "chinese",
        "jumbo",
        "oversized",
    ),
    (
        "metal",
        "orica",
        "lafufu",
        "mystery",
        "break",
        "magnetic",
        "protector",
        "protectors",
        "sleeve",
        "sleeves",
    ),
    ("divider", "dividers", "outfit", "outfits", "clothes", "stand", "damaged", "hp", "creased"),
    # what is in the box, or several of it; a box of another shop
    ("empty", "contents", "boxes", "qty", "tin", "center", "checklist", "choose"),
    # other printings of a card
    (
        "canvas",
        "exclusives",
        "outburst",
        "auto",
        "autograph",
        "autographed",
        "signed",
        "reverse",
        "jp",
        "jpn",
    ),
    ("potential",),
)
_GRADERS = frozenset(
    ("psa", "bgs", "cgc", "sgc", "bvg", "hga", "ags", "gma", "beckett", "graded", "slab", "slabbed")
)
_SEVERAL = re.compile(r"\b(x ?[2-9]|[2-9] ?x|[2-9] pairs|(left|right) foot|aaa|1:1)\b")
#: The same of cards and boxes, unless it belongs to the name.
_SEVERAL_BOXES = re.compile(
    r"^[2-9] |\b((cases?|set) of|(?<=sealed )case|(half|master) case|[1-9][0-9] ?x|(u|you) pick|pick your|art card)\b"
)
_BELONGS_TO = frozenset(("for", "from", "fits"))
#: Style codes in the makers' usual forms (DD1391-100, 555088-134, 1203A383-104, CP9366), but no season such as FW2023.
_CODE = re.compile(
    r"(?<![a-z0-9])([a-z]{2}[0-9]{4}[ -]?[0-9]{3}|[0-9]{6}[ -][0-9]{3}|[0-9]{4}[a-z][0-9]{3}[ -][0-9]{3}"
    r"|(?!(?:fw|ss|fa|sp|su|ho|wi|aw|ah)20)[a-z]{2}[0-9]{4})(?![a-z0-9])"
)
#: `U.K.`, `P.S.A.`
_DOTTED = re.compile(r"(?<![\w.])(?:[a-z]\.){1,3}[a-z](?![a-z0-9])\.?")
#: `10,5` as Europeans write it; but `4,5` may be two sizes, and what stays with its comma is never read.
_DECIMAL_COMMA = re.compile(r"(?<![0-9.,])([6-9]|[1-9][0-9]),5(?![0-9,])")
#: `kids` may be either; whoever is meant by it is nobody else.
_KIDS = r"kids?'?|kid's|girls?'?|girl's|boys?'?|boy's|juniors?|jr|child(ren'?s?)?"
_AUDIENCES = {
    "": r"\bm[ae]n'?s?'?(?![a-z])",
    "W": r"\b(wom[ae]n'?s?'?|wmns?|ladies|female)(?![a-z])|\(w\)",
    "Y": rf"\b(gs|grade school|youth|{_KIDS})(?![a-z])",
    "C": rf"\b(td|ps|toddlers?|infants?|bab(y|ies)|pre-?school|little kids?|(?<!big ){_KIDS})(?![a-z])",
}
_LONGEST = 200  #: characters; eBay takes 80, and the patterns here are made for about that many


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
    models: frozenset[str] = frozenset()  #: small numbers of its name, which are no sizes
    stated: bool = False  #: the title must state the size, for no aspect vouches for it
    floor: Decimal | None = None  #: cheaper than this cannot be the real thing
    ceiling: Decimal | None = None  #: nor what is dearer than this


def names(title: str, wanted: Wanted) -> bool:
    """Whether a title names the wanted thing and no other, in any size: its code or words, its grade, no accessory."""
    if len(title) > _LONGEST:
        return False
    low = plain(title)
    if _ACCESSORY.search(low) or (wanted.number and _FLAWED.search(low)):
        return False
    if wanted.code and not _holds_code(low, wanted.code):
        return False
    if _is_beside(low, wanted):
        return False
    grades = {f"{grader.upper()} {grade}" for grader, grade in _GRADE.findall(low)}
    if grades != ({wanted.grade} if wanted.grade else set()):
        return False
    return not (wanted.code and _CODE.search(_rest(low, wanted)))


def _is_beside(low: str, wanted: Wanted) -> bool:
    """Whether a title misses words of the name, or has one that makes something else of it: its sleeves, two of it."""
    told, name = skus.words(low), set(wanted.words)
    others = _OTHER_THING if wanted.number else _OTHER_CARD
    if not (wanted.number or wanted.grade):
        others = others | _GRADERS
    if not name <= set(told) or (others - name).intersection(told) or _SEVERAL.search(low):
        return True
    if not wanted.number and any(not name.issuperset(hit[0].split()) for hit in _SEVERAL_BOXES.finditer(low)):
        return True
    first = min((told.index(word) for word in name), default=0)
    return not (_BELONGS_TO - name).isdisjoint(told[:first])


def fits(title: str, wanted: Wanted) -> bool:
    """Whether the sizes that a title states, if any, are the wanted one; a thing of one size states none."""
    rest = _rest(plain(title), wanted)
    said = sizing.read(rest, wanted.models)
    if not wanted.number:
        return bool(wanted.grade) or not any(one.keyed for one in said.said)
    audience = {group for group, pattern in _AUDIENCES.items() if re.search(pattern, rest)}
    if audience and wanted.group not in audience | {one.group for one in said.said}:
        return False
    clear = any(
        one.number == wanted.number and one.group in (None, wanted.group)
        for one in said.clear(wanted.marketplace)
    )
    return said.fit(wanted.number, wanted.group) and (clear or not wanted.stated)


def says(title: str, wanted: Wanted) -> bool:
    """Whether a title names the wanted thing in the wanted size."""
    return names(title, wanted) and fits(title, wanted)


def tells_size(title: str, wanted: Wanted) -> bool:
    """Whether a title, which `names` the thing, states a size at all, if only one of another system."""
    said = _sizes(title, wanted)
    return any(one.keyed or one.clear for one in said.said) or bool(said.foreign)


def confirms(title: str, wanted: Wanted) -> bool:
    """Whether a title states the wanted size, and not only one of another system that may be the same."""
    return fits(title, wanted) and bool(_sizes(title, wanted).said)


def is_silent(title: str, wanted: Wanted) -> bool:
    """Whether a title, which `names` the thing, leaves its US size open; a choice of sizes is never the ask of one."""
    said = _sizes(title, wanted)
    return not said.choice and not said.clear(wanted.marketplace)


def tells_whose(title: str, wanted: Wanted) -> bool:
    """Whether a title states the wanted size and whose it is: `Men's 10`, `7.5W`, `5Y`."""
    said = _sizes(title, wanted).said
    return any((one.number, one.group) == (wanted.number, wanted.group) for one in said)


def stated(title: str) -> Sequence[tuple[str, str | None]]:
    """US sizes that a title states, each with its group if told: `Women's size 7.5` is (7.5, W)."""
    return [(one.number, one.group) for one in sizing.read(plain(title)).said]


def _sizes(title: str, wanted: Wanted) -> sizing.Sizes:
    return sizing.read(_rest(plain(title[:_LONGEST]), wanted), wanted.models)


def plain(title: str) -> str:
    """A title in lower case without what only looks different: halves, wide digits, dotted short forms, entities."""
    even = unicodedata.normalize("NFKC", re.sub(r"\s?½", ".5", html.unescape(title)).replace("\u2019", "'"))
    low = "".join(letter for letter in even.lower() if unicodedata.category(letter) != "Cf")
    halves = re.sub(r"[\s-]?1/2\b|(?<=[0-9]) and a half\b", ".5", low)
    joined = _DOTTED.sub(lambda hit: hit[0].replace(".", ""), halves)
    return " ".join(_DECIMAL_COMMA.sub(r"\1.5", joined).split())


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
