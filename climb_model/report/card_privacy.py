"""The card on privacy: what these weights can give away, as far as the run knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from climb_model.report.card_model import split_parameters
from climb_model.report.markdown import bullets
from climb_model.results import trained_alone
from climb_model.runs import RoundRecord
from climb_model.sharing import HELLO_NUMBERS, HELLO_WORDS, TRAIN_METRICS
from configs.schema import Settings

GIVES_TEXT_AWAY = "The shared transformer was itself trained to write reports and can give report text away."


def reused_generators(settings: Settings) -> list[str]:
    """What shared weights that were generators too can give away; nothing where none were."""
    told: list[str] = []
    if settings.model.generators.kind == "reused":
        if settings.objectives.coca > 0:
            told.append(f"{GIVES_TEXT_AWAY} Treat the weights as you would the reports.")
        if settings.objectives.inverse_coca > 0:
            told.append(
                "The shared transformer was itself trained to predict slice tokens from reports, and can "
                "give away what they show."
            )
    return told


def ethical_considerations(
    summary: Mapping[str, object], settings: Settings, history: Sequence[RoundRecord]
) -> str:
    """Whose data it was, what left, and that there is no formal guarantee."""
    lines = [
        "The model is about patients: a wrong use of it can harm them, and so can what it gives away.",
        _what_left(summary, history),
        "There is no formal privacy guarantee: the weights were trained without differential privacy, and no "
        "single patient's part in them is bounded.",
        "The weights can give away some of what they were trained on, for as long as they exist. In trials "
        "on small models, single updates made from few reports gave the reports' words back.",
        *_generators(summary, settings),
        "The counts above are exact. Two cards of the same hospitals can tell that a patient came or went.",
    ]
    if summary.get("engine") == "local":
        lines.append("Engine local: all exams were read on one machine, so nothing had to travel.")
    return bullets(lines)


def _what_left(summary: Mapping[str, object], history: Sequence[RoundRecord]) -> str:
    if not any(site.bytes_up for record in history for site in record.sites.values()):
        who = "The site sent nothing" if trained_alone(summary) else "No site sent anything"
        return f"{who} while it trained."
    return (
        "Images and reports did not leave the sites. In each round a site sent the shared tensors and "
        f"{_listed(TRAIN_METRICS)}; at the start {_listed([*HELLO_WORDS, *HELLO_NUMBERS])}. The coordinator "
        "saw each site's tensors by themselves."
    )


def _generators(summary: Mapping[str, object], settings: Settings) -> list[str]:
    """What the modules that write reports and predict slices add to the risk."""
    if not (settings.objectives.coca > 0 or settings.objectives.inverse_coca > 0):
        return ["No part of the model was trained to write reports or to predict images."]
    if settings.model.generators.kind == "reused":
        told = reused_generators(settings)
        return [line.replace(GIVES_TEXT_AWAY, f"**{GIVES_TEXT_AWAY}**") for line in told]
    _, private = split_parameters(settings)
    where = "the site" if trained_alone(summary) else "each site"
    kept = f", {len(private)} tensors," if private else ""
    return [
        f"What writes reports or predicts slices{kept} stays at {where} and is not in the file. The shared "
        "tensors were trained through it, and can still carry some of what it learned."
    ]


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(f"`{name}`" for name in names)
