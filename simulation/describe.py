"""What a model consists of: modules, parameters, what trains and what is shared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from climb_model.model.climb import build_model
from climb_model.sharing import shared_spec
from configs.schema import Settings


@dataclass(frozen=True, kw_only=True)
class ModelPart:
    """One module of the trainable model, or its parameters outside any module."""

    name: str
    parameters: int
    trainable: int
    shared: int
    """Parameters that travel in every round."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """The trainable model in numbers, and the names of the frozen encoders that feed it."""

    preset: str
    vision: str
    text: str
    language_model: str
    """Empty where the fusion is a transformer of its own."""

    parts: tuple[ModelPart, ...]
    shared_tensors: dict[str, tuple[int, ...]]
    """Name to shape, sorted by name."""

    @property
    def trainable_parameters(self) -> int:
        """All that a site trains."""
        return sum(part.trainable for part in self.parts)

    @property
    def shared_parameters(self) -> int:
        """All that a site sends and receives in a round."""
        return sum(part.shared for part in self.parts)

    def to_json(self) -> dict[str, object]:
        """The description as JSON's types."""
        return {
            "preset": self.preset,
            "frozen": {"vision": self.vision, "text": self.text, "language_model": self.language_model},
            "modules": [
                {
                    "name": part.name,
                    "parameters": part.parameters,
                    "trainable": part.trainable,
                    "shared": part.shared,
                }
                for part in self.parts
            ],
            "trainable_parameters": self.trainable_parameters,
            "shared_parameters": self.shared_parameters,
            "shared_bytes": 4 * self.shared_parameters,
            "shared_tensors": {name: list(shape) for name, shape in self.shared_tensors.items()},
        }


def describe(settings: Settings) -> Description:
    """Count the model of some settings. It is built without memory for weights, and none are loaded."""
    with torch.device("meta"):
        model = build_model(settings)
    spec = shared_spec(model)
    return Description(
        preset=settings.preset,
        vision=settings.model.vision.weights,
        text=settings.model.text.weights,
        language_model=settings.model.fusion.language_model,
        parts=_parts(model, set(spec)),
        shared_tensors=spec,
    )


def _parts(model: nn.Module, shared: set[str]) -> tuple[ModelPart, ...]:
    """One part for each child module with parameters, in the model's order, then the loose parameters."""
    names = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
    grouped: dict[str, list[tuple[str, nn.Parameter]]] = {name: [] for name in names}
    for name, value in model.named_parameters():
        child = name.partition(".")[0]
        grouped.setdefault(child, []).append((name, value))
    return tuple(
        ModelPart(
            name=name,
            parameters=sum(value.numel() for _, value in values),
            trainable=sum(value.numel() for _, value in values if value.requires_grad),
            shared=sum(value.numel() for full, value in values if full in shared),
        )
        for name, values in grouped.items()
    )


def to_text(description: Description) -> str:
    """The description as a table for people, numbers right-aligned."""
    rows = [("module", "parameters", "trains", "shared")]
    rows += [
        (part.name, f"{part.parameters:,}", f"{part.trainable:,}", f"{part.shared:,}")
        for part in description.parts
    ]
    total = sum(part.parameters for part in description.parts)
    rows.append(
        (
            "all",
            f"{total:,}",
            f"{description.trainable_parameters:,}",
            f"{description.shared_parameters:,}",
        )
    )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([row[0].ljust(widths[0])] + [row[column].rjust(widths[column]) for column in (1, 2, 3)])
        for row in rows
    ]
    rule = "-" * len(lines[0])
    megabytes = 4 * description.shared_parameters / 1e6
    return "\n".join(
        [
            f"preset {description.preset}",
            f"frozen: slices by {description.vision}, reports by {description.text}"
            + (f", fusion by {description.language_model}" if description.language_model else ""),
            "",
            lines[0],
            rule,
            *lines[1:-1],
            rule,
            lines[-1],
            "",
            f"{len(description.shared_tensors)} tensors are shared: "
            f"{megabytes:.1f} MB in float32 per site, direction and round",
        ]
    )
