"""Words that are no names, words that are, and the form in which they are compared."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from climb_model.data.wordings import load_wording

_NOUN_ENDING = re.compile(
    r"(?:ung|ungen|om|ome|itis|ose|ie|ion|ionen|zyste\w*|gramm|grafie|logie|ität|keit|heit)$"
)
_WORD = re.compile(r"[^\W\d_]+")


def is_ordinary(word: str) -> bool:
    """Whether it is a word of reports, or an eponym."""
    return fold(word) in _ordinary_words()


def is_plain(word: str) -> bool:
    """Whether it is a word of reports, and no eponym."""
    return is_ordinary(word) and fold(word) not in folded_words("eponyms")


def is_title(word: str) -> bool:
    """Whether it is a title or a salutation."""
    return fold(word) in folded_words("titles")


def is_medical(word: str) -> bool:
    """Whether a word ends as medical nouns do and names seldom do."""
    return fold(word) not in folded_words("given") and _NOUN_ENDING.search(word) is not None


@cache
def _ordinary_words() -> frozenset[str]:
    """Words of reports: our lists, and every word of the drawn reports' wordings."""
    wordings = " ".join(
        _texts(load_wording(name)) for name in ("findings", "styles", "shared", "german_words")
    )
    words = {fold(word) for word in _WORD.findall(wordings) if len(word) > 1}
    return frozenset(words) | folded_words("ordinary") | folded_words("eponyms")


def _texts(content: object) -> str:
    """All texts and keys of nested lists and mappings."""
    if isinstance(content, dict):
        return " ".join(f"{_texts(key)} {_texts(value)}" for key, value in content.items())
    if isinstance(content, list):
        return " ".join(_texts(each) for each in content)
    return str(content)


@cache
def folded_words(kind: str) -> frozenset[str]:
    """A list of `wording/names.yaml`, folded."""
    return frozenset(fold(word) for word in load_words()[kind].split())


def fold(word: str) -> str:
    """The form in which names are compared: `MÜLLER`, `Mueller` and `Muller` are one."""
    plain = unicodedata.normalize("NFD", word.casefold())
    plain = "".join(sign for sign in plain if not unicodedata.combining(sign))
    return re.sub(r"(?<=[aou])e", "", plain)


@cache
def load_words() -> dict[str, Any]:
    """The content of `wording/names.yaml`."""
    path = Path(__file__).with_name("wording") / "names.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))
