"""A study from the first exchange to the summary, and on from wherever its last process died."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from climb_model.checkpoints import Checkpoint, newest_checkpoint, save_checkpoint
from climb_model.evaluation.labelled import LabelledExams
from climb_model.lock import only_process
from climb_model.made_by import library_versions, program_version
from climb_model.model.climb import build_model
from climb_model.progress import observer
from climb_model.randomness import derived_seed, own_random_states
from climb_model.report.card_data import counted
from climb_model.runs import RoundRecord, RunError, RunFolder, SiteRound
from climb_model.scalars import ScalarBoard
from climb_model.sharing import load_shared, shared_spec, shared_state
from configs.load import settings_hash
from configs.schema import Settings
from server.admission import Admission, Terms
from server.central import open_central
from server.hello import first_exchange
from server.newcomers import Newcomers
from server.place import LOCK, ServerPlace
from server.summary import finish
from strategies.checked_grid import CheckedGrid, TooFewReplies, Traffic, late_sites, told
from strategies.checks import Limits
from strategies.deadline import Deadlines
from strategies.fedavg import StreamingFedAvg
from strategies.moments import read_moments, write_moments

LOCK_S = 30.0
"""Seconds that a server which is just being stopped has to leave the run folder."""

GLOBAL_STEP = "global-step"
"""Key of the training message's settings, beside Flower's `server-round`."""


MEAN_AUC = "mean-auc"
EvaluateFn = Callable[[int, ArrayRecord], MetricRecord]


@dataclass(frozen=True)
class State:
    """What a round starts from and leaves."""

    round: int
    global_step: int
    shared: dict[str, Tensor]
    history: tuple[RoundRecord, ...]


@dataclass(frozen=True)
class News:
    """What the history's next line tells of sites that it has not told yet."""

    rejected: tuple[dict[str, str], ...] = ()
    notices: tuple[str, ...] = ()

    def and_of(self, joined: Admission) -> News:
        """This and what is known of newcomers."""
        came = tuple(f"site '{site}' joined" for site in sorted(joined.sites.values()))
        return News(self.rejected + _told(joined), self.notices + came + joined.warnings)


def run_study(
    grid: Grid, study: str, settings: Settings, place: ServerPlace, strategy: Strategy | None = None
) -> dict[str, object]:
    """Run all rounds that are not yet on disk and write the summary.

    Args:
        strategy: any of Flower's; None is federated averaging with flat memory.

    Returns:
        The content of `summary.json`.

    Raises:
        RunError: if the run folder belongs to another study or other settings, or no site connects.
        TooFewReplies: if a round had fewer sound replies than `federation.min_sites`. The last
            checkpoint is kept, and the run can go on from it.
        DataError: if the server's own exams cannot be used.
        LockedError: if another process runs this study.
    """
    run = RunFolder.open(place.run)
    with only_process(run.path / LOCK, what=f"runs the study in {run.path}", wait_s=LOCK_S):
        return _run_locked(grid, run, study, settings, place, strategy)


def _run_locked(
    grid: Grid,
    run: RunFolder,
    study: str,
    settings: Settings,
    place: ServerPlace,
    strategy: Strategy | None,
) -> dict[str, object]:
    _check_same("run folder", run.study, settings_hash(run.settings), study, settings)
    checkpoint = newest_checkpoint(run.checkpoints)
    if checkpoint is not None:
        _check_same("checkpoint", checkpoint.study, checkpoint.settings, study, settings)
        run.write_history(checkpoint.history)
    central = open_central(run, place.data, place.weights)
    if checkpoint is not None and checkpoint.round >= settings.federation.num_rounds:
        return finish(run, central, checkpoint, data=place.data, engine=place.engine)
    terms = _terms(central, place)
    admission = _admit(grid, central, place, terms)
    observer().started(settings, admission.exams)
    evaluate_fn = make_evaluate_fn(central)
    if checkpoint is None:
        state = _before_training(central, evaluate_fn, admission)
        checkpoint = _save(run, state, admission, {})
        observer().round_done(state.history[-1])
    state = State(checkpoint.round, checkpoint.global_step, checkpoint.shared, checkpoint.history)
    news = _new_in(admission, state.history[0])
    strategy = strategy or StreamingFedAvg(settings.federation.min_sites)
    write_moments(strategy, checkpoint.server)
    checked = _checked(grid, admission, settings, state.history)
    newcomers = Newcomers(grid, terms, settings.federation.max_exams, admission.refused)
    with ScalarBoard(run.path / "tensorboard", state.history) as board:
        while state.round < settings.federation.num_rounds:
            joined = newcomers.look(checked.sites)
            checked.admit(joined.sites)
            admission, news = admission.joined_by(joined), news.and_of(joined)
            state = _train(checked, strategy, state, settings, evaluate_fn, news)
            news = News()
            checkpoint = _save(run, state, admission, read_moments(strategy))
            board.add(state.history[-1])
            observer().round_done(state.history[-1])
    return finish(run, central, checkpoint, data=place.data, engine=place.engine)


def make_evaluate_fn(central: LabelledExams) -> EvaluateFn:
    """Flower's `evaluate_fn(round, arrays)`: the defined AUCs by finding, and their mean as `MEAN_AUC`."""
    model = build_model(central.settings, central.frozen.language_model)
    names = shared_spec(model)

    def evaluate_fn(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        load_shared(model, _to_tensors(arrays, names), sender=f"the mean of round {server_round}")
        mean, aucs = central.aucs(model)
        defined = {finding: value for finding, value in aucs.items() if value is not None}
        return MetricRecord({**defined, **({} if mean is None else {MEAN_AUC: mean})})

    return evaluate_fn


def next_global_step(global_step: int, traffic: Traffic) -> int:
    """The study's step after a round: plus the mean of the sites' steps, weighted by exams, rounded."""
    exams = sum(facts.exams for facts in traffic.facts.values())
    steps = sum(facts.exams * facts.steps for facts in traffic.facts.values())
    return global_step + round(steps / exams)


def _terms(central: LabelledExams, place: ServerPlace) -> Terms:
    return Terms(
        version=program_version(),
        versions=library_versions(),
        fingerprint=central.frozen.fingerprint,
        settings=settings_hash(central.settings),
        members=place.members,
    )


def _admit(grid: Grid, central: LabelledExams, place: ServerPlace, terms: Terms) -> Admission:
    settings = central.settings
    admission = first_exchange(
        grid,
        terms,
        num_sites=place.num_sites or settings.federation.min_sites,
        max_exams=settings.federation.max_exams,
        wait_s=place.wait_s,
        timeout_s=settings.federation.round_timeout_s,
    )
    if len(admission.sites) < settings.federation.min_sites:
        raise TooFewReplies(
            f"{counted(len(admission.sites), 'site')} can take part, {settings.federation.min_sites} needed "
            f"(federation.min_sites){told(admission.rejected)}"
        )
    return admission


def _new_in(admission: Admission, first: RoundRecord) -> News:
    """What round 0 does not tell, of a study that goes on."""
    return News(
        tuple(entry for entry in _told(admission) if entry not in first.rejected),
        tuple(line for line in admission.warnings if line not in first.notices),
    )


def _checked(
    grid: Grid, admission: Admission, settings: Settings, history: Sequence[RoundRecord]
) -> CheckedGrid:
    federation = settings.federation
    last = history[-1]
    taken = {name: site.wall_s for record in history for name, site in record.sites.items()}
    return CheckedGrid(
        grid,
        admission.sites,
        Limits(federation.max_exams, federation.max_update_norm, federation.payload),
        federation.min_sites,
        patience_s=federation.round_timeout_s,
        deadlines=Deadlines(
            most_s=federation.round_timeout_s,
            factor=federation.deadline_factor,
            least_s=federation.min_deadline_s,
            taken={name: wall_s for name, wall_s in taken.items() if wall_s is not None},
        ),
        late=late_sites(last.round, last.rejected, last.deadline_s),
    )


def _before_training(central: LabelledExams, evaluate_fn: EvaluateFn, admission: Admission) -> State:
    start = time.monotonic()
    shared = shared_state(build_model(central.settings, central.frozen.language_model))
    mean, aucs = _evaluate(evaluate_fn, central.settings, 0, _to_record(shared))
    record = RoundRecord(
        round=0,
        seconds=time.monotonic() - start,
        global_step=0,
        mean_auc=mean,
        auc=aucs,
        rejected=_told(admission),
        notices=admission.warnings,
    )
    return State(0, 0, shared, (record,))


def _train(
    grid: CheckedGrid,
    strategy: Strategy,
    state: State,
    settings: Settings,
    evaluate_fn: EvaluateFn,
    news: News,
) -> State:
    """One round: send, check, average, evaluate."""
    start, number = time.monotonic(), state.round + 1
    config = ConfigRecord({GLOBAL_STEP: state.global_step})
    with own_random_states(derived_seed(settings.seed, "server", number)):
        messages = strategy.configure_train(number, _to_record(state.shared), config, grid)
        replies = grid.send_and_receive(messages, timeout=settings.federation.round_timeout_s)
        del messages
        arrays, _ = strategy.aggregate_train(number, replies)
    if arrays is None:
        raise TooFewReplies(f"round {number} was not averaged: the strategy gave no weights")
    shared = _to_tensors(arrays, state.shared)
    global_step = next_global_step(state.global_step, grid.traffic)
    mean, aucs = _evaluate(evaluate_fn, settings, number, arrays)
    record = RoundRecord(
        round=number,
        seconds=time.monotonic() - start,
        global_step=global_step,
        sites=_site_rounds(grid.traffic),
        mean_auc=mean,
        auc=aucs,
        rejected=news.rejected
        + tuple({"site": entry.site, "reason": entry.reason} for entry in grid.traffic.rejected),
        deadline_s=grid.traffic.deadline_s,
        notices=news.notices + tuple(grid.traffic.notices),
    )
    return State(number, global_step, shared, (*state.history, record))


def _evaluate(
    evaluate_fn: EvaluateFn, settings: Settings, number: int, arrays: ArrayRecord
) -> tuple[float | None, dict[str, float | None]]:
    metrics = dict(evaluate_fn(number, arrays))
    values = {finding: metrics.get(finding) for finding in settings.evaluation.findings}
    return _number(metrics.get(MEAN_AUC)), {finding: _number(value) for finding, value in values.items()}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _save(run: RunFolder, state: State, admission: Admission, moments: dict[str, Tensor]) -> Checkpoint:
    """Checkpoint first: whatever else a kill prevents is made again from it."""
    checkpoint = Checkpoint(
        study=run.study,
        settings=settings_hash(run.settings),
        round=state.round,
        global_step=state.global_step,
        exams=admission.exams,
        notices=admission.notices,
        handshake=admission.handshake,
        history=state.history,
        shared=state.shared,
        server=moments,
    )
    save_checkpoint(run.checkpoints, checkpoint)
    run.write_history(state.history)
    return checkpoint


def _check_same(what: str, its_study: str, its_settings: str, study: str, settings: Settings) -> None:
    if its_study != study:
        raise RunError(f"the {what} belongs to study '{its_study}', not to '{study}'")
    if its_settings != settings_hash(settings):
        raise RunError(
            f"the {what} of study '{study}' has settings {its_settings}, the server now has "
            f"{settings_hash(settings)}"
        )


def _site_rounds(traffic: Traffic) -> dict[str, SiteRound]:
    return {
        site: SiteRound(
            exams=facts.exams,
            steps=facts.steps,
            loss=facts.loss,
            seconds=facts.seconds,
            bytes_up=traffic.bytes_up[site],
            bytes_down=traffic.bytes_down[site],
            wall_s=traffic.wall_s.get(site),
        )
        for site, facts in traffic.facts.items()
    }


def _told(admission: Admission) -> tuple[dict[str, str], ...]:
    return tuple({"site": entry.site, "reason": entry.reason} for entry in admission.rejected)


def _to_record(tensors: dict[str, Tensor]) -> ArrayRecord:
    return ArrayRecord({name: Array(value.numpy()) for name, value in tensors.items()})


def _to_tensors(arrays: ArrayRecord, names: Iterable[str]) -> dict[str, Tensor]:
    """The strategy's result; some of Flower's strategies give float64."""
    return {name: torch.from_numpy(np.array(arrays[name].numpy(), dtype=np.float32)) for name in names}
