"""The frozen models of a study, and the fingerprints that every site must share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from climb_model.data.exam import DataError
from climb_model.data.prepared import preprocessing_facts
from climb_model.model.language_model import LanguageModel, load_language_model
from climb_model.model.text import ReportEncoder, load_text, word_table_of
from climb_model.model.vision import SliceEncoder, load_vision
from climb_model.model.weights import fingerprint
from configs.schema import Settings


@dataclass(frozen=True)
class FrozenEncoders:
    """The models that never train and never travel."""

    vision: SliceEncoder
    text: ReportEncoder
    fingerprint: dict[str, str]
    """`vision`, `text`, `tokenizer` and `preprocessing` to their SHA-256. All four decide a site's tokens.
    With a language model as fusion also `language_model`, which decides what is made of them."""

    language_model: LanguageModel | None = None
    """What `model.fusion.language_model` names, whole."""

    @classmethod
    def load(
        cls, settings: Settings, weights: Path | None = None, device: torch.device | None = None
    ) -> FrozenEncoders:
        """Load what the settings name, from `weights` if given, and probe the tokenizer with all prompts.

        Args:
            device: where the slice encoder runs; None is the CPU.

        Raises:
            DataError: if weights are missing or incomplete, or a prompt has unknown tokens.
        """
        vision = load_vision(settings.model.vision, settings.data, weights, device)
        config, name = settings.model.text, settings.model.fusion.language_model
        language_model = None
        if name:
            language_model = load_language_model(name, weights, width=config.width, whole=True)
            _check_room(language_model, len(settings.data.sequences) * settings.data.slices)
        text = load_text(config, weights) if language_model is None else word_table_of(language_model, config)
        text.probe([prompt for pair in zero_shot_prompts(settings) for side in pair for prompt in side])
        parts = {
            "vision": vision.fingerprint,
            "text": text.fingerprint,
            "tokenizer": text.tokenizer_fingerprint,
            "preprocessing": fingerprint({}, preprocessing_facts(settings.data)),
        }
        if language_model is not None:
            parts["language_model"] = language_model.fingerprint
        return cls(vision, text, parts, language_model)


def _check_room(model: LanguageModel, num_slice_tokens: int) -> None:
    if num_slice_tokens >= model.max_positions:
        raise DataError(
            f"weights: '{model.name}' has {model.max_positions} positions, wanted {num_slice_tokens + 1} for "
            "the slice tokens of an exam and the class token",
            f"'{model.name}' has too few positions for the slices",
        )


def zero_shot_prompts(settings: Settings) -> list[tuple[list[str], list[str]]]:
    """For each finding the wordings of 'present' and of 'absent'."""
    config = settings.evaluation
    sides = (
        (config.positive_prompts, config.positive_variants),
        (config.negative_prompts, config.negative_variants),
    )
    present, absent = (
        [wordings(finding, prompts, variants) for finding in config.findings] for prompts, variants in sides
    )
    return list(zip(present, absent, strict=True))


def wordings(finding: str, prompts: tuple[str, ...], variants: tuple[str, ...]) -> list[str]:
    """The prompts of one finding, then its own variants; each different one once."""
    own = [variant.removeprefix(f"{finding}: ") for variant in variants if variant.startswith(f"{finding}: ")]
    return list(dict.fromkeys([*(prompt.format(finding=finding) for prompt in prompts), *own]))
