"""A site's reports: what spoils training, in counts. No text of a report leaves this module."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from itertools import chain

from climb_model.checking.result import Finding, found
from climb_model.intake.reports.redact import DATE, redact

FEWEST_WORDS = 3
TEMPLATE_SHARE = 0.25
"""Of all reports with one text, from which it is told. Normal reports are alike, but a quarter of a site's
exams contrast nothing with each other."""

FEWEST_FOR_SHARES = 4
FEWEST_FOREIGN = 3
"""Function words of another language before a report is taken for one."""

WORD = re.compile(r"[^\W\d_]+")
DAMAGED = re.compile(
    "\ufffd|Ã[\u0080-\u00bf„¤¶¼Ÿ–œž]|Â[°µ²§]|â€|[A-Za-zÄÖÜäöüß]\\?[a-zäöüß]|&[aou]uml;|&szlig;"
)
"""UTF-8 read as Latin-1 (`Ã¤`), the replacement sign, `?` for an umlaut, HTML's names of umlauts."""

LANGUAGES = {
    "German": "der die das und kein keine keinen ohne mit nicht bei im am zum zur ist sind links rechts bds "
    "beidseits unauffällig unauffaellig befund herd mamma nachweis oben unten außen innen",
    "English": "the of and with no is are there left right breast within without evidence seen finding both",
    "French": "le la les des du et sans avec sein gauche droit droite une est pas aux",
    "Dutch": "de het een van geen niet met borst linker rechter wordt zijn rechts",
    "Italian": "il la lo del della di e senza con mammella sinistra destra non sono",
    "Spanish": "el la los las del de y sin con mama izquierda derecha no se",
}
_WORDS = {language: frozenset(words.split()) for language, words in LANGUAGES.items()}

LEFT = re.compile(r"\b(links\w*|linke\w*|li\.)(?=\W|$)", re.IGNORECASE)
RIGHT = re.compile(r"\b(rechts\w*|rechte\w*|re\.)(?=\W|$)", re.IGNORECASE)
BOTH = re.compile(r"\b(beid\w*|bilateral\w*|bds)\b", re.IGNORECASE)


def check_reports(reports: Mapping[str, str]) -> list[Finding]:
    """Faults that the texts alone show.

    Args:
        reports: UID to the text of this breast, of the exams that have a row.
    """
    texts = {uid: text for uid, text in reports.items() if text}
    return [
        *found("reports.empty", set(reports) - set(texts)),
        *found(
            "reports.short", [uid for uid, text in texts.items() if len(WORD.findall(text)) < FEWEST_WORDS]
        ),
        *found("reports.encoding", [uid for uid, text in texts.items() if DAMAGED.search(text)]),
        *_persons(texts),
        *_languages(texts),
        *_identical(texts),
        *_sides(texts),
    ]


def _persons(texts: Mapping[str, str]) -> list[Finding]:
    """Reports in which the import's own rules would replace something."""
    counts = {uid: redact(text, ()).counts for uid, text in texts.items()}
    persons = {uid: told for uid, told in counts.items() if set(told) - {DATE}}
    dates = [uid for uid, told in counts.items() if DATE in told and uid not in persons]
    kinds = Counter(kind for told in persons.values() for kind in told)
    told = ", ".join(f"{kind} in {number}" for kind, number in kinds.most_common())
    return [*found("reports.identifiers", persons, detail=told), *found("reports.dates", dates)]


def _identical(texts: Mapping[str, str]) -> list[Finding]:
    """Reports that hold one text, blanks and case apart."""
    plain = {uid: " ".join(text.split()).casefold() for uid, text in texts.items()}
    if len(plain) < FEWEST_FOR_SHARES:
        return []
    top, count = Counter(plain.values()).most_common(1)[0]
    share = count / len(plain)
    detail = f"{count} of {len(plain)} ({share:.0%}), {len(set(plain.values()))} different texts in all"
    who = [uid for uid, text in plain.items() if text == top]
    if count == len(plain):
        return found("reports.all_identical", who)
    return found("reports.identical", who, detail=detail) if share >= TEMPLATE_SHARE else []


def language_of(text: str) -> str:
    """The language whose function words are clearly the most; German where it is close."""
    words = [word.lower() for word in WORD.findall(text)]
    counts = {language: sum(word in known for word in words) for language, known in _WORDS.items()}
    other = max((language for language in counts if language != "German"), key=lambda name: counts[name])
    foreign = counts[other] >= FEWEST_FOREIGN and counts[other] > 2 * counts["German"]
    return other if foreign else "German"


def _languages(texts: Mapping[str, str]) -> list[Finding]:
    languages = {uid: language_of(text) for uid, text in texts.items()}
    foreign = {uid: language for uid, language in languages.items() if language != "German"}
    told = ", ".join(f"{language} {count}" for language, count in Counter(foreign.values()).most_common())
    return found("reports.language", foreign, detail=f"it looks like {told}")


def sides_of(text: str) -> frozenset[str]:
    """The sides that a text names."""
    if BOTH.search(text):
        return frozenset(("left", "right"))
    sides = {"left": LEFT.search(text), "right": RIGHT.search(text)}
    return frozenset(side for side, there in sides.items() if there)


def _sides(texts: Mapping[str, str]) -> list[Finding]:
    """Reports that name one side only, and not the one of their UID."""
    single = {uid: named for uid, text in texts.items() if len(named := sides_of(text)) == 1}
    wrong = [uid for uid, named in single.items() if uid.rpartition("_")[2] not in chain(named)]
    findings = found("reports.other_side", wrong)
    if len(single) >= FEWEST_FOR_SHARES and 2 * len(wrong) > len(single):
        findings += found("reports.sides_swapped", wrong, detail=f"{len(wrong)} of {len(single)}")
    return findings
