"""A round of local training: its schedule, its numbers' origin, and when it stops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from climb_model.data.exam import DataError
from climb_model.model.climb import ClimbModel, ImageTokens, build_model
from climb_model.model.text import ReportEncoder, load_text
from climb_model.prepare import ExamSet
from climb_model.sharing import shared_state
from climb_model.training.batches import choose_text, plan_round, round_seed
from climb_model.training.memory import largest_batch
from climb_model.training.schedule import learning_rate
from climb_model.training.step import Objectives
from climb_model.training.trainer import (
    TrainingError,
    TrainReport,
    make_optimizer,
    perturb,
    rehearse,
    train_round,
)
from configs.load import load_settings
from configs.schema import Settings, TrainingConfig

MakeExams = Callable[..., ExamSet]
CLIMB = load_settings("climb").training


def debug(*overrides: str) -> Settings:
    return load_settings("debug", ["training.num_threads=1", *overrides])


def planning(**values: Any) -> TrainingConfig:
    return TrainingConfig(**{"batch_size": 4, **values})


@pytest.fixture(scope="module")
def reports() -> ReportEncoder:
    return load_text(debug().model.text, None)


def train(
    exams: ExamSet,
    reports: ReportEncoder,
    settings: Settings,
    *,
    rounds: Sequence[int] = (1,),
    first_step: int = 0,
) -> tuple[ClimbModel, list[TrainReport], list[float]]:
    """Rounds from the untrained model: the model, each round's report, and the loss of every step."""
    model, state, step = build_model(settings), None, first_step
    told: list[TrainReport] = []
    losses: list[float] = []
    for number in rounds:
        report, state = train_round(
            model,
            state,
            exams,
            reports,
            settings,
            round=number,
            global_step=step,
            on_step=lambda _, __, loss: losses.append(loss),
        )
        told.append(report)
        step += report.num_steps
    return model, told, losses


def equal(first: ClimbModel, second: ClimbModel) -> bool:
    one, two = shared_state(first), shared_state(second)
    return all(torch.equal(one[name], two[name]) for name in one)


# ---- schedule


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 1e-7), (500, (1e-7 + 5e-4) / 2), (999, 1e-7 + 0.999 * (5e-4 - 1e-7)), (1000, 5e-4), (123_456, 5e-4)],
)
def test_learning_rate_warms_up_over_1000_steps_and_stays(step: int, rate: float) -> None:
    assert learning_rate(CLIMB, step) == pytest.approx(rate, rel=1e-12)


def test_without_warm_up_the_rate_is_full_from_the_start() -> None:
    assert learning_rate(planning(warmup_steps=0), 0) == 5e-4


def test_the_step_count_runs_on_across_rounds(
    make_exams: MakeExams, reports: ReportEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schedule that restarts every round would never leave warm-up."""
    rates: list[tuple[float, ...]] = []
    original = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        rates.append(tuple(group["lr"] for group in self.param_groups))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    settings = debug("training.warmup_steps=6", "training.steps_per_round=4")
    train(make_exams(8), reports, settings, rounds=(1, 2, 3))
    assert len(rates) == 12
    for step, both in enumerate(rates):
        expected = 1e-7 + min(step / 6, 1.0) * (5e-4 - 1e-7)
        assert both == pytest.approx((expected, expected), rel=1e-9)


# ---- optimizer


def test_norms_positions_class_token_and_temperature_do_not_decay() -> None:
    model = build_model(debug())
    decayed, free = make_optimizer(model, CLIMB).param_groups
    name_of = {id(value): name for name, value in model.named_parameters()}
    names = {name_of[id(value)] for value in free["params"]}
    assert {"slice_positions.weight", "fusion.class_token", "log_scale"} < names
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)
    norms = {
        name for name, value in model.named_parameters() if value.ndim == 1 and name != "fusion.class_token"
    }
    assert norms
    assert names == norms | {"slice_positions.weight", "fusion.class_token", "log_scale"}
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))
    assert {name_of[id(value)] for value in decayed["params"]} >= {
        "text_projection.weight",
        "fusion.projection.weight",
    }


def test_the_generators_start_tokens_and_norms_do_not_decay_and_their_matrices_do() -> None:
    model = build_model(debug("objectives.coca=1", "objectives.inverse_coca=1"))
    decayed, free = make_optimizer(model, CLIMB).param_groups
    name_of = {id(value): name for name, value in model.named_parameters()}
    kept = {name_of[id(value)] for value in free["params"] if "generator" in name_of[id(value)]}
    assert {"report_generator.start", "slice_generator.start"} < kept
    assert all(name.endswith(("start", "gamma")) for name in kept)
    rest = {name_of[id(value)] for value in decayed["params"]}
    assert {"report_generator.embed.weight", "report_generator.head.weight"} < rest
    assert kept | rest | {name_of[id(value)] for value in free["params"]} == set(name_of.values())


def test_the_optimizers_moments_go_on_into_the_next_round(
    make_exams: MakeExams, reports: ReportEncoder
) -> None:
    settings, exams = debug(), make_exams(8)
    carried, _, _ = train(exams, reports, settings, rounds=(1, 2))
    afresh = build_model(settings)
    for number, step in ((1, 0), (2, 2)):
        train_round(afresh, None, exams, reports, settings, round=number, global_step=step)
    assert not equal(carried, afresh)


# ---- randomness


def test_the_same_call_gives_the_same_bits(make_exams: MakeExams, reports: ReportEncoder) -> None:
    settings = debug(
        "training.token_noise=0.3",
        "training.slice_dropout=0.3",
        "model.fusion.dropout=0.2",
        "training.report_sentences=2",
        "training.texts_per_exam=2",
    )
    exams = make_exams(10, num_views=3)
    first, told, losses = train(exams, reports, settings, rounds=(1, 2))
    torch.manual_seed(123)
    np.random.seed(5)
    state = torch.get_rng_state()
    second, again, same_losses = train(exams, reports, settings, rounds=(1, 2))
    assert torch.equal(torch.get_rng_state(), state)  # and leaves the process's own numbers alone
    assert equal(first, second)
    assert losses == same_losses
    assert [report.loss for report in told] == [report.loss for report in again]


@pytest.mark.parametrize(
    "override",
    [
        "training.token_noise=0.3",
        "training.slice_dropout=0.3",
        "model.fusion.dropout=0.2",
        "training.report_sentences=1",
        "seed=1",
    ],
)
def test_every_random_setting_changes_the_training(
    make_exams: MakeExams, reports: ReportEncoder, override: str
) -> None:
    exams = make_exams(10)
    _, _, plain = train(exams, reports, debug())
    _, _, changed = train(exams, reports, debug(override))
    assert plain != changed


def test_rounds_and_sites_draw_differently() -> None:
    seeds = {round_seed(0, "A", 1), round_seed(0, "A", 2), round_seed(0, "B", 1), round_seed(1, "A", 1)}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_round_lowers_the_loss(make_exams: MakeExams, reports: ReportEncoder) -> None:
    settings = debug("training.steps_per_round=40", "training.learning_rate=3.0e-3", "training.batch_size=8")
    _, _, losses = train(make_exams(8), reports, settings)
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


# ---- batches


def test_a_pass_takes_every_exam_once(make_exams: MakeExams) -> None:
    exams = make_exams(12)
    plans = list(plan_round(exams, planning(steps_per_round=0), 1, np.random.default_rng(0)))
    assert [len(plan.exams) for plan in plans] == [4, 4, 4]
    assert sorted(np.concatenate([plan.exams for plan in plans])) == list(range(12))


def test_more_steps_than_a_pass_shuffle_anew(make_exams: MakeExams) -> None:
    plans = list(plan_round(make_exams(8), planning(steps_per_round=6), 1, np.random.default_rng(0)))
    passes = [np.concatenate([plans[i].exams, plans[i + 1].exams]) for i in (0, 2, 4)]
    assert all(sorted(rows) == list(range(8)) for rows in passes)
    assert not np.array_equal(passes[0], passes[1])


def test_views_are_drawn_from_all_that_are_kept(make_exams: MakeExams) -> None:
    plans = list(plan_round(make_exams(8), planning(steps_per_round=10), 3, np.random.default_rng(0)))
    assert {int(view) for plan in plans for view in plan.views} == {0, 1, 2}


def test_a_site_with_fewer_exams_than_a_batch_trains_with_all_it_has(
    make_exams: MakeExams, reports: ReportEncoder
) -> None:
    exams = make_exams(3)
    plans = list(plan_round(exams, planning(batch_size=32), 1, np.random.default_rng(0)))
    assert [sorted(plan.exams) for plan in plans] == [[0, 1, 2]]
    _, (report,), losses = train(exams, reports, debug("training.batch_size=32"))
    assert report.num_exams == 3
    assert report.num_steps == len(losses) == 2
    assert math.isfinite(report.loss)


def test_exams_without_a_report_are_not_trained_on(make_exams: MakeExams) -> None:
    sentences = tuple(((number + 10,),) if number % 2 == 0 else () for number in range(12))
    exams = make_exams(12, reports=sentences)
    plans = list(plan_round(exams, planning(batch_size=3), 1, np.random.default_rng(0)))
    assert {int(row) for plan in plans for row in plan.exams} == {0, 2, 4, 6, 8, 10}


def test_a_batch_never_holds_one_patient_only(make_exams: MakeExams) -> None:
    exams = make_exams(6)
    plans = list(plan_round(exams, planning(batch_size=2, steps_per_round=60), 1, np.random.default_rng(0)))
    assert len(plans) == 60
    assert all(len({exams.patients[row] for row in plan.exams}) == 2 for plan in plans)


@pytest.mark.parametrize("without_report", [False, True])
def test_one_patient_is_refused(make_exams: MakeExams, reports: ReportEncoder, without_report: bool) -> None:
    patients = ("P1", "P1", "P2") if without_report else ("P1", "P1", "P1")
    sentences = (((1,),), ((2,),), ()) if without_report else (((1,),), ((2,),), ((3,),))
    exams = make_exams(3, patients=patients, reports=sentences)
    with pytest.raises(DataError, match="site 'A': 2 patients or more with a report wanted, got 1"):
        train(exams, reports, debug())


def test_a_whole_report_is_taken_where_none_are_drawn() -> None:
    report = ((1, 2), (3,), (4, 5, 6))
    assert choose_text(report, 0, np.random.default_rng(0)) == report
    assert choose_text(report[:1], 2, np.random.default_rng(0)) == report[:1]


def test_drawn_sentences_are_as_many_as_the_settings_allow_and_in_order() -> None:
    report = tuple((number,) for number in range(5))
    rng = np.random.default_rng(0)
    drawn = [choose_text(report, 3, rng) for _ in range(300)]
    assert {len(text) for text in drawn} == {1, 2, 3}
    assert all(list(text) == sorted(set(text)) for text in drawn)
    assert {sentence for text in drawn for sentence in text} == set(report)
    assert {len(choose_text(report, 9, rng)) for _ in range(200)} == {1, 2, 3, 4, 5}


def test_several_drawings_meet_the_same_images(make_exams: MakeExams) -> None:
    exams = make_exams(8)
    config = planning(report_sentences=1, texts_per_exam=4)
    for plan in plan_round(exams, config, 1, np.random.default_rng(0)):
        assert len(plan.texts) == len(set(plan.texts)) > len(plan.exams)
        held = [set(exams.reports[row]) for row in plan.exams]
        assert all(any(set(text) <= report for report in held) for text in plan.texts)
        assert all(any(set(text) <= report for text in plan.texts) for report in held)


# ---- perturbation


def image_tokens() -> ImageTokens:
    tokens = 3.0 * torch.randn(40, 12, 64, generator=torch.Generator().manual_seed(1))
    present = torch.ones(40, 12, dtype=torch.bool)
    present[:, 8:] = False
    return ImageTokens(tokens, present)


def test_noise_is_in_units_of_the_tokens_own_spread() -> None:
    image = image_tokens()
    made = perturb(image, planning(token_noise=0.3), torch.Generator().manual_seed(0))
    assert (made.tokens - image.tokens)[image.present].std().item() == pytest.approx(0.9, rel=0.05)
    assert torch.equal(made.present, image.present)
    again = perturb(image, planning(token_noise=0.3), torch.Generator().manual_seed(0))
    assert torch.equal(made.tokens, again.tokens)


def test_slices_are_hidden_at_the_rate_of_the_settings_and_never_shown() -> None:
    image = image_tokens()
    made = perturb(image, planning(slice_dropout=0.3), torch.Generator().manual_seed(0))
    assert not (made.present & ~image.present).any()
    assert made.present.sum().item() / image.present.sum().item() == pytest.approx(0.7, abs=0.08)
    assert torch.equal(made.tokens, image.tokens)


def test_an_exam_never_loses_all_its_slices() -> None:
    image = image_tokens()
    made = perturb(image, planning(slice_dropout=0.95), torch.Generator().manual_seed(0))
    assert made.present.any(dim=1).all()


def test_without_perturbation_the_batch_is_untouched() -> None:
    image = image_tokens()
    made = perturb(image, planning(), torch.Generator().manual_seed(0))
    assert made.tokens is image.tokens
    assert made.present is image.present


# ---- when it stops


def test_a_loss_that_is_not_finite_stops_with_site_round_and_step(
    make_exams: MakeExams, reports: ReportEncoder
) -> None:
    exams = make_exams(8, site="Nord")
    exams.kept.tokens[:] = np.nan
    with pytest.raises(TrainingError, match=r"site 'Nord': loss nan .* at round 3, step 1;") as caught:
        train(exams, reports, debug(), rounds=(3,))
    assert "\n" not in str(caught.value)


def test_a_gradient_that_is_not_finite_stops_although_the_loss_is(
    make_exams: MakeExams, reports: ReportEncoder
) -> None:
    settings = debug()
    model = build_model(settings)
    model.text_projection.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(TrainingError, match=r"loss \d\.\d+ and gradient norm (nan|inf) at round 1, step 1"):
        train_round(model, None, make_exams(8), reports, settings, round=1, global_step=0)


def test_the_temperature_is_kept_in_range_after_every_step(
    make_exams: MakeExams, reports: ReportEncoder
) -> None:
    settings = debug(
        "training.learning_rate=1.0e-2", "training.warmup_steps=0", "training.steps_per_round=10"
    )
    model = build_model(settings)
    with torch.no_grad():
        model.log_scale.fill_(math.log(100.0))
    seen: list[float] = []
    train_round(
        model,
        None,
        make_exams(8),
        reports,
        settings,
        round=1,
        global_step=0,
        on_step=lambda *_: seen.append(model.log_scale.item()),
    )
    assert len(seen) == 10
    assert all(0.0 <= value <= math.log(100.0) + 1e-6 for value in seen)


def test_bfloat16_training_is_close_to_float32(make_exams: MakeExams, reports: ReportEncoder) -> None:
    exams = make_exams(8)
    _, (full,), _ = train(exams, reports, debug())
    model, (half,), _ = train(exams, reports, debug("training.precision=bfloat16"))
    assert half.loss == pytest.approx(full.loss, abs=0.05)
    assert half.loss != full.loss
    assert all(value.dtype == torch.float32 for value in model.parameters())


# ---- memory

FULL = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
]


ADVICE = (
    "set training.chunk_size=1 (in a federation the site's own chunk-size=1): "
    "the same gradients in about a quarter of it"
)


@pytest.mark.parametrize("error", FULL, ids=["gpu", "cpu"])
@pytest.mark.parametrize(
    ("chunk_size", "told"),
    [
        (0, f"4 of 4 exams at once; {ADVICE}"),
        (2, f"2 of 4 exams at once; {ADVICE}"),
        (1, "1 of 4 exams at once; one exam at a time is too much for it"),
    ],
)
def test_memory_that_runs_out_is_told_with_what_to_do(
    error: RuntimeError,
    chunk_size: int,
    told: str,
    make_exams: MakeExams,
    reports: ReportEncoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ClimbModel, "embed_image", fail)
    monkeypatch.setattr(ClimbModel, "embed_report", fail)
    with pytest.raises(TrainingError) as caught:
        train(make_exams(8), reports, debug(f"training.chunk_size={chunk_size}"))
    assert str(caught.value).startswith(f"site 'A': memory ran out with {told}")


def test_another_fault_is_not_taken_for_memory(
    make_exams: MakeExams, reports: ReportEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(ClimbModel, "embed_image", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train(make_exams(8), reports, debug())


def test_the_rehearsal_takes_the_longest_reports_and_leaves_nothing_behind(
    make_exams: MakeExams, reports: ReportEncoder
) -> None:
    told = tuple(tuple(range(10, 10 + length)) for length in (3, 9, 1, 7, 2, 8, 4, 6))
    exams = make_exams(8, reports=tuple((text,) for text in told))
    settings = debug("objectives.coca=1", "objectives.inverse_coca=1")
    assert largest_batch(exams, settings.training).exams.tolist() == [1, 5, 3, 7]
    model = build_model(settings)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    rehearse(Objectives(model, reports, settings), exams, settings)
    assert all(value.grad is None for value in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())


def test_what_lies_behind_an_update_is_counted_over_different_exams(
    make_exams: MakeExams, reports: ReportEncoder
) -> None:
    """Exams that come twice in a round, and exams that do not come at all, are not counted for more."""
    exams = make_exams(8)
    tokens = [sum(len(sentence) for sentence in report) for report in exams.reports]
    few = debug("training.batch_size=2", "training.steps_per_round=1")
    _, [report], _ = train(exams, reports, few)
    pairs = {a + b for i, a in enumerate(tokens) for b in tokens[i + 1 :]}
    assert report.behind.num_exams == 2
    assert report.behind.num_tokens == report.behind.num_batch_tokens
    assert report.behind.num_tokens in pairs
    _, [report], _ = train(exams, reports, debug("training.batch_size=2", "training.steps_per_round=40"))
    with_report = [count for count in tokens if count]
    assert (report.behind.num_exams, report.behind.num_tokens) == (len(with_report), sum(with_report))
    assert report.behind.num_batch_tokens == min(pairs)  # of equally long reports
    assert (report.num_steps, report.behind.num_steps) == (40, 39)  # the first of the warm-up is next to none
