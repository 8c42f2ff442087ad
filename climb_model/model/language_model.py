"""A frozen causal language model: its word table, and the whole of it as fusion transformer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn

from climb_model.data.exam import DataError
from climb_model.model.weights import (
    fingerprint,
    load_failure,
    quiet_reports,
    show_loading_bars,
    weights_source,
)
from configs.schema import FusionConfig

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")
SIGNS_FILE = "tokenizer_config.json"
"""Says which pieces are signs; without it transformers guesses by the model's type."""

UNSTEADY = ("_name_or_path", "transformers_version", "dtype")
"""Entries of a configuration that differ between equal models."""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A frozen Llama, Gemma or other causal model; nothing in it is a parameter of what holds it."""

    name: str
    tokenizer: Tokenizer
    words: Float[Tensor, "piece dim"]
    """The word table as the model's own input embedding gives it, float32; Gemma scales it."""

    spread: float
    """Standard deviation of the word table."""

    end: int
    """Piece that ends a text."""

    unknown: int | None
    """Piece of what the tokenizer does not know; None where it knows every byte."""

    max_positions: int
    layers: nn.Module | None
    """The model without its output head; None if only the table was loaded."""

    fingerprint: str
    """Of the layers and their configuration; empty without layers."""


class LanguageModelFusion(nn.Module):
    """A frozen language model in the place of `Fusion`, between trained projections in and out.

    Report tokens are the model's own word vectors. Slice tokens are of another width: `enter` first.
    The model is causal; the class token stands behind the last *real* token. What is not present is
    moved behind the class token, where nothing sees it, because sliding windows (Gemma) count tokens
    and not positions. So neither padding nor the other exams of a batch change an exam's result.
    """

    def __init__(self, config: FusionConfig, words_width: int, frozen: LanguageModel | None) -> None:
        """Build the trained part.

        Args:
            words_width: width of the language model.
            frozen: with its layers; None only to count parameters.
        """
        super().__init__()
        self.width = config.width
        self.words_width = words_width
        self.frozen = frozen  # no module, so neither trained nor sent nor in the state
        self.spread = 1.0 if frozen is None else frozen.spread
        self.inward = nn.Linear(config.width, words_width, bias=False)
        self.class_token = nn.Parameter(torch.empty(words_width).normal_())
        self.outward = nn.Linear(words_width, config.width, bias=False)
        self.projection = nn.Linear(config.width, config.width, bias=False)

    def enter(
        self, tokens: Float[Tensor, "exam token dim"], present: Bool[Tensor, "exam token"]
    ) -> Float[Tensor, "exam token word_dim"]:
        """Slice tokens in the language model's width, about as large as its words."""
        return self.spread * self.inward(tokens.masked_fill(~present[..., None], 0.0))

    def forward(
        self,
        tokens: Float[Tensor, "exam token word_dim"],
        present: Bool[Tensor, "exam token"],
        index: Int[Tensor, "exam token"],
        class_index: Int[Tensor, " exam"],
        *,
        all_states: bool = True,
    ) -> tuple[Float[Tensor, "exam dim"], Float[Tensor, "exam state dim"]]:
        """Fuse one modality's tokens.

        Args:
            tokens: token values; those not present are ignored.
            present: True where a token is real.
            index: rotary position of each token, unchanged by masking.
            class_index: rotary position of the class token.
            all_states: False gives the class token's state alone.

        Returns:
            Unit-length embeddings, and the states of all tokens in the fusion's width, the class
            token last.
        """
        layers = None if self.frozen is None else self.frozen.layers
        assert layers is not None, "built only to be counted"
        layers.to(tokens.device)  # no submodule, so `model.to` does not move it
        num_exams = tokens.shape[0]
        class_token = (self.spread * self.class_token).to(tokens.dtype).expand(num_exams, 1, -1)
        inputs = torch.cat([tokens.masked_fill(~present[..., None], 0.0), class_token], dim=1)
        real = torch.cat([present, present.new_ones(num_exams, 1)], dim=1)
        positions = torch.cat([index, class_index[:, None]], dim=1)
        order = torch.argsort((~real).int(), dim=1, stable=True)  # real tokens first, as they stand
        hidden = layers(
            inputs_embeds=torch.take_along_dim(inputs, order[..., None], dim=1),
            attention_mask=torch.take_along_dim(real, order, dim=1),
            position_ids=torch.take_along_dim(positions, order, dim=1),
            use_cache=False,
        ).last_hidden_state
        hidden = torch.take_along_dim(hidden, order.argsort(dim=1)[..., None], dim=1)
        states = self.outward(hidden if all_states else hidden[:, -1:])
        return F.normalize(self.projection(states[:, -1]).float(), dim=-1), states


def is_language_model(name: str, weights: Path | None) -> bool:
    """Whether a name is a causal language model's; False for a BERT and its like.

    Raises:
        DataError: if its configuration cannot be read, or it is neither.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    source = weights_source(name, weights, MODEL_FILES)
    try:
        kind = AutoConfig.from_pretrained(source, local_files_only=weights is not None).model_type
    except (OSError, ValueError, KeyError) as error:
        raise load_failure(name, error) from None
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES:  # BERT can be run as a causal model too
        return False
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return True
    raise DataError(
        f"weights: '{name}' is of type '{kind}', wanted a BERT or a causal language model",
        f"weights of '{name}' are of another type than a BERT or a causal language model",
    )


def load_language_model(name: str, weights: Path | None, *, width: int, whole: bool) -> LanguageModel:
    """A causal language model by hub name or from a local folder, frozen, in float32.

    Args:
        width: that the settings expect of its word table.
        whole: with its layers, else the word table alone.

    Raises:
        DataError: if weights are missing, incomplete, gated, or of another width.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source, local = weights_source(name, weights, (*MODEL_FILES, SIGNS_FILE)), weights is not None
    show_loading_bars(shown=not local)
    try:
        config: Any = AutoConfig.from_pretrained(source, local_files_only=local)
        text_config = config.get_text_config()
        if not whole:  # the layers' tensors are then not read
            text_config.num_hidden_layers = 0
            if hasattr(text_config, "layer_types"):
                text_config.layer_types = []
        with quiet_reports():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source, config=config, dtype=torch.float32, local_files_only=local, output_loading_info=True
            )
        model, loading = loaded
        fast: Any = AutoTokenizer.from_pretrained(source, local_files_only=local, use_fast=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise load_failure(name, error) from None
    if loading["missing_keys"]:
        lost = sorted(loading["missing_keys"])
        raise DataError(
            f"weights: '{name}' lacks {len(lost)} tensors, first '{lost[0]}'",
            f"weights of '{name}' are incomplete",
        )
    model = model.eval().requires_grad_(False)
    words = word_table(model.get_input_embeddings())
    tokenizer = plain_tokenizer(fast)
    end = first_end(fast.eos_token_id, text_config.eos_token_id)
    layers = model.get_decoder() if whole else None
    described = {key: value for key, value in text_config.to_diff_dict().items() if key not in UNSTEADY}
    return LanguageModel(
        name=name,
        tokenizer=tokenizer,
        words=words,
        spread=float(words.std()),
        end=_checked_end(name, words, tokenizer, end, width),
        unknown=fast.unk_token_id,
        max_positions=int(text_config.max_position_embeddings),
        layers=layers,
        fingerprint="" if layers is None else fingerprint(layers.state_dict(), {"config": described}),
    )


@torch.no_grad()
def word_table(embedding: nn.Module) -> Float[Tensor, "piece dim"]:
    """All word vectors as the embedding gives them, without a copy where it gives its own weights."""
    assert isinstance(embedding, nn.Embedding)
    if type(embedding) is nn.Embedding:
        return embedding.weight.detach()
    return embedding(torch.arange(embedding.num_embeddings)).detach()


def plain_tokenizer(fast: Any) -> Tokenizer:
    """The tokenizer itself, for whom a control sign that stands in a report is text like any other."""
    tokenizer: Tokenizer = fast.backend_tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer


def first_end(*candidates: int | list[int] | None) -> int | None:
    """The first end-of-text piece that is named; chat models name several."""
    for candidate in candidates:
        if isinstance(candidate, int):
            return candidate
        if candidate:
            return candidate[0]
    return None


def _checked_end(
    name: str, words: Float[Tensor, "piece dim"], tokenizer: Tokenizer, end: int | None, width: int
) -> int:
    """The end-of-text piece, if table, tokenizer and settings fit each other."""
    if words.shape[1] != width:
        raise DataError(
            f"weights: '{name}' is {words.shape[1]} wide, model.text.width is {width}",
            f"weights of '{name}' have another width",
        )
    # without added pieces: Gemma's tokenizer adds one for images, which its text model has no vector for
    pieces = tokenizer.get_vocab_size(with_added_tokens=False)
    if pieces > len(words):
        raise DataError(
            f"weights: '{name}' has {pieces} pieces but {len(words)} word vectors",
            f"tokenizer and weights of '{name}' do not belong together",
        )
    if end is None or not 0 <= end < len(words):
        raise DataError(
            f"weights: '{name}' must name an end-of-text piece below {len(words)}, got {end}",
            f"weights of '{name}' name no end of a text",
        )
    return end
