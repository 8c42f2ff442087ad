"""One German report for both breasts divided into the text of each, by rule."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

from climb_model.data.sentences import split_sentences
from climb_model.intake.reports.side_words import OPPOSITE, Part, divide, mentions
from climb_model.intake.reports.statements import asserts_finding, is_history, load_words, says_normal

NO_TEXT = "the report is empty"
NO_SIDE = "the text names findings but no side"
FINDING_WITHOUT_SIDE = "a finding is named before or between the sides, without its own"

_HEADING = re.compile(
    r"(?:[-*•]\s|\d{1,2}[.)]\s)?(\[[^\]]{2,40}\]|[^:.,;!?]{2,60}?(?=:| [-–] ))\s?[:–-]?(?=\s|$)"
)
_SIDE_HEADING = re.compile(r"(?:[-*•]\s)?[^:]{1,40}:(?=\s|$)|(?:[-*•]\s)?\w[\w. ]{1,30}\w$")
_MAX_HEADINGS = 8
"""More of them in one sentence are no headings."""

_WORD = re.compile(r"\w+")
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """A report by breast."""

    left: str = field(default="", repr=False)
    right: str = field(default="", repr=False)
    unsplit: str = ""
    """Why it could not be divided, without a word of it; both texts are empty then."""


@dataclass(frozen=True)
class _Unit:
    """A sentence, or the heading before it."""

    text: str
    section: str
    """`common`, `body`, `summary` where a section begins here, else empty."""

    key: str
    """The heading's telling word."""

    side: str
    """`left`, `right`, `both` of a heading such as `Rechte Mamma:`, else empty."""


@dataclass
class _Carry:
    """The side of the sentence before."""

    side: str = ""
    holds: bool = False
    """Whether a finding that follows without a side is of this one."""

    in_summary: bool = False
    under_heading: bool = False
    found: set[str] = field(default_factory=set[str])
    """Sides with a finding so far."""

    def take(self, unit: _Unit, parts: list[Part], found: set[str]) -> None:
        """Go on to the next sentence.

        Args:
            unit: a sentence or heading.
            parts: its clauses.
            found: sides of the findings in it.
        """
        self.side = parts[-1][1]
        self.found |= found
        named = bool(mentions(unit.text))
        if unit.side:
            self.holds = self.under_heading = True
            return
        self.under_heading = self.under_heading and not named
        if self.side not in OPPOSITE or len({side for _, side in parts}) > 1:
            self.holds = False
        elif self.in_summary:
            self.holds = self.under_heading
        elif self.side in self.found:
            self.holds = True
        else:
            self.holds = (self.holds or named) and not says_normal(unit.text)


def split_report(text: str) -> SplitReport:
    """Divide a report about both breasts.

    A side counts for its sentence and for those that follow, until another side, a section heading
    (`Beurteilung:`) or `beidseits`. It does not count for a finding that follows `Links unauffällig`, a
    sentence about both sides, or a summary's sentence: that may be of the other side. Sentences before the
    first side, and the sections on technique and history, are kept in both. A sentence with both sides is
    divided into its clauses. The same headings under both sides (`Rechts: Befund: ... Links: Befund: ...`)
    belong to that side.

    Returns:
        Every word of the text is in one of the two or in both, in the order of the text. Nothing is
        guessed: a finding whose side is not said makes the report one that cannot be divided.
    """
    units = _units(text)
    if not units:
        return SplitReport(unsplit=NO_TEXT)
    if not any(mentions(unit.text) for unit in units):
        found = any(asserts_finding(unit.text) for unit in units)
        whole = _joined(unit.text for unit in units)
        return SplitReport(unsplit=NO_SIDE) if found else SplitReport(left=whole, right=whole)
    assigned = _assigned(units)
    if isinstance(assigned, str):
        return SplitReport(unsplit=assigned)
    texts: dict[str, list[str]] = {"left": [], "right": []}
    for part, side in assigned:
        for own in texts:
            if side in (own, "both", ""):
                texts[own].append(part)
    return SplitReport(left=_joined(texts["left"]), right=_joined(texts["right"]))


def _assigned(units: list[_Unit]) -> list[Part] | str:
    """Clauses and their side, empty for what comes before any; or why that cannot be said.

    Headings of sections begin with a line break.
    """
    resets = _resets(units)
    assigned: list[Part] = []
    carry = _Carry()
    section = ""
    for place, unit in enumerate(units):
        if place in resets:
            carry.side, section = "", unit.section
            carry.in_summary = section == "summary"
        if section == "common" and not unit.side and _stays_common(units[place:]):
            parts = [(unit.text, "both")]
        else:
            section = "" if section == "common" else section
            parts = divide(unit.text, carry.side)
            if isinstance(parts, str):
                return parts
            found = {side for part, side in parts if asserts_finding(part)}
            if "" in found or (found and not carry.holds and not mentions(unit.text)):
                return FINDING_WITHOUT_SIDE
            carry.take(unit, parts, found)
        if unit.section:
            parts = [(f"\n{parts[0][0]}", parts[0][1]), *parts[1:]]
        assigned += parts
    return assigned


def _units(text: str) -> list[_Unit]:
    units: list[_Unit] = []
    for sentence in split_sentences(text):
        rest = sentence
        if units and not _LETTER.search(units[-1].text):
            rest = f"{units.pop().text} {rest}"  # the number of a list's item
        for _ in range(_MAX_HEADINGS):
            head = _heading_unit(rest) if rest else None
            if head is None:
                break
            units.append(head)
            rest = rest[len(head.text) :].strip()
        if rest:
            units.append(_Unit(rest, *_opener(rest), ""))
    return units


def _heading_unit(sentence: str) -> _Unit | None:
    """The heading that a sentence begins with, of a section or of a side."""
    match = _HEADING.match(sentence)
    if match is not None and not mentions(match.group()):
        kind, key = _section(match.group(1))
        if kind:
            return _Unit(match.group().rstrip(), kind, key, "")
    if len(sentence.split()) <= 2 and sentence[-1].isalnum() and not mentions(sentence):
        kind, key = _section(sentence)
        return _Unit(sentence, kind, key, "") if kind else None
    head = _SIDE_HEADING.match(sentence)
    named = mentions(head.group()) if head else []
    if head is None or len(named) != 1 or named[0].side == "other" or not _is_heading(head.group()):
        return None
    side = named[0].side
    if any(one.side in OPPOSITE and one.side != side for one in mentions(sentence[head.end() :])):
        return _Unit(sentence, "", "", side)
    return _Unit(head.group().rstrip(), "", "", side)


def _is_heading(text: str) -> bool:
    """Whether a text holds no more than a side and what the side is of."""
    words = [word.casefold() for word in _WORD.findall(text)]
    nouns = frozenset(load_words()["breast"].split()) | {"die", "der", "mrt", "mrm", "mr", "befund"}
    return sum(word not in nouns for word in words) <= 1


def _section(heading: str) -> tuple[str, str]:
    words = [word.casefold() for word in _WORD.findall(heading)]
    if len(words) > 5:
        return "", ""
    for word in words:
        if word in _sections():
            return _sections()[word], word
    return "", ""


def _opener(sentence: str) -> tuple[str, str]:
    return (
        ("summary", "opener")
        if re.match(rf"(?:{'|'.join(load_words()['openers'].split())})", sentence, re.IGNORECASE)
        else ("", "")
    )


def _resets(units: list[_Unit]) -> frozenset[int]:
    """Places of the headings that end a side.

    Where each side has one block, a heading in the first is part of it; so is one in the second if the
    first has its like, or has headings on technique or history: then each block is a report of its own.
    """
    sections = [place for place, unit in enumerate(units) if unit.section]
    blocks = [place for place, unit in enumerate(units) if unit.side in OPPOSITE]
    if len(blocks) != 2 or units[blocks[0]].side == units[blocks[1]].side:
        nested = _repeated(units)
        return frozenset(place for place in sections if units[place].key not in nested)
    first, second = blocks
    kinds = {units[place].section for place in sections if first < place < second}
    return frozenset(
        place
        for place in sections
        if place < first or (place > second and "common" not in kinds and units[place].section not in kinds)
    )


def _repeated(units: list[_Unit]) -> frozenset[str]:
    """Headings that come under the right and under the left side."""
    seen: dict[str, set[str]] = {}
    block = ""
    for unit in units:
        block = unit.side or block
        seen.setdefault(unit.key, set()).add(block)
    return frozenset(key for key, sides in seen.items() if key and {"left", "right"} <= sides)


def _stays_common(units: list[_Unit]) -> bool:
    """Whether the first unit goes on a section on technique or history.

    It does if it names no side or tells of the past, or if a later heading shows where the section ends.
    """
    text = units[0].text
    if not mentions(text) or is_history(text):
        return True
    return any(unit.section == "body" or unit.side for unit in units[1:])


def _joined(texts: Iterator[str] | list[str]) -> str:
    return re.sub(r" ?\n", "\n", " ".join(texts)).strip()


@cache
def _sections() -> dict[str, str]:
    return {word: kind for kind, words in load_words()["sections"].items() for word in words.split()}
