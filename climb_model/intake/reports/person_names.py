"""Names of persons in German medical text: those that are known, and those beside a title."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from climb_model.intake.reports.name_words import (
    fold,
    folded_words,
    is_medical,
    is_ordinary,
    is_plain,
    is_title,
    load_words,
)

Span = tuple[int, int]
"""Start and end of a passage, in characters."""

_UP = "A-ZÀ-ÖØ-ÞŁŞŠŽČĆĐİ"
_NAME = rf"(?:[{_UP}](?:[^\W\d_]|['’](?=[^\W\d_])){{1,30}}(?:[ ]?-[ ]?[{_UP}][^\W\d_]{{1,30}}){{0,2}})"
_INITIALS = rf"(?:(?:(?!(?:Dr|Fr|Hr|St|Nr)\.)[{_UP}][a-z]?h?\.[ -]?){{1,3}})"
_TITLES = (
    r"(?:Frau|Herrn?|Fr\.|Hrn?\.|D?Dr\.?(?:in\b)?"
    r"(?:[ ]?(?:med|phil|rer|nat|habil|univ|dent|h\.?[ ]?c|sc|hum|biol)\b\.?)*"
    r"|(?:Univ\.-?[ ]?)?Prof\.?|Professor(?:in)?|Doktor|(?:Priv\.-?[ ]?)?Doz\.?|Prim\.|DGKS"
    r"|PD(?=\s+Dr)|OÄ|OA|MTRA?|Dipl\.-\w+\.?"
    r"|(?:Ober|Chef|Stations|Assistenz|Fach|Haus|Frauen)(?:arzt|ärztin)|Ass\.(?:-?[ ]?(?:Arzt|Ärztin))?"
    r"|Kolleg(?:e|en|in)|Schwester)"
)
_TITLED = re.compile(rf"(?<![\w-])(?:{_TITLES}[ ]?\s?)+(?:{_TITLES})?", re.MULTILINE)
_SIGNED = re.compile(
    r"(?<!\w)(?:gez\.?|(?:befundet|freigegeben|vidiert|validiert|signiert|unterzeichnet|diktiert|supervidiert"
    r"|erstellt|geschrieben|überwiesen|zugewiesen)\s+(?:von|durch)|(?:Befunder(?:in)?|Untersucher(?:in)?|Zuweiser(?:in)?"
    r"|Überweiser(?:in)?|Einsender(?:in)?|Hausarzt|Hausärztin|Operateur(?:in)?|Nachname|Vorname|Familienname"
    r"|Name|Patientenname|Arzt|Ärztin)[ ]?:)\s*:?\s*",
    re.IGNORECASE,
)
_PERSON = re.compile(r"(?<!\w)(?:Patient(?:in|en)?|Pat\.)[ ]?:?\s+(?:Frau\s+|Herrn?\s+)?")
_RELATIVE = re.compile(
    r"(?<!\w)(?:(?:Halb)?(?:Schwester|Bruder)|Tochter|Sohn|(?:Groß|Schwieger)?(?:[Mm]utter|[Vv]ater)"
    r"|Ehemann|Ehefrau|Mann|Tante|Onkel|Cousine|Nichte|Enkel(?:in)?|Oma|Opa|Partner(?:in)?"
    r"|Lebensgefährt(?:e|in)|Freundin|Betreuer(?:in)?)[ ]+"
)
_JOINED = re.compile(
    rf"([ ]?/[ ]?|[ ](?:u\.|und|&)[ ]|,[ ])(?:{_INITIALS}[ ]?)?({_NAME})(?=[ ]*(?:$|[\n.;,/)&]|u\.|und\b))",
    re.MULTILINE,
)
"""A further name behind one, up to the end of a phrase."""

_BORN_AFTER = re.compile(
    rf"((?:{_NAME}|{_INITIALS})(?:,?[ ]+{_NAME}){{0,3}})\s*,?\s*\(?\s*(?:geb\.|geboren|\*)\s*(?:am\s*)?\d"
)
_BORN_AS = re.compile(rf"(?<!\w)geb(?:\.|orene)[ ]+({_NAME})")
_GREETING = re.compile(r"(?:Grüßen|Grüssen|Gruß|Hochachtungsvoll)[^\n]*\n")
_AFTER_GREETING = 400
"""Characters after a greeting in which names in pairs are signatures."""

_FIRST = re.compile(
    rf"({_INITIALS})?"
    r"((?:van|von|zu)[ ](?:de[rnm]?[ ])?|(?:de|del|dos|di|da|le|la|ten|ter|al|el)[ ](?:la[ ])?)?"
    rf"({_NAME}|[{_UP}]\b\.?)?"
)
_WORD = re.compile(r"[^\W\d_]+")
_BETWEEN = re.compile(r"[\s,.\-]{1,3}|\s{1,3}(?:von|van|de|der|den|zu|zur|vom)(?:\s(?:der|den))?\s")


def person_spans(text: str, names: Iterable[str]) -> list[Span]:
    """Passages that name a person, in order, neighbours joined.

    Args:
        text: any German text.
        names: known ones, as in DICOM headers (`Müller^Anna^^Dr.`) or tables (`Dr. Müller, Anna`).
    """
    titled = list(_titled(text))
    # who is introduced with a title may be named without it below
    introduced = [text[start:end] for start, end in titled]
    spans = [*titled, *_labelled(text), *_paired(text), *_known(text, (*names, *introduced))]
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and (start <= joined[-1][1] or _BETWEEN.fullmatch(text, joined[-1][1], start)):
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


@dataclass(frozen=True)
class _Token:
    start: int
    end: int
    word: str


def _known(text: str, names: Iterable[str]) -> Iterator[Span]:
    """Known names, in any case and spelling of umlauts, also with a genitive s.

    A name that is also a word of reports counts only beside another known name.
    """
    parts = {part for name in names for part in _name_parts(name)}
    if not parts:
        return
    tokens = [_Token(each.start(), each.end(), each.group()) for each in _WORD.finditer(text)]
    found = [_is_known(token.word, parts) for token in tokens]
    for place, token in enumerate(tokens):
        if not found[place] or _is_eponym(text, token.start, token.end):
            continue
        if not is_ordinary(token.word) and len(token.word) > 2:
            yield token.start, token.end
            continue
        beside = [other for other in (place - 1, place + 1) if 0 <= other < len(tokens) and found[other]]
        if token.word[0].isupper() and any(
            tokens[other].word[0].isupper()
            and fold(tokens[other].word) != fold(token.word)
            and re.fullmatch(
                r"[ ,\-]{1,3}",
                text[min(token.end, tokens[other].end) : max(token.start, tokens[other].start)],
            )
            for other in beside
        ):
            yield token.start, token.end


def _is_known(word: str, parts: set[str]) -> bool:
    folded = fold(word)
    return folded in parts or (folded.endswith("s") and folded[:-1] in parts)


def _name_parts(name: str) -> set[str]:
    words = [fold(word) for word in _WORD.findall(name)]
    without = folded_words("titles") | folded_words("particles")
    return {word for word in words if len(word) > 1 and word not in without}


def _titled(text: str) -> Iterator[Span]:
    """`Frau Dr. Anna Müller`: the name; the title stays."""
    for match in _TITLED.finditer(text):
        for start, end in _names_from(text, match.end(), strong=True):
            yield start, end
            yield from _joined_names(text, end)
    for match in _RELATIVE.finditer(text):
        word = re.compile(_NAME).match(text, match.end())
        if word and fold(word.group()) in folded_words("given"):
            yield from _names_from(text, match.end(), strong=False)
    for match in _PERSON.finditer(text):
        word = re.compile(_NAME).match(text, match.end())
        if word and (fold(word.group()) in folded_words("given") or text[word.end() : word.end() + 1] == ","):
            yield from _names_from(text, match.end(), strong=False)


def _labelled(text: str) -> Iterator[Span]:
    """Signatures, labels, birth names, and the name before a date of birth."""
    for match in _SIGNED.finditer(text):
        titled = _TITLED.match(text, match.end())
        for start, end in _names_from(text, titled.end() if titled else match.end(), strong=False):
            yield start, end
            yield from _joined_names(text, end, signed=True)
    for match in _BORN_AFTER.finditer(text):
        words = list(_WORD.finditer(match.group(1)))
        while words and fold(words[0].group()) in folded_words("titles") | folded_words("not_names"):
            words.pop(0)
        if words and not any(is_plain(word.group()) for word in words):
            yield match.start(1) + words[0].start(), match.end(1)
    for match in _BORN_AS.finditer(text):
        yield match.span(1)


def _paired(text: str) -> Iterator[Span]:
    """A common given name before or after another name; in signatures any two names in one line."""
    signatures = [(match.end(), match.end() + _AFTER_GREETING) for match in _GREETING.finditer(text)]
    place = 0
    while match := _pair_pattern().search(text, place):
        signed = any(start <= match.start() < end for start, end in signatures)
        first, comma, last = match.groups()
        if _is_pair(first, comma, last, signed) and not _is_eponym(text, match.start(3), match.end(3)):
            yield match.span()
            place = match.end()
        else:
            place = match.end(1)


def _is_pair(first: str, comma: str, last: str, signed: bool) -> bool:
    if is_title(first) or is_title(last) or is_medical(last):
        return False
    given, other = (last, first) if comma else (first, last)
    if fold(given) in folded_words("given"):
        return not is_plain(other) or fold(other) in folded_words("ordinary")
    return signed and not is_plain(first) and not is_plain(last)


def _names_from(text: str, start: int, *, strong: bool) -> Iterator[Span]:
    """The name that begins at `start`: initials, particles, up to three words in one line.

    Args:
        strong: after `Frau` or `Dr.` the first word is a name even if reports have it as a word.
    """
    match = _FIRST.match(text, start)
    if match is None or (match.group(3) is None and match.group(1) is None):
        return
    word = match.group(3) or ""
    if word and (fold(word) in folded_words("not_names") or is_title(word)):
        return
    if word and (not strong or match.group(2)) and (is_plain(word) or is_medical(word)):
        return
    end = _further_names(text, match.end(), first=word)
    if not _is_eponym(text, match.start(), end):
        yield match.start(), end


def _further_names(text: str, start: int, *, first: str) -> int:
    """The end of up to two more names in the same line; after a comma, of a given name."""
    end = start
    capitals = len(first) > 1 and first.isupper()  # `FRITZ, Fridolin`
    after_comma = False
    for _ in range(2):
        more = _more_pattern().match(text, end)
        if more is None or after_comma:
            break
        word = more.group(1)
        after_comma = more.group().startswith(",")
        if after_comma and fold(word) not in folded_words("given") and (not capitals or word.isupper()):
            break
        if is_ordinary(word) or is_title(word) or is_medical(word):
            break
        end = more.end()
    return end


def _joined_names(text: str, start: int, *, signed: bool = False) -> Iterator[Span]:
    """Names after `/`, `u.` or `und` behind a name; after a comma in signatures or if such a name follows."""
    pending: list[Span] = []
    while match := _JOINED.match(text, start):
        word = match.group(2)
        if is_plain(word) or is_title(word) or is_medical(word) or fold(word) in folded_words("not_names"):
            return
        pending.append(match.span(2))
        if signed or not match.group(1).startswith(","):
            yield from pending
            pending.clear()
        start = match.end()


def _is_eponym(text: str, start: int, end: int) -> bool:
    """`Morbus Paget`, `Fischer-Score`: the name of a thing."""
    if re.search(r"(?:Morbus|M\.|St\.)\s$", text[max(0, start - 8) : start]):
        return True
    after = "|".join(load_words()["eponym_after"].split())
    return (
        re.match(rf"(?:s?[ ]?-[ ]?\w*(?:-\w+)*?|s?\s)(?:{after})\b", text[end : end + 40], re.IGNORECASE)
        is not None
    )


@cache
def _pair_pattern() -> re.Pattern[str]:
    between = rf"(,?)[ ]{{1,3}}{_INITIALS}?[ ]?(?:{_particles()}[ ])*"
    return re.compile(rf"(?<![\w-])({_NAME}|{_INITIALS}){between}({_NAME})(?![\w-])")


@cache
def _more_pattern() -> re.Pattern[str]:
    return re.compile(rf"(?:,?[ ]+)(?:{_particles()}[ ])*(?:{_INITIALS}[ ]?)?({_NAME})")


@cache
def _particles() -> str:
    return f"(?:{'|'.join(load_words()['particles'].split())})"
