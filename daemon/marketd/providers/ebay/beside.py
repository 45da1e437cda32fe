"""Which words of a seller's title make something else of what it names: its laces, its box, two of it, a worn one.

All texts here are as `titles.plain` leaves them. What belongs to the product's own name (`Powerpuff Girls`, a
`Poster Collection`) makes nothing else of it.
"""

from __future__ import annotations

import re

from marketd import skus

_ACCESSORY = re.compile(
    r"\b((shoe)?-?laces?"
    r"|(shoe )?box( ?[&+]| and)?( [a-z]+){0,2} only(?! ([0-9]|one|a few))|(only|just) (the )?box|empty (shoe ?)?box"
    r"|no (shoes?|sneakers?)|(shoes?|sneakers?) not included|insoles?|key ?-?chains?"
    r"|replacement|display (case|only)|dust ?bag|stickers?|posters?|shoe ?trees?|proxy|custom(s|ized)?|replicas?"
    r"|(tags?|receipt|invoice|lid) only|raffle|pre-? ?orders?"
    r"|(left|right|one|single) (shoe )?only|crease (protectors?|guards?)|sole (protectors?|shields?)"
    r"|reprints?|facsimile|digital|novelty|fan ?art|(packs?|promos?|sleeves?|dice|codes?|case|sticker) only|code cards?"
    r"|no packs?|without packs?"
    r"|(?<!toe )cap(?! and gown)|fridge magnet|(?<!never )(?<!not )opened|unsealed|re-?packs?|acrylic"
    r"|x ?[2-9]|[2-9] ?x|([2-9]|two|three) pairs|(left|right) foot|aaa|1:1)\b"
)
#: What a pair that is called new with box cannot be, and what is made in the likeness of one.
_FLAWED = re.compile(
    r"\b((no|without( an?)?|w/o|missing) ((original|top) )?(box|lid)(?! damage)|(box|lid) (missing|not included)|nwob"
    r"|(wrong|different|other|generic) box|(?<!with )(?<!w/ )(?<!in )(?<!original )(?<!og )shoe ?box"
    r"|(?<!no )defects?|defective|irregulars?"
    r"|factory seconds?|[bc][ -]?grade|pre[- ]?owned|like new|near mint|(good|great|excellent|fair) condition"
    r"|[4-9](\.[0-9])?/10 cond(ition)?|(lightly|gently|slightly|barely|once) (worn|used)"
    r"|worn (only )?(once|twice|[0-9])"
    r"|(?<!never )(?<!not )(been worn|(?<!been )(?<!un-)worn(?= *($|[,;!/|(-]))|tried on)"
    r"|(?<!no )box damaged?|damaged box"
    r"|(factory|minor|small|slight|with|has) flaws?|flawed|refurbished|restored|re-?soled|soles? ?swap(ped)?|dupes?"
    r"|(?<!no )(creas(ed|ing)|scuff(s|ed)|yellow(ing|ed))|mismatched (pair|sizes?|shoes)|(one|single|left|right) shoe"
    r"|(left|right) [0-9.]+[ /,&-]*(left|right)|(?<!never )(?<!not )used|(?<!no )samples?|ua|reps?|unauthorized"
    r"|inspired|(read|see) desc(ription)?"
    r"|mini(ature)? (figures?|sneakers?|shoes?)|figurines?|ornaments?|wall art|(canvas|art) prints?"
    r"|(shoe|lace) (charms?|locks?))\b"
)
#: Several cards or boxes, another printing of a card, and a grade that is only hoped for.
_OTHER_PIECE = re.compile(
    r"^[2-9] |\b((cases?|set) of|(?<=sealed )case|(half|master) case|[1-9][0-9] ?x|(u|you) pick|pick your"
    r"|art card|black label|label only"
    r"|no (box|wrap|shrink ?wrap)|dented|torn|ripped|(?<!never )(?<!not )used"
    r"|pok[e\u00e9]mon center|(psa|grade|grading) ready|ready for (psa|grading))\b"
    r"|#[0-9]+ ?(\+|&|,|and) ?#[0-9]+|[0-9]+% ?(&|and|\+|,|/) ?[0-9]+%"
    r"|(?<=\s)/[0-9]{1,4}(?![0-9/.])|\(([2-9]|oc|mk|st|pd|of|mc)\)|(psa|bgs|cgc|sgc) ?[0-9.]+ ?\?"
)


def _words(*texts: str) -> frozenset[str]:
    return frozenset(" ".join(texts).split())


_OTHER_THING = _words(
    "sock socks shirt shirts tshirt tshirts tee hoodie hat magnets keyring keyrings lot lots bundle deposit",
    "preorder vnds amputee fake",
)
_OTHER_CARD = _OTHER_THING | _words(
    "japanese french german italian spanish portuguese korean chinese jumbo oversized metal orica lafufu",
    "magnetic protector protectors sleeve sleeves divider dividers outfit outfits clothes stand damaged hp creased",
    "empty contents boxes qty tin checklist choose mystery break",  # what is in the box, or several of it
    "canvas exclusives outburst auto autograph autographed signed reverse jp jpn gloss acetate cracked",
    "potential candidate contender possible worthy",  # of a grade that is only hoped for
)
_GRADERS = _words("psa bgs cgc sgc bvg hga ags gma beckett graded slab slabbed")
_BELONGS_TO = _words("for from fits")

_WHICH = (
    r"(?:(?:an?|the|its|all|both|extra|spare|additional|original|og|free|bonus|[2-9]|two|three|(?:sets|pairs?) of|and|&"
    r"|black|white|red|blue|green|pink|gr[ae]y|sail|cream|purple|orange|yellow|brown"
    r"|protective|soft|penny|card)[ /]){0,5}"
)
#: What comes along with the thing: `with extra laces`, `in protective sleeve`.
_ALONG = re.compile(
    r"(?:(?:\bw/|(?<!compatible )\bwith\b|\b(?:plus|includ(?:es?|ing)|in)\b|[+&](?= ?(?:extra|free|bonus)\b))"
    rf" ?{_WHICH}"
    r"|\b(?:free|bonus) |\b(?:extra |all |both |original |og )?(?=[a-z ]+ included\b))"
    r"(?:(?:shoe ?)?laces?(?: (?:sets?|bags?))?|insoles?|key ?chains?|dust ?bags?|stickers?|shoe ?trees?|socks?"
    r"|crease (?:protectors?|guards?)|sleeves?|protectors?|stand)(?: included)?\b"
)
_MERE_BOX = re.compile(r"(?<!with )(?<!w/ )(?<!w/)(?<!in )(?<!original )(?<!og )\bbox\b")


def without_extras(low: str, known: frozenset[str], *, shoe: bool) -> str:
    """The title without what comes along. Of shoes not where a box may be all that it comes along with."""
    if shoe and _MERE_BOX.search(low):
        return low
    return _ALONG.sub(lambda hit: " " if known.isdisjoint(skus.words(hit[0])) else hit[0], low)


def is_beside(low: str, known: frozenset[str], *, shoe: bool, graded: bool) -> bool:
    """Whether a title, without extras, has words that make something else of it; `known` are those of its name."""
    if "under armour" in low:
        known = known | {"ua"}
    for pattern in (_ACCESSORY, _FLAWED if shoe else _OTHER_PIECE):
        if any(not known.issuperset(skus.words(hit[0])) for hit in pattern.finditer(low)):
            return True
    others = _OTHER_THING if shoe else _OTHER_CARD if graded else _OTHER_CARD | _GRADERS
    return not (others - known).isdisjoint(skus.words(low))


def belongs_to_it(told: list[str], name: frozenset[str]) -> bool:
    """Whether what is named is only what the thing is for: `Protector for ...`."""
    first = min((told.index(word) for word in name), default=0)
    return not (_BELONGS_TO - name).isdisjoint(told[:first])
