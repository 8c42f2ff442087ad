"""The card on the model itself: parts, objectives, frozen encoders, settings; how to load and cite it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import cast

import torch

from climb_model.made_by import PROGRAM
from climb_model.model.climb import build_model
from climb_model.report.markdown import block, bullets, table, words, wrapped
from climb_model.results import trained_alone
from climb_model.run_config import to_run_config
from climb_model.sharing import shared_spec
from configs.load import settings_hash
from configs.schema import Settings

Shapes = dict[str, tuple[int, ...]]


def model_details(summary: Mapping[str, object], settings: Settings) -> str:
    """What it is, of what it consists, and with which settings it was made."""
    chooser = "The site" if trained_alone(summary) else "The coordinator"
    language_model = settings.model.fusion.language_model
    core = f"a frozen language model ({words(language_model)})" if language_model else "one transformer"
    facts = [
        f"Model: CLIMB. {core[0].upper()}{core[1:]} lays breast-MRI exams and their reports into one space.",
        f"Made by: {PROGRAM} {words(str(summary['version']))}, on {words(str(summary['date']))} (UTC).",
        f"Preset: {words(settings.preset)}, seed {settings.seed}. Hash of all settings: "
        f"{settings_hash(settings)}.",
        f"Licence: none is chosen. {chooser} must choose one before passing the weights on. "
        "The frozen encoders have licences of their own.",
    ]
    parts = [
        bullets(facts),
        "### Objectives\n\n" + bullets(objective_lines(settings)),
        "### What is in the weights\n\n" + _weights(summary, settings),
        "### Frozen encoders it needs\n\n" + _frozen(summary, settings),
        "### Settings\n\n" + _settings(settings),
    ]
    return "\n\n".join(parts)


def objective_lines(settings: Settings) -> list[str]:
    """Each objective with its weight, those left out too."""
    objectives, generators = settings.objectives, settings.model.generators
    writer = {
        "separate": "by a decoder of its own",
        "reused": "by the shared transformer itself",
    }.get(generators.kind, f"by generators of kind {words(generators.kind)}")
    told = [
        ("clip", objectives.clip, "contrast of exams and reports"),
        ("coca", objectives.coca, f"the report, token by token, from the exam, {writer}"),
        (
            "inverse_coca",
            objectives.inverse_coca,
            f"the slice tokens, one by one, from the report, {writer} ({words(objectives.image_loss)})",
        ),
    ]
    return [
        f"{name}, weight {weight:g}: {what}" if weight else f"{name}: left out" for name, weight, what in told
    ]


def split_parameters(settings: Settings) -> tuple[Shapes, Shapes]:
    """Name to shape of the shared tensors, and of the trained ones that stay at a site."""
    with torch.device("meta"):  # shapes only: no memory, no random numbers
        model = build_model(settings)
    shared = shared_spec(model)
    private = {
        name: tuple(value.shape)
        for name, value in model.named_parameters()
        if value.requires_grad and name not in shared
    }
    return shared, private


def _weights(summary: Mapping[str, object], settings: Settings) -> str:
    shared, private = split_parameters(settings)
    tensors, numbers = cast(int, summary["shared_tensors"]), cast(int, summary["shared_parameters"])
    lines = [
        f"`shared.safetensors` holds {tensors} tensors, {numbers:,} float32 numbers "
        f"({4 * numbers / 1e6:.1f} MB), and no optimizer state."
    ]
    if (tensors, numbers) != (len(shared), _count(shared)):
        return bullets(
            [*lines, "This version of the program builds other tensors: they are not listed here."]
        )
    rows = _grouped(shared, "shared") + _grouped(private, "stays at the site")
    if private:
        where = "at the site: they are not in the file"
        if not trained_alone(summary):
            where = "at each site: they are not in the file, and differ from site to site"
        lines.append(f"{len(private)} further trained tensors ({_count(private):,} numbers) stay {where}.")
    else:
        lines.append("No other tensor is trained: nothing of the model stayed at a site.")
    return bullets(lines) + "\n\n" + table(["part", "where", "tensors", "numbers"], rows, num_left=2)


def _grouped(tensors: Shapes, where: str) -> list[tuple[str, str, str, str]]:
    groups: dict[str, Shapes] = {}
    for name, shape in tensors.items():
        groups.setdefault(name.partition(".")[0], {})[name] = shape
    return [(words(name), where, str(len(held)), f"{_count(held):,}") for name, held in groups.items()]


def _count(tensors: Shapes) -> int:
    return sum(prod(shape) for shape in tensors.values())


def _frozen(summary: Mapping[str, object], settings: Settings) -> str:
    model = settings.model
    named = {
        "vision": model.vision.weights,
        "text": f"{model.text.weights} ({model.text.kind})",
        "tokenizer": model.text.weights,
        "preprocessing": "section data of the settings",
        "language_model": model.fusion.language_model,
    }
    found = cast(Mapping[str, str], summary.get("fingerprint") or {})
    rows = [(words(part), words(named.get(part, "")), words(digest)) for part, digest in found.items()]
    lines = [
        "They are not in the file. What begins with builtin: lies in the program; other names are of the "
        "Hugging Face hub or of a local folder.",
        "The fingerprint (SHA-256) decides: with other encoders the weights mean nothing.",
    ]
    return bullets(lines) + "\n\n" + table(["part", "name", "fingerprint"], rows, num_left=3)


def _settings(settings: Settings) -> str:
    changed = cast(list[str], json.loads(to_run_config(settings, "card")["overrides"]))
    if not changed:
        return f"As preset {words(settings.preset)} says, without a change. `config.yaml` has them all."
    head = f"What differs from preset {words(settings.preset)}; `config.yaml` has all settings."
    return f"{head}\n\n{block(changed)}"


def how_to_load(settings: Settings) -> str:
    """A program of a few lines, to be run in the folder of the card."""
    snippet = f"""\
from pathlib import Path

from climb_model.model.frozen import FrozenEncoders
from climb_model.trained import check_fingerprint, read_trained
from configs.load import settings_hash

trained = read_trained(Path("shared.safetensors"))  # reads config.yaml beside it, too
assert settings_hash(trained.settings) == "{settings_hash(settings)}"
frozen = FrozenEncoders.load(trained.settings)  # as a second argument: the folder of your model folders
check_fingerprint(trained.fingerprint, frozen.fingerprint)
model = trained.model(frozen.language_model).eval()"""
    passed_on = (
        "Pass on these three files and nothing else of the run folder: `model_card.md` (a repository on the "
        "hub wants it as README.md), `config.yaml`, `shared.safetensors`. The others hold UIDs, names and "
        "paths."
    )
    _, private = split_parameters(settings)
    untrained = "What stays at a site is untrained in this model.\n" if private else ""
    return (
        f"With {PROGRAM} installed, in the folder that holds `config.yaml` and `shared.safetensors`:\n\n"
        f"{block(snippet.splitlines(), 'python')}\n\n"
        f"{untrained}"
        "`climb_model.evaluation.zero_shot.zero_shot(model, exams, frozen.text, trained.settings)` then\n"
        "gives the scores of prepared exams.\n"
        "`climb-server evaluate RUN --data DIR` measures the weights on a folder of labelled exams.\n\n"
        f"{wrapped(passed_on)}"
    )


def how_to_cite(summary: Mapping[str, object], settings: Settings) -> str:
    """This software, this run, and where the model comes from."""
    study, date = words(str(summary.get("study") or "without a name")), words(str(summary["date"]))
    cited = (
        f"CLIMB Federated ({PROGRAM}), version {words(str(summary['version']))}; study {study}, settings "
        f"{settings_hash(settings)}, {date}."
    )
    origin = (
        "The model follows CLIMB (project report, 2025), and the layout of the exams ODELIA. This program "
        "knows no DOI of either, nor of itself."
    )
    return f"{wrapped(cited)}\n\n{wrapped(origin)}"
