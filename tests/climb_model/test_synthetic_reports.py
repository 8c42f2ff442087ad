"""Facts about the synthetic German reports, read by an oracle that does not know the templates."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from climb_model.data import synthetic_reports
from climb_model.data.sentences import split_sentences
from climb_model.data.synthetic_reports import (
    QUADRANTS,
    Planted,
    clock_hours,
    compose_report,
    write_report,
)
from climb_model.data.typing_errors import with_typing_errors
from climb_model.data.wordings import dialect, lexicon
from configs.schema import EvaluationConfig

FINDINGS = EvaluationConfig().findings
TRAINING = tuple(range(12))
CENTRAL = -1
HOSPITALS = (*TRAINING, CENTRAL)
TERMS = {
    # in this order; what one has read is blanked before the next
    "Duktales Karzinom in situ": r"(karzinom\w*|carcinoma) in situ|in-situ-karzinom|dcis",
    "Karzinom": r"karzinom|mamma-ca\b",
    "Fibroadenom": r"fibroadenom",
    "Adenose": r"adenose|adenotische",
    "Lymphknoten": r"lymphkn[oö]t|\blk\b",
    "Fettgewebsnekrose": r"nekrose",
    "Zyste": r"zyste|zystische",
    "Duktektasie": r"ektasie|ektatische",
    "Radiäre Narbe": r"(radiär|strahlig)en? narbe|radiär-sklerosierend",
}
DENIAL = re.compile(
    r"\bkein\w*\b|\bweder\b|\bohne \w+ (auf|eine)|nicht \w+bar|sich nicht|zeichen .* fehlen\.|wird verneint"
)
QUESTION = re.compile(r"ausschluss|frage nach|zu klären")


def draw_exam(rng: np.random.Generator, chance: float = 0.15) -> tuple[list[Planted], str]:
    """Findings of one random breast, and its side."""
    side = ("left", "right")[int(rng.integers(2))]
    planted = []
    for finding in FINDINGS:
        if rng.random() < chance:
            quadrant = QUADRANTS[int(rng.integers(len(QUADRANTS)))]
            hours = clock_hours(quadrant, side)
            num = int(rng.choice([1, 1, 1, 2, 4]))
            size = float(rng.uniform(4, 30))
            hour = hours[int(rng.integers(len(hours)))]
            planted.append(Planted(finding=finding, size_mm=size, quadrant=quadrant, num=num, clock=hour))
    return planted, side


def terms_in(sentence: str) -> set[str]:
    """Findings a sentence names."""
    found, rest = set(), sentence.lower()
    for finding, pattern in TERMS.items():
        rest, num = re.subn(pattern, "#", rest)
        if num:
            found.add(finding)
    return found


def read_report(text: str) -> dict[str, str]:
    """What a report says, by the oracle; a contradiction fails."""
    said: dict[str, str] = {}
    for sentence in split_sentences(text):
        if QUESTION.search(sentence.lower()):
            continue
        status = "absent" if DENIAL.search(sentence.lower()) else "present"
        for finding in terms_in(sentence):
            assert said.setdefault(finding, status) == status, f"{finding} is affirmed and denied"
    return said


@cache
def reports_of(hospital: int, num: int = 300, chance: float = 0.15) -> list[tuple[list[Planted], str, str]]:
    rng = np.random.default_rng([9, hospital + 1])
    reports: list[tuple[list[Planted], str, str]] = []
    for _ in range(num):
        planted, side = draw_exam(rng, chance)
        reports.append((planted, side, write_report(planted, side=side, hospital=hospital, rng=rng)))
    return reports


def no_typing_errors(text: str, _rng: np.random.Generator) -> str:
    return text


def test_the_lexicon_has_the_settings_findings_in_order() -> None:
    assert tuple(lexicon()) == FINDINGS


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_the_same_state_gives_the_same_text(hospital: int) -> None:
    first, second = np.random.default_rng(4), np.random.default_rng(4)
    texts = []
    for _ in range(20):
        planted, side = draw_exam(first)
        assert (planted, side) == draw_exam(second)
        texts.append(write_report(planted, side=side, hospital=hospital, rng=first))
        assert texts[-1] == write_report(planted, side=side, hospital=hospital, rng=second)
    assert len(set(texts)) > 15


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_reports_affirm_what_is_planted_and_nothing_else(
    hospital: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic_reports, "with_typing_errors", no_typing_errors)
    rng = np.random.default_rng(hospital + 40)
    for _ in range(300):
        planted, side = draw_exam(rng, 0.2)
        text, stated = compose_report(planted, side=side, hospital=hospital, rng=rng)
        here = {one.finding for one in planted}
        assert {finding for finding, status in stated.items() if status == "present"} == here
        assert read_report(text) == stated


def test_typing_errors_hide_few_findings_and_turn_none_around() -> None:
    named = missed = 0
    for planted, _, text in reports_of(3, 600, chance=0.3):
        here = {one.finding for one in planted}
        said = read_report(text)
        assert not here & {finding for finding, status in said.items() if status == "absent"}
        assert {finding for finding, status in said.items() if status == "present"} <= here
        named += len(here)
        missed += len(here - said.keys())
    assert named > 1000
    assert missed / named < 0.05


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_two_to_four_other_findings_are_denied(hospital: int) -> None:
    rng = np.random.default_rng(hospital + 80)
    denied = []
    for _ in range(300):
        planted, side = draw_exam(rng)
        _, stated = compose_report(planted, side=side, hospital=hospital, rng=rng)
        denied.append(sum(status == "absent" for status in stated.values()))
    assert 2.0 <= np.mean(denied) <= 4.0
    assert np.std(denied) > 0
    assert max(denied) < len(FINDINGS)


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_reports_have_25_words_on_average_and_are_no_prompts(hospital: int) -> None:
    texts = [text for _, _, text in reports_of(hospital)]
    assert np.mean([len(text.split()) for text in texts]) >= 25
    prompts = {prompt for finding in FINDINGS for prompt in (f"{finding}.", f"Kein {finding}.")}
    assert not prompts & {text.strip() for text in texts}


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_about_seven_of_ten_findings_bear_their_canonical_name(hospital: int) -> None:
    canonical = total = 0
    for planted, _, text in reports_of(hospital, 300, chance=0.3):
        plain = re.sub(r"\bradiären narbe\b", "radiäre narbe", text.lower())
        plain = re.sub(r"\bduktalen karzinom in situ\b", "duktales karzinom in situ", plain)
        for one in planted:
            total += 1
            canonical += re.search(rf"\b{one.finding.lower()}\b", plain) is not None
    assert total > 700
    assert 0.62 <= canonical / total <= 0.82


@pytest.mark.parametrize("hospital", TRAINING)
def test_kein_stands_directly_before_findings_in_many_reports(hospital: int) -> None:
    pattern = re.compile(rf"\b[Kk]eine? ({'|'.join(FINDINGS)})\b", re.IGNORECASE)
    assert np.mean([bool(pattern.search(text)) for _, _, text in reports_of(hospital)]) > 0.35


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_kein_agrees_with_the_gender(hospital: int) -> None:
    text = " ".join(text for _, _, text in reports_of(hospital))
    for finding, entry in lexicon().items():
        noun = entry.names[0].slots["N"]
        article, wrong = ("keine", "kein") if entry.names[0].gender == "f" else ("kein", "keine")
        assert re.search(rf"\b{article} {noun}\b", text, re.IGNORECASE), finding
        assert not re.search(rf"\b{wrong} {noun}\b", text, re.IGNORECASE), finding


def test_central_writes_no_sentence_that_a_training_hospital_writes() -> None:
    def sentences(hospital: int) -> set[str]:
        texts = [text for _, _, text in reports_of(hospital)]
        every = {sentence for text in texts for sentence in split_sentences(text)}
        return {re.sub(r"\d+([.,]\d+)?", "0", sentence) for sentence in every}

    central = sentences(CENTRAL)
    assert len(central) > 300
    for hospital in TRAINING:
        assert not central & sentences(hospital)


def test_the_base_styles_share_no_positive_statement_but_short_diagnoses() -> None:
    positives = []
    for hospital in (0, 1, 2, 3, CENTRAL):
        texts = [text for _, _, text in reports_of(hospital)]
        sentences = {sentence for text in texts for sentence in split_sentences(text)}
        described = {s for s in sentences if re.search(r"\d", s)}  # "Zyste links." has no size and no place
        positives.append({s for s in described if terms_in(s) and not DENIAL.search(s.lower())})
    for index, own in enumerate(positives):
        assert len(own) > 100
        for other in positives[index + 1 :]:
            assert len(own & other) <= 0.02 * len(own)


def test_hospitals_all_write_in_their_own_way() -> None:
    ways = [dialect(hospital) for hospital in range(CENTRAL, 400)]
    assert len(set(ways)) == len(ways)


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_some_normal_reports_of_a_hospital_are_identical(hospital: int) -> None:
    rng = np.random.default_rng(hospital + 120)
    texts = Counter(write_report([], side="left", hospital=hospital, rng=rng) for _ in range(300))
    most = texts.most_common(1)[0][1] / 300
    assert 0.02 <= most <= 0.3
    if hospital == 0:
        assert most >= 0.1


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_reports_name_their_own_side_only(hospital: int) -> None:
    for _, side, text in reports_of(hospital):
        own, other = ("link", "recht") if side == "left" else ("recht", "link")
        assert not re.search(rf"\b{other}(s|e|en)\b", text.lower())
        assert re.search(rf"\b{own}(s|e|en)\b", text.lower()) or hospital >= 4


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_hours_and_quadrants_are_those_planted(hospital: int) -> None:
    rng = np.random.default_rng(hospital + 160)
    told = 0
    for side in ("left", "right"):
        for quadrant in QUADRANTS[:4]:
            for clock in clock_hours(quadrant, side):
                one = Planted(finding="Zyste", size_mm=7.6, quadrant=quadrant, num=1, clock=clock)
                text = write_report([one], side=side, hospital=hospital, rng=rng)
                hours = re.findall(r"(\d+) Uhr", text)
                assert set(hours) <= {str(clock)}
                told += len(hours) > 0
                height, across = quadrant.split()
                for word in {"oben", "unten", "innen", "außen"} - {height, across}:
                    assert not re.search(rf"\b{word}\b", text.lower())
                assert re.search(r"\b(8|6|7|0[.,]8)\b", text)
    assert told > 0


def test_outer_is_lateral_seen_from_the_front() -> None:
    assert clock_hours("oben außen", "right") == (9, 10, 11, 12)
    assert clock_hours("oben außen", "left") == (12, 1, 2, 3)
    assert clock_hours("unten innen", "right") == (3, 4, 5, 6)
    assert clock_hours("unten innen", "left") == (6, 7, 8, 9)
    for quadrant in QUADRANTS[:4]:
        assert {(12 - hour) or 12 for hour in clock_hours(quadrant, "right")} == {
            *clock_hours(quadrant, "left")
        }


def test_questions_are_rare() -> None:
    asked = [
        bool(QUESTION.search(text.lower()))
        for hospital in (2, 3)
        for _, _, text in reports_of(hospital, 600, chance=0.1)
    ]
    assert 0.01 < np.mean(asked) <= 0.05


def test_typing_errors_touch_one_long_word_in_a_hundred_and_no_decisive_one() -> None:
    text = " ".join(["Parenchym", "Kein", "keine", "nicht", "weder", "rechts", "linken", "12"] * 4000)
    words = list(zip(text.split(), with_typing_errors(text, np.random.default_rng(0)).split(), strict=True))
    changed = [before for before, after in words if before != after]
    assert set(changed) == {"Parenchym"}
    assert 0.006 < len(changed) / 4000 < 0.014
    again = with_typing_errors("wieder " * 20_000, np.random.default_rng(0)).split()
    assert "wider" in again
    assert "weder" not in again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"finding": "Lipom"}, "a planted finding is one of .*, got 'Lipom'"),
        ({"quadrant": "oben"}, "a quadrant is one of .*, got 'oben'"),
        ({"size_mm": 0.0}, "size must be above 0 and below 200 mm, got 0.0"),
        ({"size_mm": float("nan")}, "got nan"),
        ({"num": 0}, "number must be >= 1, got 0"),
        ({"clock": 13}, "a clock position is 1 to 12, got 13"),
    ],
)
def test_impossible_findings_are_refused(change: dict[str, object], message: str) -> None:
    good: dict[str, object] = {
        "finding": "Zyste",
        "size_mm": 8.0,
        "quadrant": "oben außen",
        "num": 1,
        "clock": 10,
    }
    with pytest.raises(ValueError, match=message):
        Planted(**{**good, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("side", "hospital", "message"),
    [
        ("rechts", 0, "a side is 'left' or 'right', got 'rechts'"),
        ("left", 0, "10 o'clock does not lie 'oben außen' in a left breast"),
        ("right", -2, r"a hospital is -1 \(CENTRAL\) or 0 to \d+, got -2"),
        ("right", 10**7, "got 10000000"),
    ],
)
def test_impossible_reports_are_refused(side: str, hospital: int, message: str) -> None:
    one = Planted(finding="Zyste", size_mm=8.0, quadrant="oben außen", num=1, clock=10)
    with pytest.raises(ValueError, match=message):
        write_report([one], side=side, hospital=hospital, rng=np.random.default_rng(0))
