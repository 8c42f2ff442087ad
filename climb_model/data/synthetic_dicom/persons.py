"""Patients and doctors of nobody: German names, numbers and dates that an import must not let through."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

SURNAMES = (
    "Petersen", "Hoffmann", "Lindemann", "Krüger", "Schäfer", "Bäumler", "Öztürk", "Großmann", "Weißhaupt",
    "Kowalski", "Vogelsang", "Brandstätter", "Hübner", "Düsterhöft", "Nußbaum", "Rademacher", "Winkelmann",
    "Sauerbrey", "Trautmann", "Zimmermann-Köhler", "Falkenstein", "Schönfelder", "Gerstenberg", "Möllering",
)  # fmt: skip
GIVEN = (
    "Annegret", "Brigitte", "Dorothea", "Edeltraud", "Friederike", "Gudrun", "Hannelore", "Ingeborg", "Jutta",
    "Katharina", "Liselotte", "Mechthild", "Renate", "Sieglinde", "Ursula", "Waltraud", "Käthe", "Bärbel",
)  # fmt: skip
DOCTORS = (
    "Achterberg", "Eisenhauer", "Grünewald", "Hessenthaler", "Kestenholz", "Löwenberg", "Obermüller",
    "Quandt", "Riedinger", "Wackernagel", "Steinhäuser", "Pfannenstiel",
)  # fmt: skip
STREETS = ("Lindenallee", "Kastanienweg", "Bismarckstraße", "Mühlgasse", "Goetheplatz", "Hafenstraße")
TOWNS = ("Musterstadt", "Neuendorf", "Altenhain", "Seebrück")


@dataclass(frozen=True, kw_only=True)
class Person:
    """One patient, and who sent and examined her."""

    number: str
    """PatientID with leading zeros."""

    surname: str
    given: str
    born: date
    address: str
    phone: str
    sent_by: str
    read_by: str

    @property
    def spoken(self) -> str:
        """As free text names her."""
        return f"Frau {self.given} {self.surname}, geb. {self.born:%d.%m.%Y}"

    def planted(self) -> list[str]:
        """Every string of hers that must not be found in anything an import writes."""
        dates = [f"{self.born:%Y%m%d}", f"{self.born:%d.%m.%Y}", f"{self.born:%Y-%m-%d}"]
        people = [self.surname, self.given, self.sent_by, self.read_by]
        return [*people, *dates, self.number, self.address, self.phone]


def draw_person(rng: np.random.Generator, number: int, studied: date, age_days: int) -> Person:
    """A patient of that age on the day of the study; the number is unique in the hospital."""

    def pick(pool: tuple[str, ...]) -> str:
        return pool[int(rng.integers(len(pool)))]

    sent_by = pick(DOCTORS)
    return Person(
        number=f"00{number:07d}",
        surname=pick(SURNAMES),
        given=pick(GIVEN),
        born=studied - timedelta(days=age_days),
        address=f"{pick(STREETS)} {rng.integers(1, 99)}, {rng.integers(10000, 99999)} {pick(TOWNS)}",
        phone=f"0{rng.integers(200, 999)}/{rng.integers(100000, 999999)}",
        sent_by=sent_by,
        read_by=pick(tuple(name for name in DOCTORS if name != sent_by)),
    )
