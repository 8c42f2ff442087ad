"""Short German texts made from ODELIA's class of a breast, for data that has no reports."""

from __future__ import annotations

MADE = {
    0: "Unauffälliger Befund ohne Nachweis einer suspekten Läsion. Kein Anhalt für Malignität.",
    1: "Umschriebene Läsion mit Kontrastmittelaufnahme, im Ergebnis gutartig. Kein Anhalt für Malignität.",
    2: "Suspekte Läsion mit Kontrastmittelaufnahme, im Ergebnis bösartig. Nachweis eines Malignoms.",
}
"""One text a class. They say nothing that the class does not: no side, no size, no finding by name."""


def made_report(lesion: int) -> str:
    """The text for class 0 (none), 1 (benign) or 2 (malignant).

    Who uses it says so in the run's record: these reports are made, no radiologist wrote them.

    Raises:
        ValueError: for any other class.
    """
    if lesion not in MADE:
        raise ValueError(f"a lesion class is 0, 1 or 2, got {lesion}")
    return MADE[lesion]


def is_made(report: str) -> bool:
    """Whether a text is one of those that are made from a class."""
    return report in MADE.values()
