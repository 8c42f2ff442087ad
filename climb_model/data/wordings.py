"""German wordings of the synthetic hospitals: inflected names, styles and each hospital's dialect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CENTRAL = -1
"""Number of the coordinator's own hospital, whose wording occurs at no training site."""

_BASES = ("telegraph", "prose", "structured", "chatty")
_ARTICLES = {
    # nominative, accusative, genitive, dative of "ein", and the definite nominative
    "m": ("ein", "einen", "eines", "einem", "der"),
    "f": ("eine", "eine", "einer", "einer", "die"),
    "n": ("ein", "ein", "eines", "einem", "das"),
}
_STRONG = {"m": "er", "f": "e", "n": "es"}
_CHOICES = {
    # how many ways each field of a later hospital's dialect has; their product is the number of dialects
    "layout": 4,
    "statements": 4,
    "neutral": 4,
    "kein": 6,
    "other": 8,
    "pair": 4,
    "heads": 4,
    "size": 4,
    "place": 3,
    "turn": 3,
}
_NUMBERS = ("null", "ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn")
_STEP = 61_583
"""Coprime to the number of dialects: neighbouring hospitals differ in many fields."""


@dataclass(frozen=True)
class Name:
    """One noun for a finding, with its German forms in every case the templates need."""

    gender: str
    slots: Mapping[str, str]
    """N nominative, A accusative, G genitive, D dative, W weak nominative, P and PD plural; articles."""

    @staticmethod
    def of(entry: Mapping[str, Any]) -> Name:
        """Inflect a lexicon entry: `gender`, `noun`, and where they differ `adj`, `gen`, `pl`, `pldat`."""
        gender, noun, adj = entry["gender"], entry["noun"], entry.get("adj", "")
        plural = entry.get("pl", noun)
        plural_dative = entry.get("pldat", plural)
        plural_adj = "" if entry.get("bare_plural", False) else adj

        def with_adj(stem: str, ending: str, form: str) -> str:
            return f"{stem}{ending} {form}" if stem else form

        ein, einen, eines, einem, der = _ARTICLES[gender]
        strong = _STRONG[gender]
        slots = {
            "N": with_adj(adj, strong, noun),
            "A": with_adj(adj, "en" if gender == "m" else strong, noun),
            "G": with_adj(adj, "en", entry.get("gen", noun)),
            "D": with_adj(adj, "en", noun),
            "W": with_adj(adj, "e", noun),
            "P": with_adj(plural_adj, "e", plural),
            "PD": with_adj(plural_adj, "en", plural_dative),
            "ein": ein,
            "einen": einen,
            "eines": eines,
            "einem": einem,
            "der": der,
            "kein": "k" + ein,
        }
        return Name(gender, slots)

    def inflect(self, stem: str) -> str:
        """The adjective `stem` before this noun, singular nominative without definite article."""
        return stem + _STRONG[self.gender]


@dataclass(frozen=True)
class Finding:
    """How one finding is named and described; the first name is the canonical one."""

    names: tuple[Name, ...]
    adjectives: tuple[str, ...]
    notes: tuple[str, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """A hospital's own way of writing, as choices among the wordings."""

    layout: str
    statements: str
    neutral: str
    kein: int
    other: int
    pair: int
    heads: int
    size: int
    place: int
    turn: int
    """How far the pools of adjectives and notes are turned; each hospital uses a part of them."""

    @property
    def typing_errors(self) -> bool:
        return self.layout == "chatty"


@cache
def lexicon() -> dict[str, Finding]:
    """The nine findings by canonical name, in the order of the prompts."""
    return {
        finding: Finding(
            names=tuple(Name.of(name) for name in entry["names"]),
            adjectives=tuple(entry["adjectives"]),
            notes=tuple(entry["notes"]),
            signs=tuple(entry["signs"]),
        )
        for finding, entry in load_wording("findings").items()
    }


@cache
def styles() -> dict[str, Any]:
    """Base style name to its template lists."""
    return load_wording("styles")


@cache
def shared() -> dict[str, Any]:
    """Negations, headings, reasons and BI-RADS categories."""
    return load_wording("shared")


@cache
def invasive() -> Name:
    """The name under which Karzinom is denied in a breast that has a DCIS."""
    return Name.of(shared()["beside_dcis"])


@cache
def dialect(hospital: int) -> Dialect:
    """The dialect of a hospital: 0 to 3 are the base styles, later ones mix them, -1 is CENTRAL.

    Raises:
        ValueError: for a number below -1 or beyond the number of different dialects.
    """
    total = 1
    for ways in _CHOICES.values():
        total *= ways
    if hospital < CENTRAL or hospital >= total:
        raise ValueError(f"a hospital is -1 (CENTRAL) or 0 to {total - 1}, got {hospital}")
    if hospital == CENTRAL:
        return _pure("central", 0)
    if hospital < len(_BASES):
        return _pure(_BASES[hospital], hospital)
    code = hospital * _STEP % total
    digits: dict[str, int] = {}
    for field, ways in _CHOICES.items():
        code, digits[field] = divmod(code, ways)
    return Dialect(
        layout=_BASES[digits.pop("layout")],
        statements=_BASES[digits.pop("statements")],
        neutral=_BASES[digits.pop("neutral")],
        **digits,
    )


def number_word(num: int) -> str:
    """A cardinal number, as a word up to ten."""
    return _NUMBERS[num] if num < len(_NUMBERS) else str(num)


def _pure(base: str, number: int) -> Dialect:
    return Dialect(
        layout=base,
        statements=base,
        neutral=base,
        kein=number,
        other=number,
        pair=number,
        heads=0,
        size=(0, 0, 2, 1)[number],
        place=0,
        turn=number % 3,
    )


def load_wording(name: str) -> dict[str, Any]:
    """The content of `wording/NAME.yaml`."""
    path = Path(__file__).with_name("wording") / f"{name}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))
