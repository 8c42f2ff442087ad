"""A run that meets bad input: it stops with one line, keeps the last good state, and goes on from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from climb_model.data.exam import DataError
from climb_model.progress import Silent
from climb_model.runs import RoundRecord
from simulation.engine import resume, run
from strategies.checked_grid import TooFewReplies

SETTINGS = (
    "federation.num_rounds=3",
    "objectives.coca=1",
    "objectives.inverse_coca=1",
    "model.generators.depth=1",
)
FAULT = "site 'B': loss nan and gradient norm nan at round 2, step 1; wanted finite numbers"


class Spoiler(Silent):
    """After round 1 turns the slice tokens that site B has kept into NaN."""

    def __init__(self, out: Path) -> None:
        self.tokens = out / "sites" / "B" / "tokens" / "tokens-train.f16"
        self.good = b""

    def round_done(self, record: RoundRecord) -> None:
        """Spoil."""
        if record.round == 1:
            self.good = self.tokens.read_bytes()
            index = json.loads(self.tokens.with_suffix(".json").read_text("utf-8"))
            num_values = len(index["uids"]) * index["num_views"] * index["num_tokens"] * index["width"]
            spoilt = np.full(num_values, np.nan, np.float16).tobytes()
            self.tokens.write_bytes(spoilt + self.good[len(spoilt) :])


def rounds_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "history.jsonl").read_text("utf-8").splitlines()]


def test_a_loss_that_turns_nan_stops_the_run_and_resume_goes_on_from_the_last_good_state(
    study: Any, tmp_path: Path
) -> None:
    sites = {name: study.sites[name] for name in ("A", "B")}
    out, whole = tmp_path / "run", tmp_path / "whole"
    spoiler = Spoiler(out)
    with pytest.raises(TooFewReplies) as caught:
        run(study.settings(*SETTINGS), sites=sites, central=study.central, out=out, observer=spoiler)
    line = f"1 of 2 sites sent a sound reply, 2 needed (federation.min_sites); {FAULT}"
    assert str(caught.value) == line == (out / "failure.txt").read_text("utf-8").strip()
    assert [record["round"] for record in rounds_of(out)] == [0, 1]
    assert (out / "checkpoints" / "round-0001.safetensors").exists()
    assert not (out / "checkpoints" / "round-0002.safetensors").exists()
    assert sorted(path.name for path in (out / "sites" / "B" / "run").iterdir()) == [
        "exams.json",
        "round-0001.pt",
    ]
    assert FAULT in (out / "sites" / "B" / "site.log").read_text("utf-8")

    spoiler.tokens.write_bytes(spoiler.good)
    assert resume(out)["rounds"] == 3
    run(study.settings(*SETTINGS), sites=sites, central=study.central, out=whole)
    ours, theirs = load_file(out / "shared.safetensors"), load_file(whole / "shared.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_with_sites_enough_the_others_go_on_without_the_one_whose_loss_is_nan(
    study: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(study.settings(), sites=study.sites, central=study.central, out=out, observer=Spoiler(out))
    last = rounds_of(out)[2]
    assert set(last["sites"]) == {"A", "C"}
    assert last["rejected"] == [{"site": "B", "reason": FAULT}]
    assert all(torch.isfinite(value).all() for value in load_file(out / "shared.safetensors").values())


def test_a_prompt_with_no_known_token_is_refused_before_any_exam_is_read(study: Any, tmp_path: Path) -> None:
    central = tmp_path / "CENTRAL"
    shutil.copytree(study.central, central)
    shutil.rmtree(central / "metadata_unilateral")  # whoever reads it stops at this
    settings = study.settings("evaluation.findings=[Zyste, Ωλξ]")
    with pytest.raises(DataError, match=r"^tokenizer of 'builtin:german': prompt 'Ωλξ\.' has") as caught:
        run(settings, sites=study.sites, central=central, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "sites").exists()
