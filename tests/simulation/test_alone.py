"""A site that trains alone, held against a federation that has no other site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from client.train import train_alone
from climb_model.runs import RunFolder
from simulation.engine import run

GENERATORS = ("objectives.coca=1.0", "objectives.inverse_coca=1.0", "model.generators.depth=1")


@pytest.mark.parametrize(
    "overrides", [(), GENERATORS, ("federation.reset_optimizer=true",)], ids=["clip", "all", "reset"]
)
def test_training_alone_is_a_federation_of_one(
    study: Any, overrides: tuple[str, ...], tmp_path: Path
) -> None:
    settings = study.settings("federation.min_sites=1", "federation.num_rounds=3", *overrides)
    together, alone = tmp_path / "together" / "study", tmp_path / "alone" / "study"
    run(settings, sites={"A": study.sites["A"]}, central=study.central, out=together)
    train_alone(study.sites["A"], settings, alone)
    one, other = (load_file(folder / "shared.safetensors") for folder in (together, alone))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    states = [
        torch.load(folder / "sites" / "A" / "study" / "round-0003.pt", weights_only=True)
        for folder in (together, alone)
    ]
    assert states[0]["private"].keys() == states[1]["private"].keys()
    assert all(torch.equal(states[0]["private"][name], value) for name, value in states[1]["private"].items())
    losses = [[r.sites["A"].loss for r in RunFolder.open(f).history()[1:]] for f in (together, alone)]
    assert losses[0] == losses[1]
