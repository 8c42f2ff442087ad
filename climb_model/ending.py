"""What a training ends with, in a federation or alone: final weights, predictions and the summary."""

from __future__ import annotations

from climb_model.checkpoints import Checkpoint
from climb_model.evaluation.labelled import LabelledExams, unmeasured
from climb_model.made_by import made_by
from climb_model.model.climb import build_model
from climb_model.model.frozen import FrozenEncoders
from climb_model.report.card import write_card
from climb_model.runs import RunFolder
from climb_model.sharing import load_shared
from configs.load import settings_hash


def write_result(
    run: RunFolder, checkpoint: Checkpoint, frozen: FrozenEncoders, exams: LabelledExams | None, engine: str
) -> dict[str, object]:
    """Write the final weights, predictions, the model card and, last, the summary.

    Args:
        checkpoint: after the last round.
        exams: what the result is measured on; None: there are none, and every AUC is undefined.

    Returns:
        The content of `summary.json`.
    """
    model = build_model(run.settings, frozen.language_model)
    load_shared(model, checkpoint.shared, sender="the last checkpoint")
    found, result = unmeasured(run.settings) if exams is None else exams.measure(model)
    run.write_shared(checkpoint.shared, checkpoint.round, frozen.fingerprint)
    run.write_predictions(found.uids, found.patients, found.findings, found.labels, found.scores)
    traffic = [site for record in checkpoint.history for site in record.sites.values()]
    summary: dict[str, object] = {
        "study": run.study,
        "rounds": checkpoint.round,
        "sites": len(checkpoint.exams),
        "exams": checkpoint.exams,
        "notices": {site: list(lines) for site, lines in checkpoint.notices.items() if lines},
        "handshake": checkpoint.handshake,
        **result,
        "shared_tensors": len(checkpoint.shared),
        "shared_parameters": sum(value.numel() for value in checkpoint.shared.values()),
        "bytes_per_site_per_round": {
            "up": round(sum(site.bytes_up for site in traffic) / max(len(traffic), 1)),
            "down": round(sum(site.bytes_down for site in traffic) / max(len(traffic), 1)),
        },
        "seconds": sum(record.seconds for record in checkpoint.history),
        "engine": engine,
        "config_hash": settings_hash(run.settings),
        "fingerprint": frozen.fingerprint,
        **made_by(),
    }
    write_card(run, summary)
    run.write_summary(summary)
    return summary
