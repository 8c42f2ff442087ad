"""The card on data: exams, sites and notices in counts, and how the figures are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from climb_model.notices import is_known
from climb_model.report.markdown import bullets, table, words, wrapped
from climb_model.results import trained_alone, whose_exams
from climb_model.runs import RoundRecord
from configs.schema import Settings


def site_labels(
    summary: Mapping[str, object], history: Sequence[RoundRecord], *, site_names: bool
) -> dict[str, str]:
    """Each site's name in the summary to what the card calls it.

    Numbers go by training exams, most first: an order by name would say something of the names.
    """
    exams = _exams(summary, history)
    ordered = sorted(exams, key=lambda name: (-exams[name], name))
    if site_names:
        return {name: words(name) for name in ordered}
    if trained_alone(summary):
        return dict.fromkeys(ordered, "the site")
    return {name: f"site {number}" for number, name in enumerate(ordered, start=1)}


def factors(settings: Settings) -> str:
    """By what the figures are split, and by what not."""
    return wrapped(
        f"The figures are told for each of {len(settings.evaluation.findings)} findings. The run does not "
        "split them by age, breast density, scanner, field strength, hospital or any group of patients: how "
        "much they differ there is unknown."
    )


def metrics(settings: Settings) -> str:
    """What the numbers mean."""
    config = settings.evaluation
    prompts = [f'"{words(prompt)}"' for prompt in (*config.positive_prompts, *config.positive_variants)]
    against = [f'"{words(prompt)}"' for prompt in (*config.negative_prompts, *config.negative_variants)]
    lines = [
        "Zero-shot diagnosis: an exam's score for a finding says how much nearer the exam is to the wording "
        "of 'present' than to that of 'absent'.",
        f"Wordings of 'present': {', '.join(prompts)}; of 'absent': {', '.join(against)}.",
        "AUC: the chance that an exam with the finding scores above one without it; 0.5 is guessing.",
    ]
    if config.bootstrap:
        lines.append(f"Intervals: 95 %, bootstrap over patients, {config.bootstrap} draws.")
    else:
        lines.append("Intervals: none, the run drew no bootstrap.")
    return bullets([*lines, "The last round is reported, never the best one."])


def evaluation_data(summary: Mapping[str, object], settings: Settings) -> str:
    """The server's own exams, in counts."""
    lines = [_central(summary, settings)]
    lines += _told(cast(Sequence[str], summary.get("central_notices") or []))
    validation = summary.get("validation_exams")
    if validation:
        lines.append(f"{validation} further exams (split val) chose the thresholds.")
    return bullets([*lines, *_drawn(summary)])


def training_data(
    summary: Mapping[str, object],
    settings: Settings,
    history: Sequence[RoundRecord],
    labels: Mapping[str, str],
    *,
    site_names: bool,
) -> str:
    """Who trained, with how many exams, how long; nothing but counts."""
    exams, trained = _exams(summary, history), [record for record in history if record.sites]
    rows: list[tuple[str, ...]] = []
    for name, label in labels.items():
        taken = [record.sites[name] for record in trained if name in record.sites]
        rows.append((label, str(exams[name]), str(len(taken)), str(sum(site.steps for site in taken))))
    took_part = [name for name in labels if any(name in record.sites for record in trained)]
    steps = history[-1].global_step if history else 0
    numbers = [
        f"{counted(len(took_part), 'site')} with {sum(exams[name] for name in took_part)} training exams, "
        "each with a report. Labels are not used in training.",
        f"{counted(cast(int, summary['rounds']), 'round')}, {steps} global steps, batches of up to "
        f"{settings.training.batch_size} exams.",
        _naming(trained_alone(summary), site_names),
    ]
    notices = cast(Mapping[str, Sequence[str]], summary.get("notices") or {})
    for name, lines in notices.items():
        numbers += [f"{labels.get(name, 'a site')}: {line}" for line in _told(lines)]
    heads = ["site", "training exams", "rounds", "steps"]
    return f"{bullets([*numbers, *_drawn(summary)])}\n\n{table(heads, rows)}"


def _naming(alone: bool, site_names: bool) -> str:
    if site_names:
        if alone:
            return "The site is called what its admin named it."
        return "The sites are called what their admins named them."
    how = "written here: `climb-server card RUN --site-names`."
    if alone:
        return f"The site is not named. Its admin knows the name and can have it {how}"
    return (
        f"The sites are numbered, most exams first. The coordinator knows their names and can have them {how}"
    )


def counted(number: int, what: str) -> str:
    """`1 site`, `3 sites`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _central(summary: Mapping[str, object], settings: Settings) -> str:
    number = cast(int, summary.get("central_exams") or 0)
    if not number:
        return "None: nothing was measured."
    place = cast(Mapping[str, str], summary.get("measured_on") or {})
    split = words(place.get("split", settings.evaluation.split))
    return f"{counted(number, 'exam')} with labels (split {split}), {whose_exams(summary)}."


def _drawn(summary: Mapping[str, object]) -> list[str]:
    """What a simulation's data root says of itself, if it was drawn."""
    record = cast(Mapping[str, object], summary.get("data") or {})
    if not record:
        return []
    kind = "real tissue with drawn findings" if record.get("tissue") else "no patient, all drawn from a seed"
    return [f"The exams are synthetic ({kind}): the folder was made by `climb-sim make-data`."]


def _exams(summary: Mapping[str, object], history: Sequence[RoundRecord]) -> dict[str, int]:
    """Training exams of all sites, those that had left before the end too."""
    seen = {name: site.exams for record in history for name, site in record.sites.items()}
    return {**seen, **cast(Mapping[str, int], summary.get("exams") or {})}


def _told(notices: Sequence[str]) -> list[str]:
    """Notices that are counts; of others only how many, since a site's words could hold anything."""
    known = [f"{notice}." for notice in notices if is_known(notice)]
    hidden = len(notices) - len(known)
    return [*known, *([f"{counted(hidden, 'further notice')}, not shown here."] if hidden else [])]
