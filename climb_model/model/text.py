"""Frozen report encoders: German text in, token vectors out."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor

from climb_model.data.exam import DataError
from climb_model.model.climb import ReportTokens
from climb_model.model.language_model import LanguageModel, is_language_model, load_language_model
from climb_model.model.weights import fingerprint, load_failure, show_loading_bars, weights_source
from configs.schema import BUILTIN_GERMAN, TextConfig

BERT_FILES = ("config.json", "model.safetensors", "tokenizer.json")
GERMAN_TOKENIZER = Path(__file__).parents[1] / "data" / "german_tokenizer.json"
BUILTIN_SEED = 20250701
UNKNOWN = "[UNK]"

KEPT_TEXTS = 5_000
"""Texts whose frozen vectors stay in memory; a sentence of 20 pieces takes 60 kB."""


@dataclass(frozen=True)
class TokenizedText:
    """A text as piece numbers, without special tokens."""

    pieces: tuple[int, ...]
    num_unknown: int
    num_cut: int
    """Pieces behind these, for which there was no room."""


@dataclass(frozen=True)
class Signs:
    """Pieces of a tokenizer that mean no word."""

    unknown: int | None
    """Stands for what the tokenizer does not know; None where nothing is unknown."""

    end: int
    """Ends a report when one is written."""

    blanks: bool = False
    """Whether pieces hold the blank before a word, as a language model's do."""


class ReportEncoder:
    """Tokenizer and frozen tables, and for `encoder` all layers of a BERT.

    A text is encoded alone and unpadded, so its vectors cannot depend on the batch it is in.
    """

    def __init__(
        self,
        config: TextConfig,
        tokenizer: Tokenizer,
        words: Float[Tensor, "piece dim"],
        positions: Float[Tensor, "position dim"],
        bert: torch.nn.Module | None,
        tensors_fingerprint: str,
        signs: Signs | None = None,
    ) -> None:
        """Keep what a report is encoded with.

        Args:
            signs: None looks for BERT's.
        """
        self.config = config
        self.tokenizer = tokenizer
        self.words = words
        self.positions = positions
        self.bert = bert
        self.fingerprint = tensors_fingerprint
        self.tokenizer_fingerprint = fingerprint({}, {"tokenizer": tokenizer.to_str()})
        self.max_tokens = min(config.max_tokens, len(positions)) - (0 if bert is None else 2)
        found = bert_signs(tokenizer, config.weights) if signs is None else signs
        self.unknown = found.unknown
        self.end = found.end
        self.blanks = found.blanks
        self._kept: dict[tuple[int, ...], Tensor] = {}

    def tokenize(self, text: str) -> TokenizedText:
        """Piece numbers of a text, at most `max_tokens`.

        Where blanks are part of the pieces, a text begins with one: sentences are joined later, and a
        word is the same word wherever it stands.
        """
        whole = self.tokenizer.encode(f" {text}" if self.blanks else text, add_special_tokens=False).ids
        pieces = whole[: self.max_tokens]
        num_unknown = 0 if self.unknown is None else pieces.count(self.unknown)
        return TokenizedText(tuple(pieces), num_unknown, len(whole) - len(pieces))

    def probe(self, prompts: Sequence[str]) -> None:
        """Refuse a tokenizer that does not know the words of the prompts.

        A tokenizer that failed to load answers with unknown tokens only, in silence; one without a
        sign for the unknown leaves out what it does not know.
        """
        for prompt in prompts:
            text = self.tokenize(prompt)
            if text.num_unknown or not text.pieces:
                raise DataError(
                    f"tokenizer of '{self.config.weights}': prompt '{prompt}' has {text.num_unknown} unknown "
                    f"tokens of {len(text.pieces)}, wanted none",
                    f"the tokenizer of '{self.config.weights}' does not know the prompts",
                )
            if text.num_cut:  # the prompts of two findings could be cut to one
                raise DataError(
                    f"tokenizer of '{self.config.weights}': prompt '{prompt}' has "
                    f"{len(text.pieces) + text.num_cut} tokens, model.text.max_tokens leaves room for "
                    f"{self.max_tokens}",
                    "model.text.max_tokens leaves too little room for the prompts",
                )
            if self.unknown is None:
                self._probe_whole(prompt)

    def _probe_whole(self, prompt: str) -> None:
        back = self.tokenizer.decode(self.tokenizer.encode(prompt, add_special_tokens=False).ids)
        if letters(back) != letters(prompt):
            raise DataError(
                f"tokenizer of '{self.config.weights}': prompt '{prompt}' comes back as {back!r}, "
                "wanted it whole",
                f"the tokenizer of '{self.config.weights}' does not know the prompts",
            )

    @torch.no_grad()
    def word_vectors(self, pieces: tuple[int, ...]) -> Float[Tensor, "token dim"]:
        """Each token's own vector and position: nothing of the tokens around it, whatever the kind."""
        ids = torch.tensor(pieces, dtype=torch.long)
        return self.words[ids] + self.positions[: len(ids)]

    @torch.no_grad()
    def vectors(self, pieces: tuple[int, ...]) -> Float[Tensor, "token dim"]:
        """Frozen vectors of one text, float32."""
        if self.bert is None:
            return self.word_vectors(pieces)
        if pieces not in self._kept:
            if len(self._kept) >= KEPT_TEXTS:
                self._kept.pop(next(iter(self._kept)))  # the oldest
            first, last = (self.tokenizer.token_to_id(sign) for sign in bert_ends(self.tokenizer))
            ids = torch.tensor([[first, *pieces, last]])
            self._kept[pieces] = self.bert(input_ids=ids).last_hidden_state[0, 1:-1].clone()
        return self._kept[pieces]

    def batch(self, texts: Sequence[tuple[int, ...]]) -> ReportTokens:
        """Padded vectors of several texts, with the mask of what is real."""
        return padded([self.vectors(pieces) for pieces in texts])

    def word_batch(self, texts: Sequence[tuple[int, ...]]) -> ReportTokens:
        """`batch` of `word_vectors`: what a generator may read, since it is to write the words behind."""
        return padded([self.word_vectors(pieces) for pieces in texts])


def padded(vectors: Sequence[Float[Tensor, "_ dim"]]) -> ReportTokens:
    """Texts of different lengths in one tensor, padded at the end."""
    present = torch.zeros(len(vectors), max(map(len, vectors)), dtype=torch.bool)
    for row, value in zip(present, vectors, strict=True):
        row[: len(value)] = True
    return ReportTokens(torch.nn.utils.rnn.pad_sequence(list(vectors), batch_first=True), present)


def bert_ends(tokenizer: Tokenizer) -> tuple[str, str]:
    """The signs a BERT or XLM-R tokenizer puts around a text."""
    return ("[CLS]", "[SEP]") if tokenizer.token_to_id("[CLS]") is not None else ("<s>", "</s>")


def bert_signs(tokenizer: Tokenizer, name: str) -> Signs:
    """The pieces without a word of a BERT or XLM-R tokenizer."""
    pieces = tokenizer.get_vocab()
    first, last = bert_ends(tokenizer)
    if first not in pieces or last not in pieces:
        raise DataError(
            f"tokenizer of '{name}' has no pieces {first} and {last}, which stand around a text",
            f"the tokenizer of '{name}' lacks the signs around a text",
        )
    return Signs(pieces.get(UNKNOWN, pieces.get("<unk>")), pieces[last])


def letters(text: str) -> str:
    """A text without blanks, its signs composed."""
    return "".join(unicodedata.normalize("NFC", text).split())


def load_text(config: TextConfig, weights: Path | None) -> ReportEncoder:
    """The report encoder that the settings name; there is no fallback to another one."""
    if config.weights == BUILTIN_GERMAN:
        return builtin_german(config)
    if not is_language_model(config.weights, weights):
        return load_bert(config, weights)
    if config.kind != "embeddings":
        raise DataError(
            f"model.text.kind '{config.kind}' needs a BERT; '{config.weights}' is a causal language model, "
            "of which 'embeddings' takes the word table",
            f"'{config.weights}' has no encoder",
        )
    return word_table_of(
        load_language_model(config.weights, weights, width=config.width, whole=False), config
    )


def word_table_of(model: LanguageModel, config: TextConfig) -> ReportEncoder:
    """A causal language model's tokenizer and word table; positions are the fusion's alone."""
    room = min(config.max_tokens, model.max_positions - 1)  # the class token stands behind
    return ReportEncoder(
        config,
        model.tokenizer,
        model.words,
        torch.zeros(1, 1).expand(room, config.width),
        None,
        fingerprint({"words": model.words}, {"text": "language model", "kind": config.kind}),
        Signs(model.unknown, model.end, blanks=True),
    )


def builtin_german(config: TextConfig) -> ReportEncoder:
    """The demo's tables: seeded random word vectors over a small German vocabulary, sine positions."""
    if config.kind != "embeddings":
        raise DataError(
            f"model.text.kind '{config.kind}' needs a BERT; '{BUILTIN_GERMAN}' has tables only",
            f"'{BUILTIN_GERMAN}' has no encoder",
        )
    tokenizer = Tokenizer.from_file(str(GERMAN_TOKENIZER))
    words = stem_vectors(tokenizer, config.width)
    place = torch.arange(config.max_tokens)[:, None]
    rate = 10_000.0 ** (-torch.arange(0, config.width, 2)[None, :] / config.width)
    positions = 0.1 * torch.stack([(place * rate).sin(), (place * rate).cos()], dim=-1).flatten(1)
    positions = positions[:, : config.width]
    tensors = {"words": words, "positions": positions}
    return ReportEncoder(
        config, tokenizer, words, positions, None, fingerprint(tensors, {"text": BUILTIN_GERMAN})
    )


def stem_vectors(tokenizer: Tokenizer, width: int) -> Float[Tensor, "piece dim"]:
    """Seeded random vectors; `karzinom` and `##karzinom` share one, as words of a stem nearly do."""
    generator = torch.Generator().manual_seed(BUILTIN_SEED)
    drawn = torch.randn(tokenizer.get_vocab_size(), width, generator=generator)
    vocabulary = tokenizer.get_vocab()
    stems = {piece: vocabulary.get(piece.removeprefix("##"), number) for piece, number in vocabulary.items()}
    order = [stems[piece] for piece, _ in sorted(vocabulary.items(), key=lambda item: item[1])]
    return drawn[torch.tensor(order)]


def load_bert(config: TextConfig, weights: Path | None) -> ReportEncoder:
    """A BERT by hub name or from a local folder: its tables, or all of it, frozen in float32."""
    from transformers import AutoTokenizer, BertModel

    source = weights_source(config.weights, weights, BERT_FILES)
    local = weights is not None
    show_loading_bars(shown=not local)
    try:
        loaded: Any = BertModel.from_pretrained(
            source,
            dtype=torch.float32,
            local_files_only=local,
            add_pooling_layer=False,
            output_loading_info=True,
        )
        bert, loading = loaded
        fast = AutoTokenizer.from_pretrained(source, local_files_only=local, use_fast=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise load_failure(config.weights, error) from None
    if loading["missing_keys"]:
        lost = sorted(loading["missing_keys"])
        raise DataError(
            f"weights: '{config.weights}' lacks {len(lost)} tensors, first '{lost[0]}'",
            f"weights of '{config.weights}' are incomplete",
        )
    if bert.config.hidden_size != config.width:
        raise DataError(
            f"weights: '{config.weights}' is {bert.config.hidden_size} wide, "
            f"model.text.width is {config.width}",
            f"weights of '{config.weights}' have another width",
        )
    tokenizer: Tokenizer = fast.backend_tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    words = bert.embeddings.word_embeddings.weight.detach()
    positions = bert.embeddings.position_embeddings.weight.detach()
    if tokenizer.get_vocab_size() > len(words):
        raise DataError(
            f"weights: '{config.weights}' has {tokenizer.get_vocab_size()} pieces "
            f"but {len(words)} word vectors",
            f"tokenizer and weights of '{config.weights}' do not belong together",
        )
    whole = config.kind == "encoder"
    bert = bert.eval().requires_grad_(False)
    frozen = bert.state_dict() if whole else {"words": words, "positions": positions}
    described: dict[str, Any] = bert.config.to_diff_dict() if whole else {}
    described.pop("_name_or_path", None)
    facts = {"text": "bert", "kind": config.kind, "config": described}
    return ReportEncoder(
        config, tokenizer, words, positions, bert if whole else None, fingerprint(frozen, facts)
    )
