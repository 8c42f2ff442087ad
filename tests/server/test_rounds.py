"""The arithmetic of rounds, and a study under other strategies of Flower."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from flwr.app import Message
from flwr.serverapp.strategy import FedAdam, FedAvg, Strategy
from flwr.superlink.grid import HttpGrid
from safetensors.torch import load_file

from client.app import app as client_app
from climb_model.model.climb import build_model
from climb_model.run_config import to_run_config
from climb_model.runs import RunFolder
from climb_model.sharing import shared_state
from configs.load import load_settings
from server.place import ServerPlace
from server.rounds import next_global_step, run_study
from simulation.local_grid import LocalGrid, LocalNode
from strategies.checked_grid import Traffic
from strategies.checks import TrainFacts
from strategies.fedavg import StreamingFedAvg

TINY = ["training.num_threads=1", "evaluation.findings=[Zyste, Karzinom]", "evaluation.bootstrap=0"]


def test_the_global_step_grows_by_the_mean_of_steps_weighted_by_exams() -> None:
    traffic = Traffic(facts={"A": TrainFacts(10, 4, 0.0, 0.0), "B": TrainFacts(30, 8, 0.0, 0.0)})
    assert next_global_step(100, traffic) == 107  # (10 * 4 + 30 * 8) / 40 = 7
    traffic.facts["C"] = TrainFacts(1, 500, 0.0, 0.0)
    assert next_global_step(0, traffic) == 19  # 780 / 41 = 19.02


@pytest.fixture
def play(make_site: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Run or go on with a study of two sites under a strategy; gives the run folder."""
    central = make_site(tmp_path, "CENTRAL", exams=16)
    data = {name: make_site(tmp_path, name) for name in ("A", "B")}

    def run(name: str, strategy: Strategy, *overrides: str) -> Path:
        settings = load_settings("debug", [*TINY, *overrides])
        out = tmp_path / name
        if not out.exists():
            RunFolder.create(out, settings, "study")
        nodes = [
            LocalNode(number, {"name": site, "data": str(folder), "private": str(out / "sites" / site)})
            for number, (site, folder) in enumerate(data.items(), start=2)
        ]
        grid = LocalGrid(client_app, nodes, to_run_config(settings, "study"))
        run_study(grid, "study", settings, ServerPlace(data=central, run=out, num_sites=2), strategy)
        return out

    return run


def test_a_study_runs_under_another_strategy_of_flower_and_gives_another_result(
    play: Callable[..., Path],
) -> None:
    mean = load_file(play("mean", FedAvg()) / "shared.safetensors")
    moved = load_file(play("adam", FedAdam(eta=0.01)) / "shared.safetensors")
    assert moved.keys() == mean.keys()
    assert not torch.equal(moved["text_projection.weight"], mean["text_projection.weight"])


def test_flat_memory_averaging_gives_flowers_result(play: Callable[..., Path]) -> None:
    theirs = load_file(play("theirs", FedAvg()) / "shared.safetensors")
    ours = load_file(play("ours", StreamingFedAvg(2)) / "shared.safetensors")
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) < 1e-6


def test_a_server_side_optimizer_goes_on_from_its_moments(play: Callable[..., Path]) -> None:
    whole = load_file(play("study", FedAdam(eta=0.01)) / "shared.safetensors")
    out = play("again", FedAdam(eta=0.01))
    (out / "checkpoints/round-0002.safetensors").unlink()  # as if killed before it was written
    (out / "shared.safetensors").unlink()
    play("again", FedAdam(eta=0.01))
    again = load_file(out / "shared.safetensors")
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_the_sampling_of_sites_does_not_depend_on_what_ran_before(play: Callable[..., Path]) -> None:
    random.seed(1)
    first = load_file(play("one", FedAvg(fraction_train=0.5, min_train_nodes=2)) / "shared.safetensors")
    random.seed(2)
    second = load_file(play("two", FedAvg(fraction_train=0.5, min_train_nodes=2)) / "shared.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_in_float16_half_the_bytes_travel_and_the_weights_are_nearly_those_of_float32(
    play: Callable[..., Path],
) -> None:
    whole, half = play("whole", FedAvg()), play("half", FedAvg(), "federation.payload=float16")
    ours, theirs = (load_file(out / "shared.safetensors") for out in (half, whole))
    before = shared_state(build_model(load_settings("debug", TINY)))
    assert {value.dtype for value in ours.values()} == {torch.float32}
    off = sum(float((ours[name] - theirs[name]).square().sum()) for name in theirs) ** 0.5
    moved = sum(float((theirs[name] - before[name]).square().sum()) for name in theirs) ** 0.5
    assert off < 0.02 * moved
    bytes_of = [RunFolder.open(out).summary()["bytes_per_site_per_round"] for out in (half, whole)]
    for way in ("up", "down"):
        assert bytes_of[0][way] < 0.6 * bytes_of[1][way]


class Wire(HttpGrid):
    """A SuperLink before the sites of a local grid; who is connected, a test decides round by round."""

    def __init__(self, inner: LocalGrid, there: Callable[[], set[int]]) -> None:
        self._inner = inner
        self._there = there
        self._lock = threading.Lock()

    def get_node_ids(self) -> list[int]:
        return sorted(self._there())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return list(self._inner.push_messages(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        with self._lock:
            return list(self._inner.pull_messages(message_ids))


def test_over_a_network_a_site_joins_later_and_deadlines_follow_what_replies_take(
    make_site: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strategies.post.POLL_S", 0.02)
    central = make_site(tmp_path, "CENTRAL", exams=16)
    settings = load_settings(
        "debug",
        [*TINY, "federation.num_rounds=3", "federation.min_deadline_s=50", "training.steps_per_round=1"],
    )
    out = tmp_path / "run"
    folder = RunFolder.create(out, settings, "study")
    nodes = [
        LocalNode(number, {"name": name, "data": str(make_site(tmp_path, name)), "private": str(out / name)})
        for number, name in enumerate(("A", "B", "C"), start=2)
    ]
    local = LocalGrid(client_app, nodes, to_run_config(settings, "study"))
    grid = Wire(local, lambda: {2, 3} if not folder.history() else {2, 3, 4})
    run_study(grid, "study", settings, ServerPlace(data=central, run=out, num_sites=2))
    history = folder.history()
    assert [sorted(record.sites) for record in history] == [[], ["A", "B"], ["A", "B", "C"], ["A", "B", "C"]]
    assert [record.deadline_s for record in history] == [None, 3600.0, 50.0, 50.0]
    assert [record.notices for record in history] == [(), (), ("site 'C' joined",), ()]
    for record in history[1:]:
        for site in record.sites.values():
            assert site.wall_s is not None
            assert site.wall_s >= site.seconds
    summary = folder.summary()
    assert summary is not None
    assert set(summary["exams"]) == set(summary["handshake"]) == {"A", "B", "C"}  # type: ignore[call-overload]
