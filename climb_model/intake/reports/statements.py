"""What German clauses say: a finding, that there is none, or the past."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

_WORD = re.compile(r"\w[\w-]*")


def is_history(text: str) -> bool:
    """Whether a text tells of the past or of the reason for the exam, or asks."""
    return text.rstrip().endswith("?") or word_pattern("history").search(text) is not None


def asserts_finding(text: str) -> bool:
    """Whether a text names a finding without denying it, asking for it or telling of the past."""
    if is_history(text):
        return False
    denied = False
    for clause in re.split(r"[;,](?!\d)|(?<!\w)(aber|jedoch|sondern|dagegen|hingegen)(?!\w)", text):
        if clause in ("aber", "jedoch", "sondern", "dagegen", "hingegen"):
            denied = False
            continue
        rest = word_pattern("harmless").sub(" ", clause or "")
        denied = denied or bool(word_pattern("denials").search(rest))
        if word_pattern("findings").search(rest) and not denied:
            return True
        if re.search(r"bi-?rads\D{0,25}[456]", rest, re.IGNORECASE):
            return True
    return False


def says_normal(text: str) -> bool:
    """Whether a text says of a whole breast that there is nothing: `Links unauffällig`, `Kein Herd`.

    `Haut unauffällig` is about a part of it, and a finding may follow.
    """
    if asserts_finding(text) or is_history(text):
        return False
    if re.search(r"bi-?rads\D{0,25}1(?!\d)", text, re.IGNORECASE):
        return True
    rest = word_pattern("harmless").sub(" ", text)
    if not word_pattern("denials").search(rest):
        return False
    if word_pattern("disease").search(rest):
        return True
    whole = frozenset(f"{load_words()['breast']} {load_words()['whole']}".split())
    return all(word in whole for word in content_words(word_pattern("denials").sub(" ", rest)))


def content_words(text: str) -> list[str]:
    """Words that say something: no numbers, units, places or particles."""
    few = frozenset(load_words()["elliptic"].split())
    return [word for word in _WORD.findall(text.lower()) if word not in few and not word[0].isdigit()]


@cache
def word_pattern(kind: str) -> re.Pattern[str]:
    """Any word of one kind of `wording/sides.yaml`."""
    words = "|".join(load_words()[kind].split())
    if kind in ("findings", "harmless", "disease"):
        return re.compile(words, re.IGNORECASE)
    return re.compile(rf"(?<!\w)(?:{words})" + (r"(?!\w)" if kind == "denials" else ""), re.IGNORECASE)


@cache
def load_words() -> dict[str, Any]:
    """The content of `wording/sides.yaml`."""
    path = Path(__file__).with_name("wording") / "sides.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))
