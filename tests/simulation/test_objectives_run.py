"""Whole studies with generators: what each preset's kind shares, and what it leaves at the sites."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from simulation.engine import resume, run

ALL = ("objectives.coca=1", "objectives.inverse_coca=1")
REUSED = (*ALL, "model.fusion.causal=true", "model.generators.kind=reused")


def private(out: Path, site: str) -> set[str]:
    """Beginnings of the names of what a site keeps to itself after round 2."""
    kept = torch.load(out / "sites" / site / out.name / "round-0002.pt", weights_only=True)["private"]
    return {name.split(".")[0] for name in kept}


@pytest.mark.parametrize(
    ("overrides", "shared", "kept"),
    [
        (ALL, set(), {"report_generator", "slice_generator"}),
        (("objectives.coca=1",), set(), {"report_generator"}),
        (REUSED, {"image_head.weight", "start_token"}, set()),
    ],
    ids=["separate", "coca alone", "reused"],
)
def test_generators_are_shared_only_where_they_are_the_fusion(
    overrides: tuple[str, ...], shared: set[str], kept: set[str], study: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(study.settings(*overrides), sites=study.sites, central=study.central, out=out)
    tensors = load_file(out / "shared.safetensors")
    assert {
        name for name in tensors if not name.startswith(("fusion.", "slice_p", "text_p", "log_s"))
    } == shared
    for site in study.sites:
        assert private(out, site) == kept


@pytest.mark.parametrize("overrides", [ALL, REUSED], ids=["separate", "reused"])
def test_a_run_that_goes_on_after_a_round_ends_with_the_bits_of_an_undisturbed_one(
    overrides: tuple[str, ...], study: Any, tmp_path: Path
) -> None:
    """The private generators go on too, from the round that the server names."""
    whole, stopped = tmp_path / "a" / "run", tmp_path / "b" / "run"
    settings = study.settings(*overrides, "federation.num_rounds=3")
    run(settings, sites=study.sites, central=study.central, out=whole)
    shutil.copytree(whole, stopped)
    (stopped / "summary.json").unlink()
    (stopped / "shared.safetensors").unlink()
    (stopped / "checkpoints" / "round-0003.safetensors").unlink()
    resume(stopped)
    one, two = load_file(whole / "shared.safetensors"), load_file(stopped / "shared.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)
    for site in study.sites:
        ends = [
            torch.load(out / "sites" / site / "run" / "round-0003.pt", weights_only=True)["private"]
            for out in (whole, stopped)
        ]
        assert ends[0].keys() == ends[1].keys()
        assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
