"""Sentence splitting for German medical reports: abbreviations, ordinals and numbers do not end one."""

from __future__ import annotations

import re
from functools import cache

from climb_model.data.wordings import load_wording

_END = re.compile(r"[.!?]+[\"'”“»)\]]*(?=\s|$)")
_BULLET = re.compile(r"[-*•]\s|\d{1,2}[.)]\s")
_AROUND = "\"'„“”«»([)].,;:!?"
_LONG_LINE = 60
"""A line at least this long, in characters, may have been wrapped inside a sentence."""
_LOOK_BACK = 80
"""Characters before a period that are looked at; keeps the time linear in the text."""


def split_sentences(text: str) -> list[str]:
    """Split a German report into sentences.

    A period ends no sentence after an abbreviation (`Z. n.`, `ca.`, `V. a.`), in a number (`1.5 cm`,
    `12.03.2021`), after an ordinal (`12. Uhr`, `am 3. Tag`) or an enumeration (`1. Fibroadenom`). After
    those that may stand last (`bds.`, `o. B.`) the next word decides. A line break ends a sentence
    unless the line is long, as wrapped lines are, or the next one goes on in lower case; a heading that
    ends in a colon belongs to the sentence below it.

    Returns:
        The sentences in order, each with single spaces. Joined by spaces they are the text with its
        white space made single.
    """
    sentences: list[str] = []
    for block in _blocks(text):
        start = 0
        for match in _END.finditer(block):
            if match.end() < len(block) and _ends(block, start, match):
                sentences.append(block[start : match.end()].strip())
                start = match.end()
        sentences.append(block[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _blocks(text: str) -> list[str]:
    """Lines with single spaces, those that go on joined."""
    blocks: list[list[str]] = []
    after_gap = True
    for line in text.splitlines():
        words = " ".join(line.split())
        if not words:
            after_gap = True
        elif blocks and _goes_on(blocks[-1][-1], words, after_gap):
            blocks[-1].append(words)
            after_gap = False
        else:
            blocks.append([words])
            after_gap = False
    return [" ".join(lines) for lines in blocks]


def _goes_on(line: str, below: str, after_gap: bool) -> bool:
    if line[-1] == ":":
        return True
    if after_gap or line[-1] in "!?" or _BULLET.match(below):
        return False
    # a line that ends in a period is split, or not, like any other period
    return line[-1] in ".,;-" or below[0].islower() or len(line) >= _LONG_LINE


def _ends(block: str, start: int, match: re.Match[str]) -> bool:
    """Whether the punctuation ends the sentence that began at `start`."""
    follower = block[match.end() : match.end() + _LOOK_BACK].split(maxsplit=1)[0]
    mark, end = match.group(), match.start()
    if follower[0] in ",;)/":
        return False
    if mark[0] != "." or mark.startswith(".."):
        return not follower[0].islower()
    before = block[max(start, end - _LOOK_BACK) : end].split()
    last = before[-1].lower().strip(_AROUND) if before else ""
    word = follower.strip(_AROUND).lower()
    if follower[0].islower():
        return False
    if last.isdigit():
        return _ends_after_number(before, word)
    previous = before[-2].lower() if len(before) > 1 else ""
    spaced = previous.strip("([") + last if previous.endswith(".") else last
    if spaced in _words("mostly_last"):
        return True
    if spaced in _words("maybe_last") or last in _words("maybe_last"):
        return word in _words("starters")
    if spaced in _words("never_last") or last in _words("never_last"):
        return False
    return len(last) > 1 or previous.strip(_AROUND) in _words("categories")


def _ends_after_number(before: list[str], word: str) -> bool:
    """`before` ends in a number of digits only; dates and decimals never come here."""
    if len(before) == 1 or word in _words("ordinal_after"):
        return False
    return len(before[-1]) > 2 or before[-2].lower() not in _words("ordinal_before")


@cache
def _words(kind: str) -> frozenset[str]:
    return frozenset(load_wording("sentences")[kind].split())
