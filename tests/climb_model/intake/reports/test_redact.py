"""Names, dates and numbers are taken out of reports; medical words stay."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from climb_model.data.synthetic_reports import QUADRANTS, Planted, clock_hours, write_report
from climb_model.data.wordings import lexicon
from climb_model.intake.reports.redact import MARKS, Redacted, redact

KNOWN = ("Müller-Lüdenscheidt^Anna^^Dr.", "Klein, Eva", "Großmann", "Özdemir^Ayşe", "Li^Wei", "Paget, Ute")

REDACTED = {
    "Frau Müller hat Zysten.": "Frau [Name] hat Zysten.",
    "Müllers Zyste, MUELLER, Muller-Luedenscheidt.": "[Name] Zyste, [Name].",
    "GROSSMANN, große Zyste, Grossmanns": "[Name], große Zyste, [Name]",
    "Anna  Müller kommt.": "[Name] kommt.",
    "Frau Özdemir, OEZDEMIR, Ayse": "Frau [Name]",
    "Frau Klein mit kleiner Zyste, klein.": "Frau [Name] mit kleiner Zyste, klein.",
    "Klein, Eva: Zyste.": "[Name]: Zyste.",
    "Eva Klein: Zyste.": "[Name]: Zyste.",
    "Frau Wei Li, li. Mamma.": "Frau [Name], li. Mamma.",
    "Frau Paget, Morbus Paget.": "Frau [Name], Morbus Paget.",
    "Dr. med. Y. Schmidt und Prof. Dr. Hans von der Heide": "Dr. med. [Name] und Prof. Dr. [Name]",
    "OÄ Kern, Herr Dr. Z.": "OÄ [Name], Herr Dr. [Name]",
    "Sehr geehrter Herr Kollege Dr. Achterberg, wir": "Sehr geehrter Herr Kollege Dr. [Name], wir",
    "Sehr geehrte Frau Kollegin, sehr geehrter Herr Kollege!": (
        "Sehr geehrte Frau Kollegin, sehr geehrter Herr Kollege!"
    ),
    "gez. Dr. Meier / Oberärztin K. Huber": "gez. Dr. [Name] / Oberärztin [Name]",
    "gez. Meier": "gez. [Name]",
    "gez. Prof. Habermann / Schmidt-Becker": "gez. Prof. [Name] / [Name]",
    "Dr. Huber u. Kowalski, OA Kern/Schulz": "Dr. [Name] u. [Name], OA [Name]/[Name]",
    "gez. Dr. Habermann, Schmidtke, Vogelsang": "gez. Dr. [Name]",
    "Dr. Weber, Schmidtke und Vogelsang": "Dr. [Name] und [Name]",
    "Anamnese: Tochter Anna, Ehemann Peter Tornow": "Anamnese: Tochter [Name], Ehemann [Name]",
    "VU 20230405, am 5. Mai und 12.Dez.": "VU [Datum], am [Datum] und [Datum]",
    "Fall-Nr. A 0012, Pat.-ID: 12 345 678": "[Nummer], [Nummer]",
    "Befundet von: Petersen": "Befundet von: [Name]",
    "Pat.: Zimmermann-Köhler, Bärbel, geb. 12.03.1961": "Pat.: [Name], [Geburtsdatum]",
    "Tina Tornow (* 4.4.1997) geborene Tesch": "[Name] ([Geburtsdatum]) geborene [Name]",
    "Mit freundlichen Grüßen\nJ. Thiel    V. Ceusters": "Mit freundlichen Grüßen\n[Name]    [Name]",
    "Frau Albrecht. Der Albrecht-Befund.": "Frau [Name]. Der [Name]-Befund.",
    "geb. 12.03.1961, geboren am 1.2.60": "[Geburtsdatum], [Geburtsdatum]",
    "VU vom 12.03.2019, 2019-03-12 und 3. Mai 2021.": "VU vom [Datum], [Datum] und [Datum].",
    "vom 19.3. bis heute": "vom [Datum] bis heute",
    "Tel. 0241/80-12345, Fax: +49 241 8012345": "[Telefon], [Telefon]",
    "a.b@uk-aachen.de": "[E-Mail]",
    "Pauwelsstraße 30, 52074 Aachen; Friesische Str. 21 a": "[Adresse], [Adresse]; [Adresse]",
    "Fall-Nr.6733340001, Pat.-ID: 00471123, Fallnummer: 23346011": "[Nummer], [Nummer], [Nummer]",
    "KV A123456789": "KV [Nummer]",
    "Anforderung 0004711987, 4711987": "Anforderung [Nummer], [Nummer]",
}

KEPT = (
    "Mutter Mammakarzinom, Tochter gesund, Schwester mit 45. VU 04/2023. 1. Dezente Zysten. 2. Maiglöckchen.",
    "Herd 20231345, 1. Mamille und Haut. Fall-Nr. fehlt, 12 mm.",
    "Morbus Paget, Cooper-Ligamente, Fischer-Score 5, Kaiser-Score, M. Hodgkin, Göttinger Score, Tabar.",
    "Gadovist i. v. Kontrastmittelbolus i.V. Subtraktion, 1.5 T, 8 x 12.10 mm, Größe 12.3.5 mm.",
    "BI-RADS 4, ACR b, L4/5, 10 Uhr, 1,2 cm, VU 3/2020 und 2018, ca. 8 mm, Fragestellung 2.",
    "Herz unauffällig, Brust warm, Stern-förmig, lange Narbe, kurz, Rand glatt.",
    "Patientin Zustand nach BET. Pat. Karzinom links. Gez. Biopsie. Z. n. Ablatio. Re. und li. Mamma.",
    "Frau in gutem Zustand. Herr Kollege zur Kenntnis. Kein Befund von Bedeutung.",
)


@pytest.mark.parametrize("text", REDACTED)
def test_what_identifies_is_replaced(text: str) -> None:
    assert redact(text, KNOWN, numbers=["0004711987"]).text == REDACTED[text]


@pytest.mark.parametrize("text", KEPT)
def test_what_is_medical_stays(text: str) -> None:
    assert redact(text, KNOWN, numbers=["123", ""]) == Redacted(text=text, counts={})


@pytest.mark.parametrize(
    "text", ["A" * 9000, "J. " * 3000, "Anna Müller " * 800, "Frau " * 2000, "0241 " * 2000]
)
def test_a_broken_text_takes_no_minutes(text: str) -> None:
    started = time.process_time()
    redact(text, KNOWN)
    assert time.process_time() - started < 20  # it took minutes while words were unbounded


def test_kinds_are_counted() -> None:
    found = redact("Frau Weber, Dr. Huber, geb. 1.2.1960, VU 1.2.2019, Tel. 0241 12345", ())
    assert found.counts == {"birth date": 1, "date": 1, "name": 2, "phone": 1}


def test_no_text_shows_in_a_repr() -> None:
    assert "SECRET" not in repr(redact("SECRET Frau Weber", ()))


def test_redacting_twice_changes_nothing() -> None:
    for text in (*REDACTED, *KEPT):
        once = redact(text, KNOWN, numbers=["0004711987"]).text
        assert redact(once, KNOWN, numbers=["0004711987"]).text == once


def test_drawn_reports_stay_as_they_are() -> None:
    rng = np.random.default_rng(0)
    words = ("Stern^Rose", "Lang^Ute", "Herz^Mark", "Rund^Lena", "Brust^Mai", "Narbe^Dr.", "Haut^Ina")
    for number in range(150):
        side = ("left", "right")[number % 2]
        planted: list[Planted] = []
        for finding in lexicon():
            if rng.random() < 0.3:
                quadrant = QUADRANTS[int(rng.integers(len(QUADRANTS)))]
                clock = int(rng.choice(clock_hours(quadrant, side)))
                planted.append(Planted(finding=finding, size_mm=9.0, quadrant=quadrant, num=2, clock=clock))
        text = write_report(planted, side=side, hospital=number % 12 - 1, rng=rng)
        assert redact(text, [*KNOWN, *words]).text == text


GOLD = {
    # a sample read by hand: the name mentions of every letter, in order
    "Albers": ["Beate Albers", *["Albers"] * 5, "Siewert", *["Albers"] * 4, "Bernwart Schulze"],
    "Clausthal": ["Clausthal, Marie", "Weigel", "Clausthal", "Clausthal"],
    "Fabry": ["Frank Knoblauch", "Knoblauch", "Walther Fabry", "Fabry", "Antonia Zucker", "Iris Klumpfuß"],
    "Dewald": ["Evelyn Dewald", "Fleischer", "Dewald", "Burkhard zur Hausen"],
    "Meyr": ["Franz-Josef Meyr", "Meyr", "Meyr", "Kevin Schlauberger", "Gerald Chrohn"],
    "Jenninger": ["Daniel Jenninger", "Stephan Keil"],
}


@pytest.mark.parametrize("letter", GOLD)
def test_names_of_real_letters_are_found_without_knowing_them(assets: Path, letter: str) -> None:
    letters = json.loads((assets / "data" / "grascco_63_de.json").read_text(encoding="utf-8"))
    text = next(each["text"] for each in letters if each["id"] == letter)
    found = redact(text, ())
    assert found.text.count(MARKS["name"]) == len(GOLD[letter])
    assert not any(name in found.text for name in GOLD[letter])
