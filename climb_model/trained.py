"""Trained weights of a finished run: read, and checked against their settings and the frozen encoders."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from safetensors import SafetensorError, safe_open
from torch import Tensor

from climb_model.model.climb import ClimbModel, build_model
from climb_model.model.language_model import LanguageModel
from climb_model.sharing import load_shared
from configs.errors import UserError
from configs.load import settings_from_file, settings_hash
from configs.schema import Settings

SHARED = "shared.safetensors"
"""The weights' file in a run folder."""


@dataclass(frozen=True)
class Trained:
    """The shared weights that a run ended with, and what they were trained with."""

    path: Path
    settings: Settings
    round: int
    fingerprint: dict[str, str]
    """Of the frozen encoders, part by part."""

    tensors: dict[str, Tensor] = field(repr=False)

    def model(self, language_model: LanguageModel | None = None) -> ClimbModel:
        """The model with these weights; what a site keeps to itself is untrained in it.

        Args:
            language_model: that of the frozen encoders.

        Raises:
            SharingError: if they are not the tensors of these settings' model.
        """
        model = build_model(self.settings, language_model)
        load_shared(model, self.tensors, sender=str(self.path))
        return model


def read_trained(path: Path) -> Trained:
    """Read `shared.safetensors` with the `config.yaml` beside it.

    Raises:
        UserError: if the file is missing or damaged, or the settings are not those it was trained with.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the file {SHARED} in it")
    if not path.is_file():
        raise UserError(f"{path} is missing: a run writes it when it has finished")
    settings = settings_from_file(path.with_name("config.yaml"))
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: cast(Tensor, file.get_tensor(name)) for name in sorted(file.keys())}
            metadata = dict(file.metadata() or {})
    except SafetensorError:
        raise UserError(f"{path} is damaged or no safetensors file") from None
    written, here = metadata.get("config_hash", "none"), settings_hash(settings)
    if written != here:
        raise UserError(
            f"{path} was trained with settings {written}, "
            f"{path.with_name('config.yaml')} holds settings {here}"
        )
    round = metadata.get("round", "")
    if not round.isdecimal():
        raise UserError(f"{path} does not say after which round it was written")
    return Trained(path, settings, int(round), _fingerprint(metadata, path), tensors)


def check_fingerprint(trained: dict[str, str], here: dict[str, str]) -> None:
    """Compare the frozen encoders of a run with those of this machine.

    Raises:
        UserError: naming every part that differs.
    """
    parts = sorted(set(trained) | set(here))
    different = [part for part in parts if trained.get(part) != here.get(part)]
    if different:
        told = "; ".join(
            f"{part}: {_short(trained.get(part))} then, {_short(here.get(part))} here" for part in different
        )
        raise UserError(f"the run was trained with other frozen parts ({told})")


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "none"


def _fingerprint(metadata: dict[str, str], path: Path) -> dict[str, str]:
    try:
        recorded = json.loads(metadata.get("fingerprint", ""))
    except ValueError:
        recorded = None
    if not isinstance(recorded, dict):
        raise UserError(f"{path} does not say which frozen encoders it was trained with")
    return {str(part): str(digest) for part, digest in cast(dict[object, object], recorded).items()}
