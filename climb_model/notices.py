"""The facts that this program tells of a set of exams, in counts."""

from __future__ import annotations

import re

ROWS_LEFT_OUT = "# rows or folders left out"
NO_REPORT_LEFT_OUT = "# exams without a report left out"
VOLUMES_LEFT_OUT = "# exams with unusable volumes left out"
WORDLESS_LEFT_OUT = "# exams without a word in their report left out"
LACK_SEQUENCE = "# exams lack a sequence"
ONE_REPORT = "# exams have one and the same report and nothing to contrast"
UNKNOWN_TOKENS = "# of # report tokens unknown"
CUT_AT_SENTENCE = "# reports longer than # tokens cut at a sentence"
CUT_INSIDE = "# of these cut inside their first sentence"
MADE_REPORTS = "# reports are made from the lesion class; nobody wrote them"
VALIDATION_LEFT_OUT = "# validation exams with unusable volumes left out"
NO_VALIDATION = "none of # validation exams can be used: no thresholds"
WITHHELD = "# notices withheld"
"""Said by a site's egress check in the place of sentences that are not among these."""

FORMS = (
    ROWS_LEFT_OUT,
    NO_REPORT_LEFT_OUT,
    VOLUMES_LEFT_OUT,
    WORDLESS_LEFT_OUT,
    LACK_SEQUENCE,
    ONE_REPORT,
    UNKNOWN_TOKENS,
    CUT_AT_SENTENCE,
    CUT_INSIDE,
    MADE_REPORTS,
    VALIDATION_LEFT_OUT,
    NO_VALIDATION,
    WITHHELD,
)
"""All of them, with # for a number."""

NUMBER = "[0-9]{1,9}"
"""Pattern of a count."""

_FORMS = re.compile("|".join(re.escape(form).replace(r"\#", NUMBER) for form in FORMS))


def notice(form: str, *numbers: int) -> str:
    """One of the sentences, with its numbers."""
    assert form in FORMS
    assert form.count("#") == len(numbers)
    return form.replace("#", "{}").format(*numbers)


def is_known(notice: str) -> bool:
    """Whether a notice is one of this program's sentences. Another party's words could hold anything."""
    return _FORMS.fullmatch(notice) is not None
