"""Whether the frozen encoders of a study are at this site: a node asks no hub for them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from climb_model.data.exam import DataError
from climb_model.model.text import BERT_FILES
from climb_model.model.vision import DINO_FILES
from climb_model.model.weights import weights_source
from configs.load import load_settings, preset_names
from configs.schema import BUILTIN_FILTERS, BUILTIN_GERMAN, Settings

_CACHES = ("HF_HOME", "HF_HUB_CACHE")
"""Variables that name a cache of the hub, which may hold what the folder does not."""


def missing_weights(settings: Settings, weights: Path | None) -> str:
    """Which encoders of a study are not here, as one line; '' if all are, or a cache may hold them.

    Args:
        weights: the site's folder of model folders.
    """
    model = settings.model
    wanted = {
        model.vision.weights: DINO_FILES,
        model.fusion.language_model or model.text.weights: BERT_FILES,
    }
    names = [name for name in wanted if name not in (BUILTIN_FILTERS, BUILTIN_GERMAN)]
    if weights is None:
        if not names or any(os.environ.get(variable) for variable in _CACHES):
            return ""
        return f"weights of {' and '.join(map(repr, names))} are missing: the node has no weights folder"
    for name in names:
        try:
            weights_source(name, weights, wanted[name])
        except DataError as error:
            return error.public
    return ""


def lacking_weights(presets: Iterable[str], weights: Path | None) -> str:
    """For which presets of a policy this site has no weights, as one line; '' if for none."""
    allowed = tuple(presets)
    known = [name for name in preset_names() if name in allowed or "*" in allowed]
    lacking = {name: missing_weights(load_settings(name), weights) for name in known}
    lines = [f"{name} ({line})" for name, line in lacking.items() if line]
    if not lines:
        return ""
    return f"takes part in no study of preset {', '.join(lines)}; weights of site.yaml names their folder"
