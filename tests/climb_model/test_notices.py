"""Which notices may be quoted: this program's own sentences and no others."""

from __future__ import annotations

import pytest

from climb_model.notices import FORMS, UNKNOWN_TOKENS, is_known, notice


@pytest.mark.parametrize("form", FORMS)
def test_each_sentence_is_known_with_numbers_in_it(form: str) -> None:
    assert is_known(form.replace("#", "3", 1).replace("#", "5210"))


@pytest.mark.parametrize(
    "notice",
    [
        "1 anna mueller geboren 1961",
        "3 exams lack a sequence of anna",
        "exams lack a sequence",
        "# exams lack a sequence",
        "3 exams lack a sequence\n",
        "",
    ],
)
def test_other_words_are_not(notice: str) -> None:
    assert not is_known(notice)


def test_a_sentence_takes_as_many_numbers_as_it_has_places() -> None:
    assert notice(UNKNOWN_TOKENS, 3, 40) == "3 of 40 report tokens unknown"
    with pytest.raises(AssertionError):
        notice(UNKNOWN_TOKENS, 3)
    with pytest.raises(AssertionError):
        notice("# names of patients", 3)
