"""Exams and patients under their pseudonyms: what could be one patient under two of them is told."""

from __future__ import annotations

import pytest

from climb_model.intake.candidates import LEADING_ZEROS, Sources, named_candidates
from climb_model.intake.nifti.source import NiftiExam, as_study
from climb_model.intake.pseudonym import patient_id

KEY = bytes(32)


def sources(*patients: str) -> Sources:
    exams = [
        NiftiExam(raw_id=f"A{place}", patient=patient, files={}) for place, patient in enumerate(patients)
    ]
    return [(as_study(exam), exam) for exam in exams]


def told(*patients: str, earlier: tuple[str, ...] = ()) -> list[str]:
    """Patient numbers of the exams that are told."""
    found, left_out = named_candidates(
        sources(*patients), KEY, earlier=[patient_id(number, KEY) for number in earlier]
    )
    number = {each.exam: each.study.patient for each in found}
    assert all(each.what == "notice" and each.path is None for each in left_out)
    return sorted(number[each.study] for each in left_out if each.reason == LEADING_ZEROS)


@pytest.mark.parametrize(
    ("patients", "wanted"),
    [
        (("004214016", "4214016"), ["004214016", "4214016"]),
        (("004214016", "04214016", "815"), ["004214016", "04214016"]),
        (("004214016", "004214016"), []),
        (("4214016", "42140160", "42014016"), []),
        (("00A12", "A12"), ["00A12", "A12"]),
        (("000", "0"), ["0", "000"]),
        (("", "0"), []),
        (("0" * 63 + "7", "7", "0" * 80 + "8"), ["0" * 63 + "7", "7"]),
    ],
)
def test_numbers_that_differ_only_in_leading_zeros_are_told(
    patients: tuple[str, ...], wanted: list[str]
) -> None:
    assert told(*patients) == wanted


def test_a_patient_of_an_earlier_import_is_told_too() -> None:
    assert told("4214016", "815", earlier=("004214016", "815")) == ["4214016"]


def test_the_notice_holds_no_number() -> None:
    assert not any(letter.isdigit() for letter in LEADING_ZEROS)
