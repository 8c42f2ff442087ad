"""Every setting of a study, with its unit, its default and what is possible."""

from __future__ import annotations

from dataclasses import dataclass, field

BUILTIN_FILTERS = "builtin:filters"
"""Name of the demo's frozen slice encoder: fixed filters, no download."""
BUILTIN_GERMAN = "builtin:german"
"""Name of the demo's frozen German word table and tokenizer, in the tree."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the model sees of an exam; the `data` section. Part of the fingerprint."""

    sequences: tuple[str, ...] = ("Pre", "Sub", "T2")
    """Sequences in token order. One may be absent in an exam."""

    slices: int = 32
    """Slices of the model's grid; fewer are padded under the mask, more are cropped to the centre."""

    rows: int = 224
    columns: int = 224
    """In-plane size of the model's grid, in pixels."""

    spacing_mm: tuple[float, float, float] = (3.0, 0.7, 0.7)
    """Distance of voxel centres in mm: slice, row, column."""

    clip_percentiles: tuple[float, float] = (0.5, 99.5)
    """Foreground values are clipped at these percentiles before the z-score."""

    num_views: int = 1
    """Kept views of each training exam's tokens. View 0 is the exam itself; the others are slightly
    shifted and re-scaled in intensity, never mirrored (a mirror would contradict the report)."""

    keep_prepared: bool = False
    """Keep each exam's preprocessed crop in the site's private folder, 9.6 MB an exam, so that other frozen
    weights or views need no second preparation. Values are then rounded to float16. Neither in the
    fingerprint nor in the hash."""


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The frozen slice encoder; `model.vision`."""

    weights: str = "facebook/dinov2-small"
    """Hub name of a Dinov2 model, the name of a folder below `--weights`, or `builtin:filters`."""

    width: int = 384
    """Width of a slice token."""

    precision: str = "float32"
    """Of DINOv2's computation. `bfloat16` is three times as fast on a CPU that has matrix instructions for
    it, and part of the fingerprint: every site must have the same."""


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The frozen report encoder; `model.text`."""

    weights: str = "GerMedBERT/medbert-512"
    """Hub name of a BERT or of a causal language model (Llama, Gemma: its table only), the name of a folder
    below `--weights`, or `builtin:german`."""

    kind: str = "embeddings"
    """`embeddings`: word (and position) tables only. `encoder`: all layers of a BERT."""

    width: int = 768
    """Width of a text token before the projection."""

    max_tokens: int = 512
    """Longest report in tokens."""


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """The shared transformer; `model.fusion`."""

    width: int = 384
    depth: int = 4
    heads: int = 12
    head_width: int = 64
    ff_mult: int = 1
    rotary_width: int = 32
    """Dimensions of each head that are rotated."""

    max_slice_tokens: int = 192
    """Rows of the learned slice position table; sequences x slices may not exceed it."""

    flash: bool = True
    """Fused attention kernels in the library's own pass, which runs on a GPU or with dropout."""

    dropout: float = 0.0

    causal: bool = False
    """Each token sees only those before it, as in the released reference code; else all see all."""

    language_model: str = ""
    """Hub name, or a folder's name below `--weights`, of a frozen causal language model that replaces
    the transformer, between trained projections in and out; empty: the transformer."""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """What writes reports and predicts slices; `model.generators`. Built for objectives of weight > 0."""

    kind: str = "separate"
    """`separate`: a causal decoder each, private to the site. `reused`: the shared transformer itself,
    as in the released reference code; then everything it learns from report text is shared."""

    depth: int = 4
    """Layers of a separate decoder; its width and heads are the fusion's."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The `model` section of a preset."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    generators: GeneratorConfig = field(default_factory=GeneratorConfig)


@dataclass(frozen=True, kw_only=True)
class ObjectivesConfig:
    """Weights of the three losses; `objectives`. 0 leaves one out, with the modules only it needs."""

    clip: float = 1.0
    """Contrast of images and reports (CLIP, Radford et al. 2021). Never 0: diagnosis rests on it."""

    coca: float = 1.0
    """The report, token by token, from the image (CoCa, Yu et al. 2022)."""

    inverse_coca: float = 1.0
    """The slice tokens, one by one, from the report."""

    image_loss: str = "smooth_l1"
    """Of inverse CoCa. `smooth_l1`: on layer-normed slice tokens; `soft_cross_entropy`: between the
    softmax of the token and of the prediction, as in the released reference code."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Local training at a site; the `training` section."""

    batch_size: int = 32
    """Exams in a batch, whatever the number of processes."""

    learning_rate: float = 5e-4
    warmup_from: float = 1e-7
    """Learning rate at global step 0."""

    warmup_steps: int = 1000
    """Global steps of linear warm-up; the count runs on across rounds."""

    adam_betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay of the gradient's mean and of its square. A short memory of the square (0.95)
    lets training leave the plateau behind the first steps sooner; CLIP itself used 0.98."""

    weight_decay: float = 0.01
    """AdamW's; never on norms, embeddings, the class token or the temperature."""

    steps_per_round: int = 0
    """Optimizer steps a site takes in a round; 0 is one pass over its training exams."""

    report_sentences: int = 0
    """Train on at most this many random sentences of each report (ConVIRT, Zhang et al. 2020, draws one);
    0 is the whole report."""

    texts_per_exam: int = 1
    """Drawings of sentences per exam and step; all different texts of a step are contrasted with all its
    images. Needs `report_sentences`: a whole report is drawn once."""

    token_noise: float = 0.0
    """Standard deviation of noise added to slice tokens, in units of their own spread."""

    slice_dropout: float = 0.0
    """Chance that a slice token is hidden in a training step."""

    chunk_size: int = 0
    """Exams, or texts, whose activations are in memory at once (GradCache, Gao et al. 2021): the same
    gradients for a second forward pass. 0 is the whole batch in one pass."""

    max_gradient_norm: float = 1.0
    precision: str = "float32"
    """`float32` or `bfloat16` (autocast; loss and optimizer stay float32)."""

    num_threads: int = 2
    """CPU threads of a site's training; fixed, so that every engine adds in the same order."""


@dataclass(frozen=True, kw_only=True)
class FederationConfig:
    """How rounds are run; the `federation` section."""

    num_rounds: int = 50
    """Rounds of local training and averaging."""

    min_sites: int = 2
    """Fewest sound replies a round may be averaged from."""

    max_exams: int = 100_000
    """Largest weight (training exams) a reply may claim."""

    max_update_norm: float = 100.0
    """Largest Euclidean distance of a reply from the round's start, over all shared tensors."""

    reset_optimizer: bool = False
    """Forget the optimizer's moments at the start of each round."""

    payload: str = "float32"
    """How shared tensors travel. `float16` halves the bytes: sites train from weights rounded to it and reply
    with the difference they made; the server keeps and averages float32."""

    round_timeout_s: float = 3600.0
    """Longest time a site has for its reply, in seconds."""

    deadline_factor: float = 3.0
    """Over a network, a round ends for late sites after this many times the median of what the sites' last
    replies took, training and both ways. 0: only `round_timeout_s` counts. Where no
    site was measured before, the time in which half of them answer takes the place of the median."""

    min_deadline_s: float = 300.0
    """Shortest deadline of that kind in seconds; longer than the 180 s that Flower lets an upload pause."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Zero-shot diagnosis on the server's own exams; the `evaluation` section."""

    findings: tuple[str, ...] = (
        "Fibroadenom",
        "Adenose",
        "Lymphknoten",
        "Zyste",
        "Fettgewebsnekrose",
        "Duktektasie",
        "Radiäre Narbe",
        "Duktales Karzinom in situ",
        "Karzinom",
    )
    positive_prompts: tuple[str, ...] = ("{finding}.",)
    """Wordings of 'present'; several are averaged."""

    negative_prompts: tuple[str, ...] = ("Kein {finding}.",)

    positive_variants: tuple[str, ...] = ()
    """Further wordings of one finding, as `FINDING: PROMPT`; averaged with the others."""

    negative_variants: tuple[str, ...] = ()
    """The same for 'absent', such as `Zyste: Keine Zyste.`: grammar differs from finding to finding."""

    split: str = "test"
    """Split of the server's exams that is reported."""

    specificity: float = 0.9
    """On the server's validation exams, at the threshold whose sensitivity is reported."""

    bootstrap: int = 1000
    """Patient-level bootstrap draws behind each interval."""

    max_unknown_share: float = 0.02
    """A site whose reports have a larger share of unknown tokens is refused."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One study, whole: what a preset file holds. Paths are never part of it."""

    preset: str = "climb"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objectives: ObjectivesConfig = field(default_factory=ObjectivesConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
