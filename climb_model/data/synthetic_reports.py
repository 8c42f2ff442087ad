"""German reports of one breast, written from the findings that were planted in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from climb_model.data.planted import QUADRANT_DATIVE, QUADRANTS, Planted, check_side, clock_hours
from climb_model.data.typing_errors import with_typing_errors
from climb_model.data.wordings import (
    CENTRAL,
    Dialect,
    Finding,
    Name,
    dialect,
    invasive,
    lexicon,
    number_word,
    shared,
    styles,
)

__all__ = ["QUADRANTS", "Planted", "clock_hours", "compose_report", "write_report"]

_SHARE_CANONICAL = 0.72
_SHARE_CANONICAL_MANY = 0.6
_SHARE_QUESTION = 0.03
_SHARE_PAIR = 0.2
_SHARE_BARE = 0.02
_MAYBE = "maybe "
_FIXED_TEXT = 7_001
"""Seed of a hospital's fixed normal text."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Sentence:
    text: str
    stated: Mapping[str, str]
    """Finding to `present` or `absent`; empty for a neutral sentence."""


def write_report(planted: Sequence[Planted], *, side: str, hospital: int, rng: np.random.Generator) -> str:
    """Write one breast's part of a German report.

    Every planted finding is affirmed in a sentence of its own, a random part of the others is denied,
    the rest is not mentioned.

    Args:
        planted: findings of this breast; none gives a normal report.
        side: `left` or `right`.
        hospital: whose way of writing; -1 is CENTRAL.
        rng: source of every choice; the same state gives the same text.

    Raises:
        ValueError: for an unknown side or hospital, or a clock position outside its quadrant.
    """
    return compose_report(planted, side=side, hospital=hospital, rng=rng)[0]


def compose_report(
    planted: Sequence[Planted], *, side: str, hospital: int, rng: np.random.Generator
) -> tuple[str, dict[str, str]]:
    """A report and what it states: finding to `present` or `absent`, not mentioned where missing."""
    check_side(side)
    for one in planted:
        if one.clock not in clock_hours(one.quadrant, side):
            raise ValueError(f"{one.clock} o'clock does not lie {one.quadrant!r} in a {side} breast")
    way = dialect(hospital)
    if not planted and rng.random() < styles()[way.layout]["fixed_normal"]:
        rng = np.random.default_rng([_FIXED_TEXT, hospital - CENTRAL])
    writer = _Writer(way, side, rng, planted)
    sections = writer.sections()
    heads = shared()["central_heads"] if hospital == CENTRAL else shared()["heads"][way.heads]
    parts: list[str] = []
    stated: dict[str, str] = {}
    for index, section in enumerate(sections):
        if not section:
            continue
        sentences = [with_typing_errors(s.text, rng) if way.typing_errors else s.text for s in section]
        head = heads[index] if way.layout in ("structured", "central") and index < len(heads) else ""
        parts.append(head + " ".join(sentences))
        for sentence in section:
            stated.update(sentence.stated)
    return "\n".join(parts), stated


class _Writer:
    """The choices behind one report."""

    def __init__(self, way: Dialect, side: str, rng: np.random.Generator, planted: Sequence[Planted]) -> None:
        self.way, self.rng, self.planted = way, rng, planted
        self.named: dict[str, Name] = {}  # what the body of the report called it, for the impression
        self.layout = styles()[way.layout]["layout"]
        self.statements = styles()[way.statements]
        self.neutral = styles()[way.neutral]
        self.central = way.layout == "central"
        birads = max((shared()["birads"][one.finding] for one in planted), default=1)
        reason = self.pick(shared()["reason"])
        self.side_slots = {
            "side": {"left": "links", "right": "rechts"}[side],
            "seiten": {"left": "linken", "right": "rechten"}[side],
            "seite": {"left": "linke", "right": "rechte"}[side],
            "acr": self.pick("abcd"),
            "bpe": self.pick(shared()["background"]),
            "year": str(self.rng.integers(2008, 2024)),
            "birads": str(birads),
            "reason": reason["nom"],
            "reasondat": reason["dat"],
            "reasongen": reason["gen"],
            "reasonacc": reason["acc"],
        }

    def pick(self, pool: Sequence[_T]) -> _T:
        return pool[int(self.rng.integers(len(pool)))]

    def fill(self, template: str, slots: Mapping[str, str], stated: Mapping[str, str]) -> _Sentence:
        text = template.format_map({**self.side_slots, **slots})
        return _Sentence(text[0].upper() + text[1:], stated)

    def sections(self) -> list[list[_Sentence]]:
        sections = []
        for items in self.layout:
            section: list[_Sentence] = []
            for item in items:
                if not item.startswith(_MAYBE) or self.rng.random() < 0.5:
                    section += self.item(item.removeprefix(_MAYBE))
            sections.append(section)
        if any("history" in item for items in self.layout for item in items):
            self.ask(sections[0])
        return sections

    def item(self, item: str) -> list[_Sentence]:
        if item == "positives":
            return self.positives()
        if item == "negatives":
            return self.negatives()
        if item == "mixed":
            both = self.positives() + self.negatives()
            return [both[index] for index in self.rng.permutation(len(both))]
        if item == "impression":
            return self.impression()
        return [self.fill(self.pick(self.neutral[item]), {}, {})]

    def ask(self, section: list[_Sentence]) -> None:
        if self.rng.random() < _SHARE_QUESTION:
            name = self.pick(list(lexicon().values())).names[0]
            texts = shared()["central_question" if self.central else "question"]
            section.insert(0, self.fill(self.pick(texts), name.slots, {}))

    def positives(self) -> list[_Sentence]:
        order = self.rng.permutation(len(self.planted))
        return [self.positive(self.planted[index]) for index in order]

    def positive(self, one: Planted) -> _Sentence:
        entry = lexicon()[one.finding]
        kind, name = self.naming(entry, one.num)
        self.named[one.finding] = name
        adj = self.pick(_turned(entry.adjectives, self.way.turn, 3))
        notes = [note for note in _turned(entry.notes, self.way.turn, 4) if note != adj]
        note = self.pick(notes)
        retro = one.quadrant == "retromamillär"
        places = self.statements["retro" if retro else "loc"]
        place = places[self.way.place % len(places)] if self.rng.random() < 0.7 else self.pick(places)
        where = {
            "quad": one.quadrant,
            "quadrant": QUADRANT_DATIVE.get(one.quadrant, ""),
            "clock": str(one.clock),
        }
        slots = {
            **name.slots,
            "adj": name.inflect(adj),
            "adjs": adj + "e",
            "note": note,
            "note2": self.pick([other for other in notes if other != note]),
            "sign": self.pick(entry.signs),
            "size": self.size(one.size_mm),
            "gross": name.inflect("groß"),
            "loc": place.format_map({**self.side_slots, **where}),
            "n": str(one.num),
            "num": number_word(one.num),
        }
        return self.fill(self.pick(self.statements[kind]), slots, {one.finding: "present"})

    def naming(self, entry: Finding, num: int) -> tuple[str, Name]:
        canonical, synonyms = entry.names[0], entry.names[1:]
        chance = self.rng.random()
        if num == 1:
            if chance < _SHARE_CANONICAL:
                return "one", canonical
            return ("gen", canonical) if chance > 0.92 else ("one", self.pick(synonyms))
        if chance < _SHARE_CANONICAL_MANY:
            return "many", canonical
        return "plural", canonical if chance < 0.85 else self.pick(synonyms)

    def size(self, size_mm: float) -> str:
        longest = max(1, round(size_mm))
        if self.way.size == 1:
            return f"{longest / 10:.1f} cm".replace(".", ",")
        if self.way.size == 2:
            return f"{longest} x {max(1, round(longest * self.rng.uniform(0.7, 1.0)))} mm"
        if self.way.size == 3:
            return f"{longest / 10:.1f} cm"
        return f"{longest} mm"

    def negatives(self) -> list[_Sentence]:
        here = {one.finding for one in self.planted}
        absent = [finding for finding in lexicon() if finding not in here]
        num = min(int(self.rng.integers(1, 6)), len(absent))
        chosen = [absent[index] for index in self.rng.permutation(len(absent))[:num]]
        sentences: list[_Sentence] = []
        while chosen:
            take = 2 if len(chosen) > 1 and self.rng.random() < _SHARE_PAIR else 1
            sentences.append(self.negative(chosen[:take]))
            chosen = chosen[take:]
        return sentences

    def negative(self, findings: Sequence[str]) -> _Sentence:
        names = [self.denied(finding) for finding in findings]
        slots = dict(names[0].slots)
        slots |= {f"{key}2": form for key, form in names[-1].slots.items()}
        stated = dict.fromkeys(findings, "absent")
        return self.fill(self.denial(len(findings)), slots, stated)

    def denied(self, finding: str) -> Name:
        if finding == "Karzinom" and any(one.finding == "Duktales Karzinom in situ" for one in self.planted):
            return invasive()
        names = lexicon()[finding].names
        return names[0] if self.rng.random() < 0.85 else self.pick(names[1:])

    def denial(self, num: int) -> str:
        """The template of a negation: mostly the hospital's preferred ones."""
        texts, chance = shared(), self.rng.random()
        if self.central:
            return self.pick(texts["central_negation_pair" if num == 2 else "central_negation"])
        if num == 2:
            pairs = texts["negation_pair"]
            return pairs[self.way.pair] if chance < 0.7 else self.pick(pairs)
        if chance < _SHARE_BARE:
            return texts["negation_bare"]
        if chance < 0.45:
            return texts["negation_kein"][self.way.kein]
        if chance < 0.8:
            return texts["negation_other"][self.way.other]
        return self.pick(texts["negation_kein"] + texts["negation_other"])

    def impression(self) -> list[_Sentence]:
        if not self.planted:
            return [self.fill(self.pick(self.neutral["impression_none"]), {}, {})]
        sentences: list[_Sentence] = []
        for one in {one.finding: one for one in self.planted}.values():
            name = self.named[one.finding].slots
            slots = {"quad": one.quadrant, "size": self.size(one.size_mm)}
            slots["bare"] = name["P" if one.num > 1 else "N"]
            slots["what"] = f"{number_word(one.num) if one.num > 1 else name['ein']} {slots['bare']}"
            template = self.pick(self.neutral["impression_more" if sentences else "impression_one"])
            sentences.append(self.fill(template, slots, {one.finding: "present"}))
        return sentences


def _turned(pool: Sequence[str], turn: int, keep: int) -> list[str]:
    return [*pool[turn % len(pool) :], *pool[: turn % len(pool)]][:keep]
