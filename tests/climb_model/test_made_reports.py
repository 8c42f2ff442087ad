"""Texts made from ODELIA's class."""

from __future__ import annotations

import pytest

from climb_model.data.made_reports import MADE, made_report
from climb_model.data.sentences import split_sentences


def test_each_class_has_a_text_of_its_own() -> None:
    texts = [made_report(lesion) for lesion in (0, 1, 2)]
    assert len(set(texts)) == 3
    assert all(len(split_sentences(text)) == 2 for text in texts)


def test_no_made_text_names_a_side() -> None:
    assert not any(word in text.casefold() for text in MADE.values() for word in ("links", "rechts", "seit"))


def test_another_class_is_refused() -> None:
    with pytest.raises(ValueError, match="0, 1 or 2, got 3"):
        made_report(3)
