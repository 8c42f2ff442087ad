"""Trained weights are read with what they were trained with, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from climb_model.model.climb import build_model
from climb_model.runs import RunFolder
from climb_model.sharing import shared_state
from climb_model.trained import check_fingerprint, read_trained
from configs.errors import UserError
from configs.load import load_settings, settings_hash

FINGERPRINT = {"vision": "a" * 64, "text": "b" * 64}


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The file of a run with other weights than an untrained model's."""
    run = RunFolder.create(tmp_path / "run", load_settings("debug"), "study")
    tensors = shared_state(build_model(run.settings))
    run.write_shared({name: value + 1 for name, value in tensors.items()}, 7, FINGERPRINT)
    return run.path / "shared.safetensors"


def test_weights_come_back_as_they_were_written(shared: Path) -> None:
    trained = read_trained(shared)
    assert (trained.round, trained.fingerprint) == (7, FINGERPRINT)
    assert trained.settings == load_settings("debug")
    again = shared_state(trained.model())
    assert all(torch.equal(again[name], value) for name, value in load_file(shared).items())


def test_a_folder_a_missing_and_a_damaged_file_are_told_apart(shared: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder: give the file shared\.safetensors in it"):
        read_trained(shared.parent)
    with pytest.raises(UserError, match=r"none\.safetensors is missing: a run writes it"):
        read_trained(shared.with_name("none.safetensors"))
    shared.write_bytes(shared.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"shared\.safetensors is damaged or no safetensors file"):
        read_trained(shared)


def test_weights_without_their_settings_are_refused(shared: Path) -> None:
    shared.with_name("config.yaml").unlink()
    with pytest.raises(UserError, match=r"config\.yaml: cannot be read"):
        read_trained(shared)


@pytest.mark.parametrize("round", [{}, {"round": "two"}, {"round": "-1"}])
def test_weights_that_do_not_say_their_round_are_refused(round: dict[str, str], shared: Path) -> None:
    told = {"config_hash": settings_hash(load_settings("debug")), "fingerprint": "{}"}
    save_file(load_file(shared), shared, told | round)
    with pytest.raises(UserError, match="does not say after which round it was written"):
        read_trained(shared)


def test_a_fingerprint_with_a_part_missing_differs() -> None:
    check_fingerprint({"vision": "a"}, {"vision": "a"})
    with pytest.raises(UserError, match="text: none then, b here"):
        check_fingerprint({"vision": "a"}, {"vision": "a", "text": "b"})
