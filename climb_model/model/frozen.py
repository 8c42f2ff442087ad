"""Both frozen encoders of a study, and the fingerprints that every site must share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from climb_model.model.text import ReportEncoder, load_text
from climb_model.model.vision import SliceEncoder, load_vision
from climb_model.model.weights import fingerprint
from configs.schema import Settings

PREPROCESSING_VERSION = 1
"""Raised with every change of preprocessing that changes a voxel."""


@dataclass(frozen=True)
class FrozenEncoders:
    """The encoders that never train and never travel."""

    vision: SliceEncoder
    text: ReportEncoder
    fingerprint: dict[str, str]
    """`vision`, `text`, `tokenizer` and `preprocessing` to their SHA-256. All four decide a site's tokens."""

    @classmethod
    def load(cls, settings: Settings, weights: Path | None = None) -> FrozenEncoders:
        """Load what the settings name, from `weights` if given, and probe the tokenizer with all prompts.

        Raises:
            DataError: if weights are missing or incomplete, or a prompt has unknown tokens.
        """
        vision = load_vision(settings.model.vision, settings.data, weights)
        text = load_text(settings.model.text, weights)
        text.probe([prompt for pair in zero_shot_prompts(settings) for side in pair for prompt in side])
        parts = {
            "vision": vision.fingerprint,
            "text": text.fingerprint,
            "tokenizer": text.tokenizer_fingerprint,
            "preprocessing": fingerprint({}, {"version": PREPROCESSING_VERSION, **asdict(settings.data)}),
        }
        return cls(vision, text, parts)


def zero_shot_prompts(settings: Settings) -> list[tuple[list[str], list[str]]]:
    """For each finding the wordings of 'present' and of 'absent'."""
    config = settings.evaluation
    return [
        (
            [prompt.format(finding=finding) for prompt in config.positive_prompts],
            [prompt.format(finding=finding) for prompt in config.negative_prompts],
        )
        for finding in config.findings
    ]
