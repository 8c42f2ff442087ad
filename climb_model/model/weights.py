"""Where frozen weights come from, and the hash that names them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from climb_model.data.exam import DataError

WHOLE, SHARDS = "model.safetensors", "model.safetensors.index.json"
"""A model's weights in one file, or the list of the files they are in."""


def show_loading_bars(*, shown: bool) -> None:
    """Progress bars of transformers: for a download, not for files that are here already."""
    from transformers.utils import logging

    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()


@contextmanager
def quiet_reports() -> Generator[None]:
    """Without transformers' report on tensors that a file has and a partly loaded model does not want."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def weights_source(name: str, weights: Path | None, needed: tuple[str, ...]) -> str | Path:
    """The folder or hub name to load `name` from.

    Args:
        name: hub name such as `facebook/dinov2-small`, or the name of a folder.
        weights: this machine's folder of model folders; None loads from the hub or its local cache.
        needed: files that a complete model folder holds.

    Raises:
        DataError: if the folder or one of its files is missing. The hub is then not asked instead.
    """
    if weights is None:
        return name
    folder = weights / name.rsplit("/", 1)[-1]
    if not folder.is_dir():
        raise DataError(
            f"weights: wanted a folder '{folder.name}' for '{name}' in {weights}, there is none",
            f"weights of '{name}' are missing",
        )
    missing = [file for file in needed if not (folder / file).is_file()]
    if (folder / SHARDS).is_file() and WHOLE in missing:
        missing.remove(WHOLE)
    if missing:
        raise DataError(
            f"weights: {folder} lacks {', '.join(missing)}", f"weights of '{name}' lack {', '.join(missing)}"
        )
    return folder


def load_failure(name: str, error: Exception) -> DataError:
    """One line for weights that exist but cannot be loaded, or that the hub does not give to everyone."""
    if needs_licence(error):
        return DataError(
            f"weights: the hub does not give '{name}' to this account; accept its licence on "
            f"https://huggingface.co/{name} and log in with a token (hf auth login), "
            "or give a local folder with --weights",
            f"weights of '{name}' need a licence and a login",
        )
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return DataError(f"weights: '{name}' cannot be loaded: {reason}", f"weights of '{name}' cannot be loaded")


def needs_licence(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, is the hub's refusal of a gated or private model."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    while error is not None:
        if isinstance(error, GatedRepoError):
            return True
        if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
            return True
        error = error.__cause__ or error.__context__
    return False


def fingerprint(tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> str:
    """SHA-256 over sorted (name, shape, stored bytes) of frozen tensors and sorted facts."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        digest.update(value.view(torch.uint8).numpy().tobytes() if value.ndim else str(value.item()).encode())
    digest.update(json.dumps(facts, sort_keys=True, ensure_ascii=False).encode())
    return digest.hexdigest()
