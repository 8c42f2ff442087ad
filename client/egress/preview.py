"""The site's next two messages, made without a server and without training, and what the policy says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from uuid import uuid4

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from client.app import app
from client.audit import AuditLog
from client.egress.egress import REFUSED_KIND, SENT_KIND, Egress
from client.egress.policy import REFUSED
from client.egress.records import Reading, agreed_shapes
from client.egress.rules import HELLO_MESSAGE, TRAIN_MESSAGE, Broken, Leaving
from client.site import exams_of, site_of
from climb_model.model.climb import build_model
from climb_model.run_config import to_run_config
from climb_model.sharing import TRAIN_METRICS, shared_spec
from climb_model.training.batches import plan_round, round_seed, trainable
from climb_model.training.behind import behind_update
from configs.schema import BUILTIN_FILTERS, BUILTIN_GERMAN, Settings

_WAIT_S = 10.0
_PREVIEW_RUN, _PREVIEW_NODE = 1, 1


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """One message as it would want to leave."""

    message: str
    """`query.hello` or `train`."""

    round: int
    reading: Reading = field(repr=False)
    behind: Mapping[str, int] | None
    later: frozenset[str]
    """Numbers whose value only the training will know."""

    broken: Broken | None
    """The rule that would stop it; None: it may leave."""

    @property
    def takes_part(self) -> bool:
        """Whether the site's app answers, and its policy lets the answer leave."""
        return self.broken is None and REFUSED not in self.reading.records


@dataclass(frozen=True, kw_only=True)
class LastMessage:
    """What the audit log holds of a study's newest message."""

    study: str
    preset: str
    overrides: tuple[str, ...] | None
    """None: the log does not hold them whole."""

    run_id: int
    round: int


def last_message(private: Path, study: str | None = None) -> LastMessage | None:
    """The newest message of a study, or of any, by the audit log; None if there is none.

    Raises:
        AuditError: if the log was changed.
    """
    for entry in AuditLog(private).newest_first(holding=b'"message": '):
        known = entry.fields
        if entry.kind in (SENT_KIND, REFUSED_KIND) and study in (None, known["study"]):
            return LastMessage(
                study=str(known["study"]),
                preset=str(known["preset"]),
                overrides=_overrides(str(known.get("overrides", ""))),
                run_id=int(str(known["run"])),
                round=int(str(known["round"])),
            )
    return None


def _overrides(logged: str) -> tuple[str, ...] | None:
    """The list in a log's plain signs; None if it is none, or was cut off, after which it is no JSON."""
    try:
        items: object = json.loads(logged.encode("ascii").decode("unicode_escape"))
    except ValueError:
        return None
    return tuple(map(str, cast(list[object], items))) if isinstance(items, list) else None


def preview(
    settings: Settings,
    node_config: Mapping[str, str],
    policy: Path,
    *,
    study: str,
    coordinator: str,
    last: LastMessage | None = None,
    end: Path | None = None,
) -> tuple[Foreseen, ...]:
    """The first exchange, from the site's own exams, and the next training reply, whose weights are zeros.

    The first exchange is the app's own answer; if it refuses, there is no training reply. Exams that were
    not prepared yet are prepared. Nothing is sent, trained, or written to the audit log.

    Args:
        node_config: the node's settings, as `client.site.site_of` reads them.
        policy: the site's policy file.
        coordinator: SHA-256 of its authority's certificate.
        last: the study's newest message; its run's bytes count, and the round after it is shown.
        end: where the audit log's end is noted; None where it is not.

    Raises:
        DataError: if the exams cannot be used.
        SiteError: if the site's settings cannot.
    """
    site = site_of(node_config)
    egress = Egress(site.private, policy, site.name, end=end)
    round = 1 if last is None else last.round + 1

    def foreseen(
        message: str,
        content: RecordDict,
        behind: Mapping[str, int] | None = None,
        later: frozenset[str] = frozenset(),
    ) -> Foreseen:
        leaving = Leaving(
            message=message,
            study=study,
            preset=settings.preset,
            coordinator=coordinator,
            overrides=to_run_config(settings, study)["overrides"],
            run_id=None if last is None else last.run_id,
            round=0 if message == HELLO_MESSAGE else round,
            behind=behind,
            agreed=agreed_shapes(content),
        )
        leaving, _, _ = egress.plainly(leaving, content)
        return Foreseen(
            message=message,
            round=leaving.round,
            reading=leaving.reading,
            behind=behind,
            later=later,
            broken=egress.foresee(leaving),
        )

    hello = foreseen(HELLO_MESSAGE, _hello(settings, node_config, study))
    if REFUSED in hello.reading.records:
        return (hello,)
    content, behind, later = _training_reply(settings, node_config, round)
    return hello, foreseen(TRAIN_MESSAGE, content, behind, later)


def uncached_weights(settings: Settings) -> tuple[str, ...]:
    """Frozen encoders of a study that the hub's cache on this machine does not hold; the hub is not asked."""
    model, builtin = settings.model, (BUILTIN_FILTERS, BUILTIN_GERMAN)
    names = (model.vision.weights, model.fusion.language_model or model.text.weights)
    return tuple(name for name in names if name not in builtin and not _cached(name))


def _cached(name: str) -> bool:
    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:  # no name of the hub's
        return False


def shared_tensors(settings: Settings) -> dict[str, tuple[int, ...]]:
    """Name to shape of each tensor that a training reply holds."""
    with torch.device("meta"):
        return shared_spec(build_model(settings))


def _hello(settings: Settings, node_config: Mapping[str, str], study: str) -> RecordDict:
    """The app's own answer. It does not wait for a training that goes on."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, _PREVIEW_RUN, _PREVIEW_NODE
    patience = dataclasses.replace(settings.federation, round_timeout_s=_WAIT_S)
    context = Context(
        run_id=_PREVIEW_RUN,
        node_id=_PREVIEW_NODE,
        node_config=dict(node_config),
        state=RecordDict(),
        run_config=dict(to_run_config(dataclasses.replace(settings, federation=patience), study)),
    )
    message = Message(RecordDict(), dst_node_id=_PREVIEW_NODE, message_type=HELLO_MESSAGE)
    message.metadata.__dict__["_message_id"] = str(uuid4())  # Flower's link gives one to each message
    return app(message, context).content


def _training_reply(
    settings: Settings, node_config: Mapping[str, str], round: int
) -> tuple[RecordDict, dict[str, int], frozenset[str]]:
    """Zeros in the shape of what leaves, the numbers that are known before, and what is behind them."""
    exams, _ = exams_of(site_of(node_config), settings)
    rng = np.random.default_rng(round_seed(settings.seed, exams.site, round))
    plans = list(plan_round(exams, settings.training, exams.kept.index.num_views, rng))
    facts = behind_update(plans, exams.reports, settings.training, (round - 1) * len(plans))
    known = {"num-examples": len(trainable(exams)), "num-steps": len(plans)}
    payload = np.dtype(settings.federation.payload)
    arrays = {name: Array(np.zeros(shape, payload)) for name, shape in shared_tensors(settings).items()}
    metrics = MetricRecord({name: known.get(name, 0.0) for name in TRAIN_METRICS})
    behind = {
        "num-exams": facts.num_exams,
        "num-tokens": facts.num_tokens,
        "num-batch-tokens": facts.num_batch_tokens,
        "num-steps": facts.num_steps,
    }
    later = frozenset(TRAIN_METRICS) - set(known)
    return RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), behind, later
