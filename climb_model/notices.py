"""The facts that this program tells of a set of exams, in counts."""

from __future__ import annotations

import re

FORMS = (
    "# rows or folders left out",
    "# exams without a report left out",
    "# exams with unusable volumes left out",
    "# exams without a word in their report left out",
    "# exams lack a sequence",
    "# exams have one and the same report and nothing to contrast",
    "# of # report tokens unknown",
    "# reports longer than # tokens cut at a sentence",
    "# of these cut inside their first sentence",
    "# validation exams with unusable volumes left out",
    "none of # validation exams can be used: no thresholds",
)
"""All of them, with # for a number."""

_FORMS = re.compile("|".join(re.escape(form).replace(r"\#", r"\d{1,9}") for form in FORMS))


def is_known(notice: str) -> bool:
    """Whether a notice is one of this program's sentences. Another party's words could hold anything."""
    return _FORMS.fullmatch(notice) is not None
