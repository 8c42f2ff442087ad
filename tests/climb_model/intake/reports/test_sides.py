"""One report for both breasts, divided."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from climb_model.data.synthetic_reports import QUADRANTS, Planted, clock_hours, write_report
from climb_model.data.wordings import lexicon
from climb_model.intake.reports.side_words import NO_REFERENCE, NOT_DIVIDED
from climb_model.intake.reports.sides import FINDING_WITHOUT_SIDE, NO_SIDE, NO_TEXT, SplitReport, split_report

DIVIDED = {
    "headings": (
        "Rechts: Zyste 8 mm. Glatt begrenzt.\nLinks: Karzinom. Spikuliert.",
        "Links: Karzinom. Spikuliert.",
        "Rechts: Zyste 8 mm. Glatt begrenzt.",
    ),
    "lines of their own": (
        "Rechte Mamma\nZyste oben außen.\n\nLinke Mamma\nUnauffällig.",
        "Linke Mamma Unauffällig.",
        "Rechte Mamma Zyste oben außen.",
    ),
    "letters": ("R: frei.\nL: Zyste.", "L: Zyste.", "R: frei."),
    "abbreviations": (
        "Li. Mamma: Zyste, re. Mamma: o. B.",
        "Li. Mamma: Zyste.",
        "re. Mamma: o. B.",
    ),
    "inline": (
        "In der rechten Brust zeigt sich eine Zyste. Diese ist glatt. Linksseitig kein Herd.",
        "Linksseitig kein Herd.",
        "In der rechten Brust zeigt sich eine Zyste. Diese ist glatt.",
    ),
    "a finding goes on": (
        "Rechts: Zyste oben außen. Diese misst 8 mm. Kein weiterer Herd. Narbe innen. Links unauffällig.",
        "Links unauffällig.",
        "Rechts: Zyste oben außen. Diese misst 8 mm. Kein weiterer Herd. Narbe innen.",
    ),
    "a part without findings": (
        "Rechts: Haut unauffällig. Zyste oben. Links: Keine Hautverdickung. Herd innen.",
        "Links: Keine Hautverdickung. Herd innen.",
        "Rechts: Haut unauffällig. Zyste oben.",
    ),
    "headings of both and in the summary": (
        "Beidseits: Zysten. Beurteilung:\nRechts: Zysten. Narbe.\nLinks: Zysten. BI-RADS 2.",
        "Beidseits: Zysten.\nBeurteilung: Links: Zysten. BI-RADS 2.",
        "Beidseits: Zysten.\nBeurteilung: Rechts: Zysten. Narbe.",
    ),
    "clauses, side first": ("Rechts Zyste, links Karzinom.", "links Karzinom.", "Rechts Zyste."),
    "clauses, side last": (
        "Zyste rechts, 8 mm, und Karzinom links, 12 mm.",
        "und Karzinom links, 12 mm.",
        "Zyste rechts, 8 mm.",
    ),
    "clauses without a comma": ("Rechts Zyste links Karzinom.", "links Karzinom.", "Rechts Zyste."),
    "one statement each": (
        "Zyste rechts und links unauffällig.",
        "und links unauffällig.",
        "Zyste rechts.",
    ),
    "shared noun": ("BI-RADS 2 rechts, 4 links.", "BI-RADS 4 links.", "BI-RADS 2 rechts."),
    "shared noun before the sides": (
        "BI-RADS rechts 2 / links 4.",
        "BI-RADS links 4.",
        "BI-RADS rechts 2.",
    ),
    "shared noun, letters": ("BI-RADS R2/L4.", "BI-RADS L4.", "BI-RADS R2."),
    "shared noun, places": (
        "Zysten re. oben außen (8 mm) u. li. unten innen (12 mm).",
        "Zysten u. li. unten innen (12 mm).",
        "Zysten re. oben außen (8 mm).",
    ),
    "both and one": (
        "Beidseits Zysten, rechts zusätzlich Fibroadenom.",
        "Beidseits Zysten.",
        "Beidseits Zysten. rechts zusätzlich Fibroadenom.",
    ),
    "the other side": (
        "Rechts Karzinom. Kontralateral unauffällig. Mamille regelrecht.",
        "Kontralateral unauffällig. Mamille regelrecht.",
        "Rechts Karzinom.",
    ),
    "the other side in one sentence": (
        "Rechts Karzinom, Gegenseite frei.",
        "Gegenseite frei.",
        "Rechts Karzinom.",
    ),
    "comparison": (
        "Links Herd. Im Vergleich zur Gegenseite kräftiger. Größer als rechts. Rechts frei.",
        "Links Herd. Im Vergleich zur Gegenseite kräftiger. Größer als rechts.",
        "Rechts frei.",
    ),
    "common beginning and summary": (
        "T1 und T2 nativ. Rechts Zyste. Links frei. Beurteilung: Kein Malignom. BI-RADS 2.",
        "T1 und T2 nativ. Links frei.\nBeurteilung: Kein Malignom. BI-RADS 2.",
        "T1 und T2 nativ. Rechts Zyste.\nBeurteilung: Kein Malignom. BI-RADS 2.",
    ),
    "history": (
        "Anamnese: Z. n. BET links 2015. Befund: Rechts Zyste. Links Narbe.",
        "Anamnese: Z. n. BET links 2015.\nBefund: Links Narbe.",
        "Anamnese: Z. n. BET links 2015.\nBefund: Rechts Zyste.",
    ),
    "technique without an end": (
        "Technik: T1, T2. Rechts Karzinom. Links frei.",
        "Technik: T1, T2. Links frei.",
        "Technik: T1, T2. Rechts Karzinom.",
    ),
    "another organ": (
        "Rechts frei. Links Zyste. Beidseits keine Lymphknoten. Hämangiom im rechten Leberlappen.",
        "Links Zyste. Beidseits keine Lymphknoten. Hämangiom im rechten Leberlappen.",
        "Rechts frei. Beidseits keine Lymphknoten. Hämangiom im rechten Leberlappen.",
    ),
    "same headings under both sides": (
        "Rechts:\nBefund: Zyste.\nBeurteilung: Zyste.\nLinks:\nBefund: Karzinom.\nBeurteilung: Karzinom.",
        "Links:\nBefund: Karzinom.\nBeurteilung: Karzinom.",
        "Rechts:\nBefund: Zyste.\nBeurteilung: Zyste.",
    ),
    "shared noun after a number": (
        "Links bei 11 Uhr ein Herd (8 mm), rechts bei 2 Uhr ebenfalls (6 mm), beide glatt. Bds. kein Ödem.",
        "Links bei 11 Uhr ein Herd (8 mm). beide glatt. Bds. kein Ödem.",
        "ein Herd rechts bei 2 Uhr ebenfalls (6 mm). beide glatt. Bds. kein Ödem.",
    ),
    "a question names a side": (
        "Fragestellung: Ausschluss Malignom rechts. Rechts weite Gänge. Gegenseitig unauffällig.",
        "Fragestellung: Ausschluss Malignom rechts. Gegenseitig unauffällig.",
        "Fragestellung: Ausschluss Malignom rechts. Rechts weite Gänge.",
    ),
    "a whole report with a numbered summary": (
        "Anamnese: Z. n. BET links bei Karzinom.\nTechnik: T2, T1 dynamisch.\nBefund:\n"
        "Rechts: Zysten bis 8 mm.\nLinks: Narbe. Neu 12 mm große Läsion.\n"
        "Beurteilung:\n1. V. a. Rezidiv links, BI-RADS 5 links.\n2. Rechts Zysten, BI-RADS 2.",
        "Anamnese: Z. n. BET links bei Karzinom.\nTechnik: T2, T1 dynamisch.\nBefund: "
        "Links: Narbe. Neu 12 mm große Läsion.\nBeurteilung: 1. V. a. Rezidiv links, BI-RADS 5 links.",
        "Anamnese: Z. n. BET links bei Karzinom.\nTechnik: T2, T1 dynamisch.\nBefund: "
        "Rechts: Zysten bis 8 mm.\nBeurteilung: 2. Rechts Zysten, BI-RADS 2.",
    ),
    "greetings": (
        "Rechts Zyste. Links Karzinom.\nMit freundlichen Grüßen",
        "Links Karzinom.\nMit freundlichen Grüßen",
        "Rechts Zyste.\nMit freundlichen Grüßen",
    ),
}

BOTH = {
    "Zyste rechts und links.",
    "Rechts und links Zysten.",
    "Weder rechts noch links ein Karzinom.",
    "Anreicherung re > li.",
    "Parenchym rechts ausgeprägter als links.",
    "Unauffällige Mammae ohne Herdbefund.",
    "Beidseits Zysten.",
    "Zysten bds.",
    "In beiden Brüsten keine Herde.",
    "Regelrechter Befund.",
}

REFUSED = {
    "": NO_TEXT,
    " \n ": NO_TEXT,
    "Karzinom, 12 mm.": NO_SIDE,
    "Zyste bei L4/5.": NO_SIDE,
    "Herd linksventrikulär, Rechtsanwalt.": NO_SIDE,
    "Kontralateral unauffällig.": NO_REFERENCE,
    "Beidseits Zysten. Gegenseite frei.": NO_REFERENCE,
    "Ablatio rechts wegen Karzinom links.": NOT_DIVIDED,
    "Zyste rechts und Fibroadenom sowie Karzinom links.": NOT_DIVIDED,
    "Zyste rechts, Karzinom, links.": NOT_DIVIDED,
    "Multiple Herde. Rechts frei. Links frei.": FINDING_WITHOUT_SIDE,
    "Rechts Zyste. Links frei. Beurteilung: BI-RADS 5.": FINDING_WITHOUT_SIDE,
    "Rechts Karzinom. Links frei. Zusammenfassend Karzinom.": FINDING_WITHOUT_SIDE,
    "Linke Mamma: Herd 22 mm. Rechte Mamma: unauffällig. Sicherung des Karzinoms empfohlen.": (
        FINDING_WITHOUT_SIDE
    ),
    "Links: Karzinom. Rechts: unauffällig. Der Herd ist 22 mm groß.": FINDING_WITHOUT_SIDE,
    "Links: Karzinom. Rechts: Kein Malignom. Axilla frei. Der Herd misst 2 cm.": FINDING_WITHOUT_SIDE,
    "Links Karzinom, rechts o. B. Der Herd ist 22 mm groß.": FINDING_WITHOUT_SIDE,
    "Links: Karzinom. Rechts: BI-RADS 1. Der Herd misst 2 cm.": FINDING_WITHOUT_SIDE,
    "Rechts > links Drüsengewebe. Suspekter Herd 9 mm. Links unauffällig.": FINDING_WITHOUT_SIDE,
    "Beidseits Zysten. Suspekter Herd 9 mm retromamillär.": FINDING_WITHOUT_SIDE,
    "Zyste rechts, Karzinom links. Fibroadenom oben.": FINDING_WITHOUT_SIDE,
    "Befund: Rechts frei. Links Herd. Beurteilung: Rechts BI-RADS 2. Karzinom, 12 mm.": FINDING_WITHOUT_SIDE,
}


@pytest.mark.parametrize("case", DIVIDED)
def test_a_report_is_divided(case: str) -> None:
    text, left, right = DIVIDED[case]
    assert split_report(text) == SplitReport(left=left, right=right)


@pytest.mark.parametrize("text", sorted(BOTH))
def test_what_is_about_both_stays_in_both(text: str) -> None:
    assert split_report(text) == SplitReport(left=text, right=text)


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_divided_is_not_guessed(text: str) -> None:
    assert split_report(text) == SplitReport(unsplit=REFUSED[text])


@pytest.mark.parametrize("text", ["A" * 9000, "rechts: " * 1200, "rechts und links " * 600, "zyste" * 2000])
def test_a_broken_text_takes_no_minutes(text: str) -> None:
    started = time.process_time()
    split_report(text)
    assert time.process_time() - started < 20


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def is_in_order(part: str, whole: str) -> bool:
    rest = iter(words(whole))
    return all(word in rest for word in words(part))


@pytest.mark.parametrize("seed", range(40))
def test_no_word_is_lost_moved_or_made_up(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool = [*(text for text, _, _ in DIVIDED.values()), *BOTH, "Haut und Mamille o. B.", "Grüße\n\n- Punkt"]
    text = " ".join(pool[place] for place in rng.choice(len(pool), size=6))
    split = split_report(text)
    if not split.unsplit:
        assert all(is_in_order(part, text) for part in (split.left, split.right))
        for word in set(words(text)):
            assert words(split.left).count(word) + words(split.right).count(word) >= words(text).count(word)


def plant(finding: str, side: str, rng: np.random.Generator) -> Planted:
    quadrant = QUADRANTS[int(rng.integers(len(QUADRANTS)))]
    clock = int(rng.choice(clock_hours(quadrant, side)))
    num = int(rng.integers(1, 4))
    return Planted(finding=finding, size_mm=12.0, quadrant=quadrant, num=num, clock=clock)


FORMS = (
    "Technik: MRT beider Mammae in Bauchlage.\nRechte Mamma: {right}\nLinke Mamma: {left}",
    "Rechts: {right}\nLinks: {left}",
    "MRT der Mammae beidseits.\n\nLinke Mamma:\n{left}\n\nRechte Mamma:\n{right}",
)


def test_two_drawn_reports_come_apart_again() -> None:
    rng = np.random.default_rng(0)

    def draw(side: str, hospital: int) -> str:
        planted = [plant(name, side, rng) for name in lexicon() if rng.random() < 0.15]
        return write_report(planted, side=side, hospital=hospital, rng=rng)

    num_divided = 0
    for number in range(120):
        hospital = number % 9 - 1
        left, right = draw("left", hospital), draw("right", hospital)
        if "bds." in left + right:
            continue  # the history of both breasts, rightly in both
        split = split_report(FORMS[number % 3].format(left=left, right=right))
        if split.unsplit:
            assert split.unsplit == FINDING_WITHOUT_SIDE  # the second breast's summary may be of both
            continue
        num_divided += 1
        for own, text in ((split.left, left), (split.right, right)):
            assert " ".join(text.split()) in " ".join(own.split())
            assert len(words(own)) <= len(words(text)) + 9
    assert num_divided >= 105
