"""Who may take part in a study, and what is said of those who may not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from climb_model.made_by import UNKNOWN
from server.greeting import Greeting
from server.register import names_of_nodes
from strategies.checks import Rejected

MAX_AHEAD_S = 5.0
"""Flower itself refuses a site whose clock is further ahead than this."""

MAX_BEHIND_S = 30.0
"""A site's clock that seems further behind is told; part of it is the reply's way."""

ALIKE = ("torch", "flwr", "transformers", "x-transformers")
"""Libraries of which two different minor versions are told."""

PARTS = {
    "vision": "the slice encoder's weights",
    "text": "the report encoder's weights",
    "tokenizer": "the tokenizer's files",
    "language_model": "the language model's weights",
}
"""Parts of a fingerprint that lie in the folder `--weights`, in words."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a site must be to take part: the coordinator's own."""

    version: str
    """Of climb-federated."""

    versions: Mapping[str, str]
    """Of libraries."""

    fingerprint: Mapping[str, str]
    """Part of the frozen encoders to hash."""

    settings: str
    """Hash of the study's settings."""

    members: Path | None = None
    """Folder of the registered sites' records, read anew at each question; None: nobody is registered, as in
    simulation, and each site has the name that it gives."""

    def names(self) -> dict[int, str] | None:
        """Node to site as registered now; None: nobody is."""
        return None if self.members is None else names_of_nodes(self.members)


@dataclass(frozen=True)
class Admission:
    """Who takes part, and who does not and why."""

    sites: dict[int, str]
    """Node to site."""

    exams: dict[str, int]
    """Training exams of each admitted site, sorted by name."""

    notices: dict[str, tuple[str, ...]]
    """What each admitted site told of its exams, in counts."""

    handshake: dict[str, dict[str, object]]
    """Versions, clock offset and data of each admitted site, as JSON's types."""

    warnings: tuple[str, ...]
    """The coordinator's own lines on admitted sites that differ in something harmless."""

    rejected: tuple[Rejected, ...]
    refused: frozenset[int] = frozenset()
    """Nodes that answered and were not admitted."""

    def joined_by(self, more: Admission) -> Admission:
        """This admission and that of sites that came later."""
        return replace(
            self,
            sites=self.sites | more.sites,
            exams=dict(sorted((self.exams | more.exams).items())),
            notices=self.notices | more.notices,
            handshake=self.handshake | more.handshake,
        )


def admit(
    greetings: Iterable[Greeting],
    rejected: Iterable[Rejected],
    terms: Terms,
    *,
    answered: Iterable[int],
    taken: Iterable[str] = (),
) -> Admission:
    """Admit the sites that fit; refuse the others by the names of what differs, with what to do.

    Sites of one name are all refused, and one whose name is taken.

    Args:
        answered: nodes that did, whatever they said.
        taken: names of sites that take part already.
    """
    greetings = sorted(greetings, key=lambda greeting: (greeting.site, greeting.node))
    refused, taken = list(rejected), set(taken)
    count = Counter(greeting.site for greeting in greetings)
    admitted: list[Greeting] = []
    for greeting in greetings:
        site = greeting.site
        if count[site] > 1:
            if not any(entry.site == site for entry in refused):
                reason = f"{count[site]} sites are named '{site}'; none of them can take part"
                refused.append(Rejected(site, reason))
        elif site in taken:
            refused.append(Rejected(site, f"another site named '{site}' takes part; give one another name"))
        elif differing := _differences(greeting, terms):
            refused.append(Rejected(site, f"site '{site}' {'; it '.join(differing)}"))
        else:
            admitted.append(greeting)
    return Admission(
        sites={greeting.node: greeting.site for greeting in admitted},
        exams={greeting.site: greeting.exams for greeting in admitted},
        notices={greeting.site: greeting.notices for greeting in admitted},
        handshake={greeting.site: _handshake(greeting) for greeting in admitted},
        warnings=tuple(line for greeting in admitted for line in _warnings(greeting, terms)),
        rejected=tuple(sorted(refused, key=lambda entry: (entry.site, entry.reason))),
        refused=frozenset(answered) - {greeting.node for greeting in admitted},
    )


def _differences(greeting: Greeting, terms: Terms) -> list[str]:
    """What keeps a site from taking part, each with what to do; to be read after the site's name."""
    if greeting.version != terms.version and UNKNOWN not in (greeting.version, terms.version):
        if _order(greeting.version) < _order(terms.version):
            return [
                f"runs climb-federated {greeting.version}, the study needs {terms.version}: upgrade its image"
            ]
        return [
            f"runs climb-federated {greeting.version}, newer than the coordinator's {terms.version}: upgrade "
            f"the coordinator, or give the site the image of {terms.version}"
        ]
    found: list[str] = []
    if greeting.ahead_s is not None and greeting.ahead_s > MAX_AHEAD_S:
        found.append(
            f"has a clock that is {greeting.ahead_s:.0f} s ahead of the coordinator's, at most "
            f"{MAX_AHEAD_S:g} s wanted: let both set their clocks from the network (NTP)"
        )
    for part in sorted(terms.fingerprint.keys() | greeting.fingerprint.keys()):
        theirs, ours = greeting.fingerprint.get(part, "none"), terms.fingerprint.get(part, "none")
        if theirs == ours:
            continue
        hashes = f"({theirs[:12]}, the coordinator's is {ours[:12]})"
        if part in PARTS:
            todo = "compare the folder --weights with the coordinator's"
            found.append(f"differs in {PARTS[part]} {hashes}: {todo}")
        else:
            found.append(f"differs in {part} {hashes}: give it the coordinator's version of the image")
    if greeting.settings != terms.settings:
        found.append(
            f"differs in settings ({greeting.settings[:16]}, the coordinator's are {terms.settings}): give "
            "it the coordinator's version of the image"
        )
    return found


def _order(version: str) -> tuple[int, ...]:
    """Versions in their order, as far as they are numbers."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _warnings(greeting: Greeting, terms: Terms) -> list[str]:
    lines = [
        f"site '{greeting.site}' has {name} {greeting.versions[name]}, the coordinator "
        f"{terms.versions[name]}: results can differ by rounding"
        for name in ALIKE
        if name in greeting.versions
        and name in terms.versions
        and _order(greeting.versions[name])[:2] != _order(terms.versions[name])[:2]
    ]
    if UNKNOWN in (greeting.version, terms.version) and greeting.version != terms.version:
        lines.append(
            f"site '{greeting.site}' or the coordinator does not know its version of climb-federated"
        )
    if greeting.ahead_s is not None and greeting.ahead_s < -MAX_BEHIND_S:
        lines.append(
            f"site '{greeting.site}' has a clock that is about {-greeting.ahead_s:.0f} s behind the "
            "coordinator's: let both set their clocks from the network (NTP)"
        )
    return lines


def _handshake(greeting: Greeting) -> dict[str, object]:
    return {
        "version": greeting.version,
        "versions": greeting.versions,
        "clock_offset_s": None if greeting.ahead_s is None else round(greeting.ahead_s, 1),
        "data": dict(greeting.summary),
    }
