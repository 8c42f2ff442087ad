"""Words for the sides in German reports, and which breast each clause of a sentence is about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from climb_model.intake.reports.statements import asserts_finding, content_words, word_pattern

OPPOSITE = {"left": "right", "right": "left"}
NO_REFERENCE = "the text says 'the other side' where no side was named before"
NOT_DIVIDED = "a sentence names both sides and cannot be divided"

_ENDINGS = r"(?:seits|(?:seitig|lateral|medial|kranial|kaudal|axillär|mammär|thorakal|betont)\w*)"
_NOUNS = ("Mamma", "Brust", "Axilla", "Seite")
_BOTH = (
    r"(?<!\w)(?:beidseit(?:s|ig\w*)|beids\.|bds(?!\w)\.?|bilateral\w*"
    r"|beide[nr]?\s(?:\w+\s)?(?:mamm|brüst|seiten|axill|achsel|drüsenk)\w*"
    r"|mammae(?!\w)|brüsten?(?!\w)|seitengleich\w*)"
)
_OTHER = r"(?<!\w)(?:[kc]ontralateral\w*|gegenseit(?:e|ig\w*)|anderen?\s(?:seite|brust|mamma))(?!\w)"
_COMPARED = re.compile(
    r"(?<!\w)(?:im vergleich (?:zu[rm]?|mit)|verglichen mit|gegenüber|im (?:gegensatz|unterschied) zu[rm]?"
    r"|analog(?: zu[rm]?)?|wie|als)(?:\s(?:der|die|den|dem|auf|in|von|an))*\s$",
    re.IGNORECASE,
)
_NOUN_BETWEEN = r"(?:\s(?:mamma|brust|seite|axilla))?"
_PAIR_ALWAYS = re.compile(
    rf"{_NOUN_BETWEEN}(?:,?\s(?:oder|noch|bzw\.?|wie auch|als auch|und/oder|mehr als|weniger als|\w+er als)"
    r"|\s?[<>=≥≤]+)\s?(?:(?:auch|in|auf|der|die)\s)*",
    re.IGNORECASE,
)
_PAIR_MAYBE = re.compile(
    rf"{_NOUN_BETWEEN}(?:\s(?:und|u\.|sowie|wie)|\s?[&+/-])\s?(?:(?:auch|in|auf|der|die)\s)*", re.IGNORECASE
)
_CUT = re.compile(
    r"(?<=[;,/])(?!\d)|(?=\s[–-]\s)"
    r"|(?=\s(?:und|u\.|sowie|während|wohingegen|aber|jedoch|dagegen|hingegen)\s)"
)
_ALL = re.compile(r"\W*(?:beide[nrs]?|jeweils|alle|sämtliche)(?!\w)", re.IGNORECASE)
_WORD = re.compile(r"\w[\w-]*")
_LOOK_BACK = 80
"""Characters before a side that are looked at; keeps the time linear in the text."""


@dataclass(frozen=True)
class Mention:
    """A side named in a sentence."""

    start: int
    end: int
    side: str
    """`left`, `right`, `both`, or `other`: the one that was not spoken of."""


Part = tuple[str, str]
"""Words of a sentence, and `left`, `right` or `both`."""


def mentions(sentence: str) -> list[Mention]:
    """Sides named in a sentence, in order; organs elsewhere and mere comparisons do not count.

    `rechts und links` is one mention of both, unless each has a statement of its own.
    """
    pattern = _mention_pattern("bi-rads" in sentence.casefold() or "birads" in sentence.casefold())
    found = [Mention(one.start(), one.end(), str(one.lastgroup)) for one in pattern.finditer(sentence)]
    found = _paired(sentence, [one for one in found if not _is_elsewhere(sentence, one)])
    return [one for one in found if not _COMPARED.search(_before(sentence, one.start))]


def divide(sentence: str, carry: str) -> list[Part] | str:
    """The clauses of a sentence and the breast each is about, or the reason why that cannot be said.

    Args:
        sentence: with single spaces.
        carry: side of the sentence before, or empty.

    Returns:
        All words of the sentence in their order; words that clauses share are told as `both`. An empty
        side if neither the sentence nor `carry` names one.
    """
    named = mentions(sentence)
    sides: list[str] = []
    for one in named:
        before = next((side for side in reversed(sides) if side in OPPOSITE), carry)
        if one.side == "other" and before not in OPPOSITE:
            return NO_REFERENCE
        sides.append(OPPOSITE[before] if one.side == "other" else one.side)
    if len(set(sides)) < 2:
        return [(sentence, sides[0] if sides else carry)]
    named = [Mention(one.start, one.end, side) for one, side in zip(named, sides, strict=True)]
    groups = _groups(sentence, named)
    return groups if isinstance(groups, str) else _shared(groups)


@dataclass
class _Group:
    """Clauses about one side."""

    text: str
    side: str
    trails: bool = False
    """Whether the side comes last, as in `Zyste rechts`."""

    bare: str = ""
    """The clauses without their sides."""


def _groups(sentence: str, named: Sequence[Mention]) -> list[_Group] | str:
    """Neighbouring clauses of one side; clauses without a side go with the one before."""
    groups: list[_Group] = []
    loose = ""
    for start, end in _pieces(sentence, named):
        piece = sentence[start:end]
        inside = [one for one in named if start <= one.start < end]
        sides = {one.side for one in inside}
        if not sides:
            if len({group.side for group in groups}) > 1 and _ALL.match(piece):
                groups += [_Group(loose, groups[-1].side, bare=loose)] if loose else []
                groups.append(_Group(piece, "both", bare=piece))
                loose = ""
            else:
                loose += piece
            continue
        if len(sides) > 1 and "both" not in sides:
            return NOT_DIVIDED
        side = "both" if len(sides) > 1 else inside[0].side
        trails = not content_words(sentence[inside[-1].end : end])
        if loose and groups:
            if groups[-1].trails and trails and asserts_finding(loose):
                return NOT_DIVIDED
            groups[-1].text += loose
            groups[-1].bare += loose
        elif loose:
            lead_side = side if trails else "both"
            if lead_side == "both" and asserts_finding(loose):
                return NOT_DIVIDED
            groups.append(_Group(loose, lead_side, bare=loose))
        loose = ""
        groups.append(_Group(piece, side, trails, _without(sentence, start, end, inside)))
    groups[-1].text += loose
    groups[-1].bare += loose
    return groups


def _pieces(sentence: str, named: Sequence[Mention]) -> list[tuple[int, int]]:
    """Spans of the clauses: cut at separators, before a side with a colon, and before a second side."""
    cuts = {match.start() for match in _CUT.finditer(sentence)}
    cuts |= {one.start for one in named[1:] if re.match(r"\W{0,2}:", sentence[one.end : one.end + 3])}
    cuts = {cut for cut in cuts if not any(one.start < cut < one.end for one in named)}
    edges = sorted({0, *cuts, len(sentence)})
    pieces: list[tuple[int, int]] = []
    for start, end in pairwise(edges):
        inside = [one for one in named if start <= one.start < end]
        leads = len(inside) > 1 and not content_words(sentence[start : inside[0].start])
        # `Rechts Zyste links Karzinom`
        if leads and all(content_words(sentence[a.end : b.start]) for a, b in pairwise(inside)):
            inner = [start, *(one.start for one in inside[1:]), end]
            if content_words(sentence[inside[-1].end : end]):
                pieces += pairwise(inner)
                continue
        pieces.append((start, end))
    return pieces


def _shared(groups: Sequence[_Group]) -> list[Part] | str:
    """Clauses without a noun, as `4 links` in `BI-RADS 2 rechts, 4 links`, share the first one's nouns."""
    parts = [(_closed(group.text, last=group is groups[-1]), group.side) for group in groups]
    if all(content_words(group.bare) for group in groups) or groups[0].side == "both":
        return parts
    first = groups[0]
    number = re.search(r"\d", first.bare)
    nouns = content_words(first.bare[: number.start()] if number else first.bare) or content_words(first.bare)
    if not nouns or (number and word_pattern("denials").search(first.text)):
        return NOT_DIVIDED
    shared: list[Part] = []
    place = 0
    for word in _WORD.finditer(parts[0][0]):
        if nouns and word.group().lower() == nouns[0]:
            shared += [(parts[0][0][place : word.start()].strip(), first.side), (word.group(), "both")]
            place = word.end()
            nouns.pop(0)
    return [part for part in (*shared, (parts[0][0][place:].strip(), first.side), *parts[1:]) if part[0]]


def _closed(clause: str, *, last: bool) -> str:
    """A clause that ends like a sentence, so that what follows in that breast's text is none of it."""
    return clause.strip() if last else f"{clause.strip().rstrip(' ,;/–-')}."


def _without(sentence: str, start: int, end: int, inside: Sequence[Mention]) -> str:
    edges = [start, *(edge for one in inside for edge in (one.start, one.end)), end]
    return " ".join(sentence[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True))


def _paired(sentence: str, found: Sequence[Mention]) -> list[Mention]:
    """Join `rechts und links` into one mention of both."""
    joined: list[Mention] = []
    for one in found:
        last = joined[-1] if joined else None
        if last and {last.side, one.side} == {"left", "right"} and _is_pair(sentence, last, one):
            joined[-1] = Mention(last.start, one.end, "both")
        else:
            joined.append(one)
    return joined


def _is_pair(sentence: str, first: Mention, second: Mention) -> bool:
    between = sentence[first.end : second.start]
    if _PAIR_ALWAYS.fullmatch(between):
        return True
    before, after = _before(sentence, first.start), sentence[second.end : second.end + _LOOK_BACK]
    return bool(_PAIR_MAYBE.fullmatch(between)) and not (_states(before) and _states(after))


def _states(text: str) -> bool:
    return bool(
        word_pattern("findings").search(text)
        or word_pattern("denials").search(text)
        or re.search(r"\d", text)
    )


def _is_elsewhere(sentence: str, one: Mention) -> bool:
    """Whether the side is that of another organ: `im rechten Leberlappen`, `Leberlappen rechts`."""
    if one.side not in OPPOSITE:
        return False
    adverb = sentence[one.start : one.end].casefold() in ("rechts", "links")
    between = r"\s" if adverb else r"\s(?:\w+\s)?"
    organ = word_pattern("elsewhere").pattern
    after = re.compile(rf"{between}(?:{organ})", re.IGNORECASE).match(sentence, one.end)
    return bool(after or re.search(rf"(?:{organ})\w{{0,30}}\s$", _before(sentence, one.start), re.IGNORECASE))


def _before(sentence: str, end: int) -> str:
    return sentence[max(0, end - _LOOK_BACK) : end]


@cache
def _mention_pattern(with_birads: bool) -> re.Pattern[str]:
    """Mentions as named groups. A letter before a digit is a side in a BI-RADS statement only (`L4/5`)."""
    kinds: list[str] = []
    for side, stem, short, letter in (("right", "recht", "re", "R"), ("left", "link", "li", "L")):
        word = rf"(?<![\w-])(?:{stem}s{_ENDINGS}?|{stem}e[nrsm]?|{short}(?:\.|(?![\w-])))(?!\w)"
        mark = rf"(?<![\w.,-]){letter}(?=\s?\)|\.?\s?:|\.\s(?:{'|'.join(_NOUNS)}))"
        nouns = "|".join(rf"(?<={noun} ){letter}(?!\w)" for noun in _NOUNS)
        number = rf"|(?<![\w.,-]){letter}(?=[\s:=]{{0,2}}[0-6](?!\d))" if with_birads else ""
        kinds.append(rf"(?P<{side}>(?i:{word})|{mark}|{nouns}{number})")
    kinds += [rf"(?P<both>(?i:{_BOTH}))", rf"(?P<other>(?i:{_OTHER}))"]
    return re.compile("|".join(kinds))
