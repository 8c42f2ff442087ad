"""The same two apps on Flower's simulation runtime."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from climb_model.progress import Silent
from climb_model.runs import RoundRecord, RunError
from server.deployment.flower import FlowerError
from simulation.engine import resume, run


def processes(log: Path) -> set[int]:
    """Processes that trained a round, as the site itself wrote down."""
    return {int(number) for number in re.findall(r"process (\d+): round \d+: \d+ steps", log.read_text())}


def alive(home: Path) -> list[str]:
    """Processes of this machine that were started for a run."""
    mark = f"FLWR_HOME={home}".encode()
    found: list[str] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:120])
        except OSError:
            continue
    return found


def nothing_left(home: Path) -> bool:
    end = time.monotonic() + 20
    while alive(home) and time.monotonic() < end:
        time.sleep(0.2)
    return not alive(home)


def test_both_engines_give_the_same_weights_and_other_processes_trained(study: Any, tmp_path: Path) -> None:
    sites = {name: study.sites[name] for name in ("A", "B")}
    told: list[int] = []

    class Ear(Silent):
        def round_done(self, record: RoundRecord) -> None:
            told.append(record.round)

    summary = run(
        study.settings(),
        sites=sites,
        central=study.central,
        out=tmp_path / "f" / "s",
        engine="flower",
        observer=Ear(),
    )
    reference = run(study.settings(), sites=sites, central=study.central, out=tmp_path / "l" / "s")
    ours, theirs = (load_file(tmp_path / engine / "s/shared.safetensors") for engine in ("f", "l"))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) <= 1e-5
    assert summary["engine"] == "flower"
    assert summary["mean_auc"] == pytest.approx(reference["mean_auc"], abs=0.05)
    assert summary["exams"] == {"A": 6, "B": 12}
    assert told == [0, 1, 2]
    trained = processes(tmp_path / "f/s/sites/A/site.log") | processes(tmp_path / "f/s/sites/B/site.log")
    assert trained
    assert os.getpid() not in trained
    assert processes(tmp_path / "l/s/sites/A/site.log") == {os.getpid()}
    assert nothing_left(tmp_path / "f/s/flower"), alive(tmp_path / "f/s/flower")


def test_a_worker_that_is_killed_ends_the_run_with_one_line_and_nothing_stays_behind(
    study: Any, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    settings = study.settings("federation.num_rounds=1000")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            run, settings, sites=study.sites, central=study.central, out=out, engine="flower"
        )
        log = out / "sites" / "A" / "site.log"
        end = time.monotonic() + 180
        while not (log.exists() and processes(log)):
            assert not running.done(), running.exception()
            assert time.monotonic() < end, "no site trained"
            time.sleep(0.05)
        os.kill(processes(log).pop(), signal.SIGKILL)
        with pytest.raises(RunError, match="a worker process of Flower's simulation died") as caught:
            running.result(timeout=90)
    assert "\n" not in str(caught.value)
    assert not (out / "summary.json").exists()
    assert list((out / "checkpoints").iterdir())
    assert json.loads((out / "history.jsonl").read_text().splitlines()[0])["round"] == 0
    assert nothing_left(out / "flower"), alive(out / "flower")


DRIVER = """
import json, sys
from pathlib import Path
from configs.load import load_settings
from simulation.engine import resume, run

plan = json.loads(sys.argv[1])
sites = {name: Path(path) for name, path in plan["sites"].items()}
settings = load_settings("debug", plan["overrides"])
run(settings, sites=sites, central=Path(plan["central"]), out=Path(plan["out"]), engine="flower")
"""


@pytest.mark.long
def test_an_engine_that_is_killed_is_resumed_beside_no_stale_server(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "study"
    many = ["federation.num_rounds=40", "training.steps_per_round=5"]
    plan = {
        "out": str(out),
        "sites": {name: str(path) for name, path in study.sites.items()},
        "central": str(study.central),
        "overrides": [*study.overrides, *many],
    }
    engine = subprocess.Popen([sys.executable, "-c", DRIVER, json.dumps(plan)])
    end = time.monotonic() + 180
    while not (out / "checkpoints" / "round-0002.safetensors").exists():
        assert engine.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    engine.kill()
    engine.wait()
    assert alive(out / "flower"), "the SuperLink should have survived its engine"
    assert resume(out)["rounds"] == 40
    assert nothing_left(out / "flower"), alive(out / "flower")
    run(study.settings(*many), sites=study.sites, central=study.central, out=tmp_path / "l" / "study")
    ours, theirs = load_file(out / "shared.safetensors"), load_file(tmp_path / "l/study/shared.safetensors")
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) <= 1e-5


@pytest.mark.long
def test_a_simulation_that_is_killed_ends_the_run_with_one_line(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "study"
    settings = study.settings("federation.num_rounds=1000")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            run, settings, sites=study.sites, central=study.central, out=out, engine="flower"
        )
        end = time.monotonic() + 180
        while not (out / "checkpoints" / "round-0001.safetensors").exists():
            assert not running.done(), running.exception()
            assert time.monotonic() < end
            time.sleep(0.05)
        os.kill(int((out / "lock").read_text()), signal.SIGKILL)
        with pytest.raises(RunError, match=r"ended without a result; its log is .*run\.log"):
            running.result(timeout=240)
    assert nothing_left(out / "flower"), alive(out / "flower")


def test_the_checkout_is_needed(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.deployment.flower.APP", tmp_path)
    with pytest.raises(FlowerError, match="the bundle is made from a checkout of the project"):
        run(study.settings(), sites=study.sites, central=study.central, out=tmp_path / "r", engine="flower")
    assert torch.get_num_threads() == 1
