"""`model_card.md`: what a run's shared weights are, what they reach and what they may give away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from climb_model.atomic import write_text_atomic
from climb_model.made_by import made_by
from climb_model.report.card_data import evaluation_data, factors, metrics, site_labels, training_data
from climb_model.report.card_model import how_to_cite, how_to_load, model_details
from climb_model.report.card_privacy import ethical_considerations
from climb_model.report.card_results import caveats, quantitative_analyses
from climb_model.report.markdown import words
from climb_model.results import NOT_A_DEVICE, trained_alone
from climb_model.runs import RoundRecord, RunError, RunFolder
from configs.schema import Settings

FILE = "model_card.md"

HEADER = """\
---
# {chooser} must choose a licence before the weights are passed on. Until then
# there is none: `other` stands here because the hub wants a word.
license: other
license_name: not-chosen-yet
library_name: climb-federated
tags:
- breast-mri
- federated-learning
- vision-language
- research-only
---"""
"""What the Hugging Face hub reads when the file is called README.md; `chooser` is to be filled in."""

INTRODUCTION = """\
The program wrote this card from the run's own files. The headings are those of Mitchell et al. 2019,
"Model Cards for Model Reporting"; the last two are added."""

INTENDED_USE = """\
Intended: research on learning from breast MRI and reports without gathering them in one place;
measuring these weights on further exams; training on from them.
Intended users: researchers who can judge the figures below.

Out of scope: diagnosis, triage or any decision about a person, also as a second opinion; findings
that are not in the table below, which were never measured; other organs, sequences, languages or
ways of imaging than those it was trained on; attempts to find out who was in the training data."""


def write_card(
    run: RunFolder, summary: Mapping[str, object] | None = None, *, site_names: bool = False
) -> Path:
    """Write `model_card.md` into the folder of a run that has ended.

    Args:
        summary: None takes that of `summary.json`.
        site_names: name the sites as their admins did; else they are numbered.

    Returns:
        The card's path.

    Raises:
        RunError: if the run has no summary yet.
    """
    summary = run.summary() if summary is None else summary
    if summary is None:
        raise RunError(f"{run.path} has no summary.json: a run writes its card when it has ended")
    target = run.path / FILE
    filled = {**made_by(), **summary}  # of a run that an older version ended
    write_text_atomic(target, model_card(filled, run.settings, run.history(), site_names=site_names))
    return target


def model_card(
    summary: Mapping[str, object],
    settings: Settings,
    history: Sequence[RoundRecord],
    *,
    site_names: bool = False,
) -> str:
    """The whole card; the same for the same run.

    Nothing of it comes from exams, reports or predictions: only counts and AUCs of the summary and the
    history, and settings.

    Args:
        summary: as in `summary.json`, with `version` and `date`.
        history: from round 0.
        site_names: as in `write_card`.
    """
    labels = site_labels(summary, history, site_names=site_names)
    sections = {
        "Model details": model_details(summary, settings),
        "Intended use": INTENDED_USE,
        "Factors": factors(settings),
        "Metrics": metrics(settings),
        "Evaluation data": evaluation_data(summary, settings),
        "Training data": training_data(summary, settings, history, labels, site_names=site_names),
        "Quantitative analyses": quantitative_analyses(summary, history, labels),
        "Ethical considerations": ethical_considerations(summary, settings, history),
        "Caveats and recommendations": caveats(summary, settings, history),
        "How to load it": how_to_load(settings),
        "How to cite it": how_to_cite(summary, settings),
    }
    parts = [
        HEADER.format(chooser="The site" if trained_alone(summary) else "The coordinator of the study"),
        f"# Model card: CLIMB, study {words(str(summary.get('study') or 'without a name'))}",
        f"**{NOT_A_DEVICE}**",
        INTRODUCTION,
        *(f"## {title}\n\n{text}" for title, text in sections.items()),
    ]
    return "\n\n".join(parts) + "\n"
