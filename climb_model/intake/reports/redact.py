"""What identifies a person in a report is replaced by its kind, and counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from climb_model.intake.reports.person_names import Span, person_spans

NAME, BIRTH, PHONE, MAIL, ADDRESS, NUMBER, DATE = (
    "name",
    "birth date",
    "phone",
    "e-mail",
    "address",
    "number",
    "date",
)
MARKS = {
    NAME: "[Name]",
    BIRTH: "[Geburtsdatum]",
    PHONE: "[Telefon]",
    MAIL: "[E-Mail]",
    ADDRESS: "[Adresse]",
    NUMBER: "[Nummer]",
    DATE: "[Datum]",
}
_MIN_NUMBER = 4
"""Shorter numbers of an exam are not looked for: sizes and clock times have as many digits."""

_MONTH = r"(?:Jan|Feb|Mär|Mrz|Apr|Mai|Jun|Jul|Aug|Sep|Okt|Nov|Dez)[a-zä]*\.?"
_MONTH_NAMED = (
    r"(?:Januar|Jänner|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember"
    r"|(?:Jan|Feb|Mrz|Apr|Jun|Jul|Aug|Sept?|Okt|Nov|Dez)\.)(?!\w)"
)
_DAY_MONTH = r"(?:0?[1-9]|[12]\d|3[01])\.[ ]?(?:0?[1-9]|1[0-2])\."
_A_DATE = (
    rf"(?:{_DAY_MONTH}[ ]?(?:(?:19|20)\d\d|\d\d)(?!\d|[.,]\d|[ ]?[mc]m)"
    rf"|(?:0?[1-9]|[12]\d|3[01])/(?:0?[1-9]|1[0-2])/(?:(?:19|20)\d\d|\d\d)(?!\d)"
    rf"|(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?!\d)"
    rf"|(?:0?[1-9]|[12]\d|3[01])\.[ ]?{_MONTH}[ ]?(?:19|20)\d\d(?!\d))"
)
_STREET = r"(?:straße|strasse|str\.|allee|gasse|damm|ufer|pfad|weg|platz)"
_HOUSE = r"[ ]\d{1,3}(?:[ ]?[a-z]\b)?"
_LABEL = (
    r"(?<!\w)(?i:Pat(?:ienten)?|Fall|FN|Aufnahme|Vers(?:icher(?:ten|ungs))?|Auftrags|Anforderungs|Untersuchungs"
    r"|Acc(?:ession)?|KV|Krankenversicherten)[.]?[ -]?"
)
_LONG_NUMBER = (
    r"(?:[A-Z]{1,3}[ ]?)?(?:\d[\w/-]{2,}|\d[\w/-]?(?=[ ]\d{2}))"
    r"(?:[ ]\d{2,}(?!\w|[.,/]\d|[ ]?(?:[mc]m|x|Uhr)\b))*"
)
_PATTERNS = (
    (MAIL, r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+"),
    (
        BIRTH,
        rf"(?:(?<!\w)(?i:geb(?:oren)?\.?|Geburtsdatum|Geb\.?-?[ ]?Dat(?:um)?\.?)[ :]*(?:am[: ]*)?|\*[ ]?)"
        rf"{_A_DATE}",
    ),
    (DATE, rf"(?<![\d.,/-]){_A_DATE}"),
    (DATE, r"(?<![\w.,/-])(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?![\w/-]|[.,]\d)"),
    (DATE, rf"(?<![\d.,/-])(?:0?[1-9]|[12]\d|3[01])\.[ ]?{_MONTH_NAMED}"),
    (DATE, rf"(?:(?<=vom[ ])|(?<=am[ ])|(?<=bis[ ])|(?<=seit[ ])){_DAY_MONTH}(?![\d])"),
    (
        PHONE,
        r"(?<!\w)(?i:Tel(?:efon)?|(?:Tele)?fax|Mobil|Handy|Durchwahl|Rufnummer|Piepser)\b\.?(?:-?Nr\.?)?[ :]*"
        r"[+(\d][\d ()/.-]{2,25}\d",
    ),
    (
        PHONE,
        r"(?<![\w/.,-])(?:\+\d{2}[ ]?\(?0?\)?|0)[1-9]\d{1,4}[ ]?[/-]?[ ]?\d{3,}(?:[ -]\d{2,})*"
        r"(?!\d|[.,]\d|[ ]?[mc]m)",
    ),
    (ADDRESS, rf"(?<!\w)(?:[A-ZÄÖÜ][\w.-]{{0,30}}[ -])?[A-ZÄÖÜ][\w-]{{0,30}}{_STREET}{_HOUSE}"),
    (ADDRESS, rf"(?<!\w)[A-ZÄÖÜ][a-zäöüß]{{1,30}}[ -](?:Straße|Strasse|Str\.|Allee|Weg|Platz|Gasse){_HOUSE}"),
    (
        ADDRESS,
        r"(?<![\w.,/-])(?:D-)?\d{5}[ ]+[A-ZÄÖÜ][a-zäöüß]+"
        r"(?:[ ]?(?:-|am|an der|im|bei)[ ]?[A-ZÄÖÜ][a-zäöüß]+)*",
    ),
    (NUMBER, r"(?<!\w)[A-Z]\d{9}(?!\w)"),
    (NUMBER, rf"{_LABEL}(?i:Nr|Nummer|ID|Number|No)?[.]?[ ]?[:#][ ]?{_LONG_NUMBER}"),
    (NUMBER, rf"{_LABEL}(?i:Nr|Nummer|ID|Number|No)[.]?[ ]?{_LONG_NUMBER}"),
)
_COMPILED = tuple((kind, re.compile(pattern)) for kind, pattern in _PATTERNS)


@dataclass(frozen=True, kw_only=True)
class Redacted:
    """A text without what its rules found."""

    text: str = field(repr=False)
    counts: dict[str, int]
    """How many of each kind were replaced; kinds without any are left out."""


def redact(text: str, names: Collection[str], *, numbers: Collection[str] = ()) -> Redacted:
    """Replace persons' names, dates, phone numbers, addresses and numbers by `[Name]`, `[Datum]` and so on.

    Found are the given names and numbers in any case and spelling of umlauts, and what stands beside a
    title, a salutation, a signature or a label. A name that is also a word of reports (`Klein`, `Stern`)
    or an eponym (`Paget`) is replaced only beside a title or its given name. Years and months alone
    stay. Rules miss names: the text is less identifying then, not anonymous.

    Args:
        text: a German report.
        names: as in DICOM headers or the report table.
        numbers: raw accession and patient number; those below 4 characters are not looked for.
    """
    spans: list[tuple[int, int, str]] = []
    for start, end, kind in _candidates(text, names, numbers):
        if all(end <= taken or start >= until for taken, until, _ in spans):
            spans.append((start, end, kind))
    pieces: list[str] = []
    place = 0
    for start, end, kind in sorted(spans):
        pieces += [text[place:start], MARKS[kind]]
        place = end
    counts = Counter(kind for _, _, kind in spans)
    return Redacted(text="".join([*pieces, text[place:]]), counts=dict(sorted(counts.items())))


def _candidates(
    text: str, names: Collection[str], numbers: Collection[str]
) -> Iterator[tuple[int, int, str]]:
    """Passages and their kind, the surest first."""
    for span in _known_numbers(text, numbers):
        yield *span, NUMBER
    for kind, pattern in _COMPILED:
        for match in pattern.finditer(text):
            yield *match.span(), kind
    for span in person_spans(text, names):
        yield *span, NAME


def _known_numbers(text: str, numbers: Collection[str]) -> Iterator[Span]:
    """The exam's own numbers, with or without their leading zeros or a blank behind their letters."""
    for number in sorted({number.strip() for number in numbers}, key=len, reverse=True):
        bare = number.lstrip("0")
        if len(bare) >= _MIN_NUMBER:
            parts = "[ -]?".join(re.escape(part) for part in re.findall(r"\d+|\D+", bare))
            yield from (
                match.span() for match in re.finditer(rf"(?<!\w)0*{parts}(?!\w)", text, re.IGNORECASE)
            )
