"""One hospital, several devices: the same training."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from climb_model.data.store import MAGIC, StoreIndex, map_store
from climb_model.model.climb import build_model
from climb_model.model.language_model import load_language_model
from climb_model.model.text import load_text, word_table_of
from climb_model.prepare import ExamSet
from climb_model.training.devices import DeviceError, parse_devices, train_on
from climb_model.training.errors import TrainingError
from configs.load import load_settings

CPU = torch.device("cpu")
MakeExams = Callable[..., ExamSet]


def test_auto_is_the_cpu_of_a_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert parse_devices("auto") == (CPU,)


def test_auto_is_the_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert parse_devices("auto") == (torch.device("cuda:0"),)


def test_devices_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert parse_devices("cuda:0, cuda:1") == (torch.device("cuda:0"), torch.device("cuda:1"))
    assert parse_devices("cpu,cpu") == (CPU, CPU)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("cuda:2", "device 'cuda:2' is wanted, this machine has 2 GPUs"),
        ("cuda:0,cuda:0", "devices must name each once, got 'cuda:0,cuda:0'"),
        ("cuda,cuda:0", "devices must name each once, got 'cuda,cuda:0'"),
        ("cpu,cuda:0", "devices must be all GPUs or all CPUs, got 'cpu,cuda:0'"),
        ("gpu", "devices must be 'auto', 'cpu' or such as 'cuda:0,cuda:1', got 'gpu'"),
        ("", "devices must be 'auto', 'cpu' or such as 'cuda:0,cuda:1', got ''"),
    ],
)
def test_other_devices_get_one_line(text: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(DeviceError) as caught:
        parse_devices(text)
    assert str(caught.value) == line


def test_two_processes_train_as_one(make_exams: MakeExams) -> None:
    settings = load_settings(
        "debug", ["training.num_threads=1", "objectives.coca=1", "objectives.inverse_coca=1"]
    )
    reports, exams = load_text(settings.model.text, None), make_exams(8)
    ends, told = [], []
    for devices in ((CPU,), (CPU, CPU)):
        model = build_model(settings)
        seen: list[tuple[int, int, float]] = []
        report, state = train_on(
            devices,
            model,
            None,
            exams,
            reports,
            settings,
            round=1,
            global_step=0,
            on_step=lambda *step, seen=seen: seen.append(step),
        )
        assert [step[:2] for step in seen] == [(1, 2), (2, 2)]
        assert state["state"]
        ends.append(model.state_dict())
        told.append(report)
    assert told[0].loss == pytest.approx(told[1].loss, rel=1e-5)
    assert told[0].losses == pytest.approx(told[1].losses, rel=1e-5)
    start = build_model(settings).state_dict()
    moved = sum(float((ends[0][name] - start[name]).norm() ** 2) for name in start) ** 0.5
    apart = sum(float((ends[0][name] - ends[1][name]).norm() ** 2) for name in start) ** 0.5
    assert moved > 0
    assert apart <= 0.01 * moved


def test_two_processes_share_a_frozen_language_model(make_exams: MakeExams, language_models: Path) -> None:
    settings = load_settings(
        "debug",
        [
            "training.num_threads=1",
            "model.fusion.language_model=tiny-llama",
            "model.text.weights=tiny-llama",
            "model.text.width=32",
            "objectives.coca=1",
            "objectives.inverse_coca=1",
        ],
    )
    frozen = load_language_model("tiny-llama", language_models, width=32, whole=True)
    reports, exams = word_table_of(frozen, settings.model.text), make_exams(8)
    losses: list[float] = []
    for devices in ((CPU,), (CPU, CPU)):
        model = build_model(settings, frozen)
        report, _ = train_on(devices, model, None, exams, reports, settings, round=1, global_step=0)
        losses.append(report.loss)
        start = dict(build_model(settings, frozen).named_parameters())
        assert not [name for name, value in model.named_parameters() if torch.equal(value, start[name])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_what_is_kept_on_a_gpu_is_given_back_before_processes_start(
    make_exams: MakeExams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site's share of GPU memory holds for each process."""

    class Started(Exception):
        pass

    def start(*_: object) -> None:
        raise Started

    given_back: list[bool] = []
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: given_back.append(True))
    monkeypatch.setattr("climb_model.training.devices._run_processes", start)
    settings = load_settings("debug")
    reports = load_text(settings.model.text, None)
    with pytest.raises(Started):
        train_on(
            (CPU, CPU), build_model(settings), None, make_exams(8), reports, settings, round=1, global_step=0
        )
    assert given_back == [True]


def test_a_batch_smaller_than_the_devices_is_refused(make_exams: MakeExams) -> None:
    settings = load_settings("debug", ["training.batch_size=2"])
    with pytest.raises(TrainingError, match="site 'A': a batch of 2 exams cannot be shared by 3 devices"):
        train_on(
            (CPU,) * 3,
            build_model(settings),
            None,
            make_exams(8),
            load_text(settings.model.text, None),
            settings,
            round=1,
            global_step=0,
        )


def test_exams_without_a_report_do_not_count_for_the_devices(make_exams: MakeExams) -> None:
    settings = load_settings("debug", ["training.batch_size=4"])
    sentences = (((10,),), (), ((11,),), (), (), ())
    with pytest.raises(TrainingError, match="site 'A': a batch of 2 exams cannot be shared by 3 devices"):
        train_on(
            (CPU,) * 3,
            build_model(settings),
            None,
            make_exams(6, reports=sentences),
            load_text(settings.model.text, None),
            settings,
            round=1,
            global_step=0,
        )


def test_a_fault_in_one_process_comes_back_as_its_line(make_exams: MakeExams) -> None:
    settings = load_settings("debug", ["training.num_threads=1"])
    model = build_model(settings)
    with torch.no_grad():
        model.log_scale.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"site 'A': loss nan .* at round 1, step 1; wanted finite"):
        train_on(
            (CPU, CPU),
            model,
            None,
            make_exams(8),
            load_text(settings.model.text, None),
            settings,
            round=1,
            global_step=0,
        )


def test_another_process_maps_the_same_token_file(tmp_path: Path) -> None:
    index = StoreIndex(MAGIC, "A", "key", ("one", "two"), 1, 3, 4, {})
    values = np.arange(24, dtype=np.float16).tobytes() + np.ones(6, np.bool_).tobytes()
    (tmp_path / "tokens.f16").write_bytes(values)
    kept = map_store(tmp_path / "tokens.f16", index)
    sent = pickle.dumps(kept)
    assert len(sent) < 600
    again = pickle.loads(sent)
    assert isinstance(again.tokens, np.memmap)
    assert np.array_equal(again.tokens, kept.tokens)
    assert np.array_equal(again.present, kept.present)
