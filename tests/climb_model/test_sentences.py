"""Facts about splitting German reports into sentences."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from climb_model.data.sentences import split_sentences
from climb_model.data.synthetic_reports import Planted, write_report

WHOLE = [
    "Z. n. Mastektomie links 2014.",
    "Z.n. OP am 12.03.2021 links.",
    "V. a. Karzinom, ca. 1.5 cm.",
    "Fibroadenom bei 12. Uhr.",
    "Kontrolle am 3. Tag des Zyklus.",
    "Untersuchung am 7. Juni.",
    "1. Fibroadenom rechts.",
    "Der M. pectoralis ist frei.",
    "Rücksprache mit Dr. Muster und Prof. Beispiel.",
    "D. h. kein Karzinom, z. B. Zyste u. a. Befunde.",
    "Axilla bds. Lymphknoten mit Fetthilus.",
    "KM i. v. Gadolinium nach Gewicht.",
    "Siehe Bild Nr. 4 der Serie 3.",
    "Ca. 8 mm große Zyste.",
    "Der Herd misst max. 12 mm.",
    "Nicht sicher (?) zuzuordnen.",
]
SPLIT = [
    ("Haut o. B. Keine Zyste.", ["Haut o. B.", "Keine Zyste."]),
    ("Sonst o.B. Mamille regelrecht.", ["Sonst o.B.", "Mamille regelrecht."]),
    ("Zysten bds. Kein Karzinom.", ["Zysten bds.", "Kein Karzinom."]),
    ("KM i. v. Keine Nebenwirkung.", ["KM i. v.", "Keine Nebenwirkung."]),
    ("ACR c. Kein Karzinom.", ["ACR c.", "Kein Karzinom."]),
    ("BI-RADS 2. Kontrolle in 12 Monaten.", ["BI-RADS 2.", "Kontrolle in 12 Monaten."]),
    ("Vergleich mit VU 2014. Keine Zyste.", ["Vergleich mit VU 2014.", "Keine Zyste."]),
    ("Mamma-Ca. Weiter mit Stanze.", ["Mamma-Ca.", "Weiter mit Stanze."]),
    ("1. Fibroadenom. 2. Zyste.", ["1. Fibroadenom.", "2. Zyste."]),
    ("Karzinom? Nein! Zyste.", ["Karzinom?", "Nein!", "Zyste."]),
    ("Größe 12 mm. 3 Zysten.", ["Größe 12 mm.", "3 Zysten."]),
    ("Befund:\nKein Karzinom\nKeine Zyste", ["Befund: Kein Karzinom", "Keine Zyste"]),
    ("Kein Karzinom\n\nBeurteilung:\nBI-RADS 1", ["Kein Karzinom", "Beurteilung: BI-RADS 1"]),
    ("- Zyste links\n- Fibroadenom rechts", ["- Zyste links", "- Fibroadenom rechts"]),
    (
        "Im oberen äußeren Quadranten der rechten Brust zeigt sich eine einzelne\nZyste. Haut frei.",
        ["Im oberen äußeren Quadranten der rechten Brust zeigt sich eine einzelne Zyste.", "Haut frei."],
    ),
    ("", []),
    (" \n\t ", []),
    ("ohne Punkt", ["ohne Punkt"]),
]


@pytest.mark.parametrize("sentence", WHOLE)
def test_abbreviations_ordinals_and_numbers_end_no_sentence(sentence: str) -> None:
    assert split_sentences(sentence) == [sentence]
    assert split_sentences(f"Haut und Mamille sind frei. {sentence} Keine Zyste.") == [
        "Haut und Mamille sind frei.",
        sentence,
        "Keine Zyste.",
    ]


@pytest.mark.parametrize(("text", "sentences"), SPLIT)
def test_sentences_end_where_a_reader_ends_them(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@settings(deadline=None, derandomize=True)
@given(st.text(st.sampled_from("aKzZ. n12?!:,;()\n-äß")))
def test_no_text_is_lost_or_added(text: str) -> None:
    assert " ".join(split_sentences(text)) == " ".join(text.split())


@pytest.mark.parametrize("piece", ["ca. ", "a", "1. ", "Z. n. ", "o. B. ", "\n", "....", "). "])
def test_time_grows_with_length_only(piece: str) -> None:
    start = time.process_time()
    split_sentences(piece * (100_000 // len(piece)))
    assert time.process_time() - start < 3.0


@pytest.mark.parametrize("hospital", [0, 1, 2, 3, 6, 10, -1])
def test_each_finding_of_a_synthetic_report_is_a_sentence_of_its_own(hospital: int) -> None:
    rng = np.random.default_rng(5)
    planted = [
        Planted(finding="Zyste", size_mm=8.0, quadrant="oben außen", num=1, clock=10),
        Planted(finding="Karzinom", size_mm=15.0, quadrant="unten innen", num=1, clock=4),
    ]
    for _ in range(50):
        sentences = split_sentences(write_report(planted, side="right", hospital=hospital, rng=rng))
        assert all(len(sentence.split()) >= 2 for sentence in sentences)
        assert not any("zyst" in s.lower() and "karzinom" in s.lower() for s in sentences)
