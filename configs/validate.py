"""Which values of the settings are possible."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterator

from configs.schema import (
    BUILTIN_FILTERS,
    BUILTIN_GERMAN,
    DataConfig,
    EvaluationConfig,
    FederationConfig,
    GeneratorConfig,
    ModelConfig,
    ObjectivesConfig,
    Settings,
    TextConfig,
    TrainingConfig,
    VisionConfig,
)

Problem = tuple[str, str]
"""The key at fault and a sentence that begins with it: `must be ..., got ...`."""

PRECISIONS = ("float32", "bfloat16")
PAYLOADS = ("float32", "float16")
TEXT_KINDS = ("embeddings", "encoder")
GENERATOR_KINDS = ("separate", "reused")
IMAGE_LOSSES = ("smooth_l1", "soft_cross_entropy")
SERVER_SPLITS = ("val", "test")
"""Splits of the server's own exams; it has none to train on."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_SEQUENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def problems(settings: Settings) -> Iterator[Problem]:
    """Everything impossible in settings whose types are right, in the order of the schema."""
    yield from _number("seed", settings.seed, "in [0, 2**63)", lambda number: 0 <= number < 2**63)
    yield from _data(settings.data)
    yield from _model(settings.model, settings.data)
    yield from _objectives(settings.objectives)
    yield from _generators(settings.model.generators, settings)
    yield from _training(settings.training)
    yield from _federation(settings.federation)
    yield from _evaluation(settings.evaluation)


def _number(key: str, value: float, wanted: str, possible: Callable[[float], bool]) -> Iterator[Problem]:
    if not math.isfinite(value):
        yield key, f"must be finite and {wanted}, got {value!r}"
    elif not possible(value):
        yield key, f"must be {wanted}, got {value!r}"


def _at_least(key: str, value: float, least: int) -> Iterator[Problem]:
    yield from _number(key, value, f">= {least}", lambda number: number >= least)


def _positive(key: str, value: float) -> Iterator[Problem]:
    yield from _number(key, value, "> 0", lambda number: number > 0)


def _chance(key: str, value: float) -> Iterator[Problem]:
    yield from _number(key, value, "in [0, 1)", lambda number: 0 <= number < 1)


def _one_of(key: str, value: str, choices: tuple[str, ...]) -> Iterator[Problem]:
    if value not in choices:
        yield key, f"must be {' or '.join(map(repr, choices))}, got {value!r}"


def _names(key: str, values: tuple[str, ...]) -> Iterator[Problem]:
    """At least one name, none empty or padded with blanks, none twice whatever the case."""
    if not values:
        yield key, "must name at least one, got an empty list"
    seen: dict[str, str] = {}
    for value in values:
        if not value or value != value.strip() or not value.isprintable():
            yield key, f"must be texts without blanks around them, got {value!r}"
        folded = unicodedata.normalize("NFC", value).casefold()
        if folded in seen:
            yield key, f"must name each once, got {seen[folded]!r} and {value!r}"
        seen[folded] = value


def _data(data: DataConfig) -> Iterator[Problem]:
    yield from _names("data.sequences", data.sequences)
    for name in data.sequences:
        if name.strip() and not _SEQUENCE.fullmatch(name):
            yield "data.sequences", f"must be file names without ending, such as 'Pre', got {name!r}"
    yield from _at_least("data.slices", data.slices, 1)
    yield from _at_least("data.rows", data.rows, 1)
    yield from _at_least("data.columns", data.columns, 1)
    for spacing in data.spacing_mm:
        yield from _number("data.spacing_mm", spacing, "three distances > 0", lambda number: number > 0)
    low, high = data.clip_percentiles
    if not 0 <= low < high <= 100:
        yield "data.clip_percentiles", f"must be [low, high] with 0 <= low < high <= 100, got [{low}, {high}]"
    yield from _at_least("data.num_views", data.num_views, 1)


def _weights_name(key: str, value: str, builtin: str) -> Iterator[Problem]:
    """A name of published or built-in weights. A path has no place in settings: they travel."""
    if value.startswith("builtin:"):
        if value != builtin:
            yield key, f"must be a hub name, a folder's name or {builtin!r}, got {value!r}"
    else:
        yield from _hub_name(key, value, f", a folder's name or {builtin!r}")


def _hub_name(key: str, value: str, forms: str = " or a folder's name") -> Iterator[Problem]:
    if value.startswith(("/", "~", ".")) or "\\" in value or value.count("/") > 1:
        yield key, "is a name; give the folder with --weights, got a path"
    elif not _HUB_NAME.fullmatch(value):
        yield key, f"must be a hub name such as 'owner/name'{forms}, got {value!r}"


def _vision(vision: VisionConfig) -> Iterator[Problem]:
    yield from _weights_name("model.vision.weights", vision.weights, BUILTIN_FILTERS)
    yield from _at_least("model.vision.width", vision.width, 1)
    yield from _one_of("model.vision.precision", vision.precision, PRECISIONS)


def _text(text: TextConfig) -> Iterator[Problem]:
    yield from _weights_name("model.text.weights", text.weights, BUILTIN_GERMAN)
    yield from _one_of("model.text.kind", text.kind, TEXT_KINDS)
    if text.weights == BUILTIN_GERMAN and text.kind == "encoder":
        yield (
            "model.text.kind",
            f"must be 'embeddings' with {BUILTIN_GERMAN!r}, which has no layers, got 'encoder'",
        )
    yield from _at_least("model.text.width", text.width, 1)
    yield from _at_least("model.text.max_tokens", text.max_tokens, 4)


def _model(model: ModelConfig, data: DataConfig) -> Iterator[Problem]:
    yield from _vision(model.vision)
    yield from _text(model.text)
    fusion = model.fusion
    yield from _at_least("model.fusion.width", fusion.width, 1)
    if fusion.width != model.vision.width:
        yield (
            "model.fusion.width",
            f"must equal model.vision.width ({model.vision.width}): slice tokens enter the fusion "
            f"unprojected, got {fusion.width}",
        )
    yield from _at_least("model.fusion.depth", fusion.depth, 1)
    yield from _at_least("model.fusion.heads", fusion.heads, 1)
    yield from _at_least("model.fusion.head_width", fusion.head_width, 2)
    yield from _at_least("model.fusion.ff_mult", fusion.ff_mult, 1)
    if not 2 <= fusion.rotary_width <= fusion.head_width or fusion.rotary_width % 2:
        yield (
            "model.fusion.rotary_width",
            f"must be even, >= 2 and <= model.fusion.head_width ({fusion.head_width}), "
            f"got {fusion.rotary_width}",
        )
    needed = len(data.sequences) * data.slices
    if needed > fusion.max_slice_tokens:
        yield (
            "model.fusion.max_slice_tokens",
            f"must be >= {needed} ({len(data.sequences)} sequences x {data.slices} slices), "
            f"got {fusion.max_slice_tokens}",
        )
    yield from _chance("model.fusion.dropout", fusion.dropout)
    if fusion.language_model:
        yield from _language_model(fusion.language_model, model.text)


def _language_model(name: str, text: TextConfig) -> Iterator[Problem]:
    yield from _hub_name("model.fusion.language_model", name)
    if text.weights != name:
        yield (
            "model.text.weights",
            f"must be the language model of the fusion, whose own word table it reads ({name!r}), "
            f"got {text.weights!r}",
        )
    if text.kind != "embeddings":
        yield "model.text.kind", f"must be 'embeddings' with a language model as fusion, got {text.kind!r}"


def _objectives(objectives: ObjectivesConfig) -> Iterator[Problem]:
    yield from _positive("objectives.clip", objectives.clip)
    yield from _at_least("objectives.coca", objectives.coca, 0)
    yield from _at_least("objectives.inverse_coca", objectives.inverse_coca, 0)
    yield from _one_of("objectives.image_loss", objectives.image_loss, IMAGE_LOSSES)


def _generators(generators: GeneratorConfig, settings: Settings) -> Iterator[Problem]:
    yield from _one_of("model.generators.kind", generators.kind, GENERATOR_KINDS)
    yield from _at_least("model.generators.depth", generators.depth, 1)
    if generators.kind == "reused" and settings.objectives.coca and settings.model.text.kind == "encoder":
        yield (
            "objectives.coca",
            "must be 0 with reused generators and model.text.kind 'encoder', whose vectors of earlier words "
            f"hold the later ones, got {settings.objectives.coca}",
        )
    if generators.kind == "reused" and settings.model.fusion.language_model:
        yield "model.generators.kind", "must be 'separate' with a language model as fusion, got 'reused'"
    elif generators.kind == "reused" and not settings.model.fusion.causal:
        yield "model.generators.kind", "must be 'separate' unless model.fusion.causal is true, got 'reused'"


def _training(training: TrainingConfig) -> Iterator[Problem]:
    yield from _number(
        "training.batch_size",
        training.batch_size,
        ">= 2 (one exam has no other to be told from)",
        lambda number: number >= 2,
    )
    yield from _positive("training.learning_rate", training.learning_rate)
    yield from _number(
        "training.warmup_from",
        training.warmup_from,
        f"in (0, training.learning_rate ({training.learning_rate})]",
        lambda number: 0 < number <= training.learning_rate,
    )
    yield from _at_least("training.warmup_steps", training.warmup_steps, 0)
    yield from _at_least("training.weight_decay", training.weight_decay, 0)
    yield from _number(
        "training.steps_per_round",
        training.steps_per_round,
        ">= 0 (0 is one pass over the exams)",
        lambda number: number >= 0,
    )
    yield from _number(
        "training.report_sentences",
        training.report_sentences,
        ">= 0 (0 is the whole report)",
        lambda number: number >= 0,
    )
    yield from _number(
        "training.texts_per_exam",
        training.texts_per_exam,
        ">= 1, and 1 with report_sentences 0 (a whole report is drawn once)",
        lambda number: number == 1 or (number > 1 and training.report_sentences > 0),
    )
    for place, beta in enumerate(training.adam_betas):
        yield from _chance(f"training.adam_betas[{place}]", beta)
    yield from _at_least("training.token_noise", training.token_noise, 0)
    yield from _chance("training.slice_dropout", training.slice_dropout)
    yield from _number(
        "training.chunk_size",
        training.chunk_size,
        ">= 0 (0 is the whole batch in one pass)",
        lambda number: number >= 0,
    )
    yield from _positive("training.max_gradient_norm", training.max_gradient_norm)
    yield from _one_of("training.precision", training.precision, PRECISIONS)
    yield from _at_least("training.num_threads", training.num_threads, 1)


def _federation(federation: FederationConfig) -> Iterator[Problem]:
    yield from _at_least("federation.num_rounds", federation.num_rounds, 1)
    yield from _at_least("federation.min_sites", federation.min_sites, 1)
    yield from _at_least("federation.max_exams", federation.max_exams, 1)
    yield from _positive("federation.max_update_norm", federation.max_update_norm)
    yield from _one_of("federation.payload", federation.payload, PAYLOADS)
    yield from _positive("federation.round_timeout_s", federation.round_timeout_s)
    yield from _number(
        "federation.deadline_factor",
        federation.deadline_factor,
        "0 (no deadline but round_timeout_s) or >= 1",
        lambda number: number == 0 or number >= 1,
    )
    yield from _positive("federation.min_deadline_s", federation.min_deadline_s)


def _variants(key: str, values: tuple[str, ...], findings: tuple[str, ...]) -> Iterator[Problem]:
    for value in values:
        finding, colon, prompt = value.partition(": ")
        if not colon or not prompt.strip() or finding not in findings:
            yield (
                key,
                f"must be texts such as '{findings[0]}: PROMPT', of a finding in the list, got {value!r}",
            )
    if len(set(values)) < len(values):
        yield key, "must name each once, got one twice"


def _evaluation(evaluation: EvaluationConfig) -> Iterator[Problem]:
    yield from _names("evaluation.findings", evaluation.findings)
    for name in ("positive_prompts", "negative_prompts"):
        key = f"evaluation.{name}"
        prompts = evaluation.positive_prompts if name == "positive_prompts" else evaluation.negative_prompts
        yield from _names(key, prompts)
        for prompt in prompts:
            if "{finding}" not in prompt or set("{}") & set(prompt.replace("{finding}", "")):
                yield key, f"must contain '{{finding}}' and no other braces, got {prompt!r}"
    yield from _variants("evaluation.positive_variants", evaluation.positive_variants, evaluation.findings)
    yield from _variants("evaluation.negative_variants", evaluation.negative_variants, evaluation.findings)
    both = set(evaluation.positive_prompts) & set(evaluation.negative_prompts)
    if both:
        yield (
            "evaluation.negative_prompts",
            f"must differ from evaluation.positive_prompts, got {min(both)!r} in both",
        )
    yield from _one_of("evaluation.split", evaluation.split, SERVER_SPLITS)
    yield from _number(
        "evaluation.specificity", evaluation.specificity, "in (0, 1]", lambda number: 0 < number <= 1
    )
    yield from _at_least("evaluation.bootstrap", evaluation.bootstrap, 0)
    yield from _chance("evaluation.max_unknown_share", evaluation.max_unknown_share)
