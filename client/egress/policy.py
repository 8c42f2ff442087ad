"""A site's policy: what may leave it, for whom, and how much. What is not in it stays."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, cast

import yaml

from client.egress.policy_text import AGREED, to_text
from climb_model.atomic import write_atomic
from climb_model.privacy_minimum import MIN_BATCH_TOKENS, MIN_EXAMS, MIN_STEPS, MIN_TOKENS
from configs.errors import UserError
from configs.keys import nearest
from configs.load import load_settings, preset_names

POLICY_FILE = "policy.yaml"
"""In the node's folder."""

ANY = "*"
DTYPES = ("float32", "float16")

HELLO, TRAIN, REFUSED = "hello", "train", "refused"
"""Sections of `numbers` and `words`."""

MAX_LINE = 300
"""Characters of a refusal's line, and of a word that has no length of its own below."""

_MAX_WORDS = {
    "site": 64,
    "version": 40,
    "versions": 1000,
    "fingerprint": 2000,
    "settings": 64,
    "summary": 3000,
    "notices": 3000,
}
_ONLY_SHARED_GENERATORS = ("image_head.", "start_token")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PATTERN = re.compile(r"[A-Za-z0-9_.]+\*?")


class PolicyFileError(UserError):
    """A policy that is missing or cannot be meant; one line for the site's own screen. Nothing leaves."""


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """The least that an update must be made from; `minimum`."""

    exams: int = MIN_EXAMS
    tokens: int = MIN_TOKENS
    batch_tokens: int = MIN_BATCH_TOKENS
    steps: int = MIN_STEPS


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What may leave a site. Whatever is not named here stays."""

    coordinators: tuple[str, ...]
    """SHA-256 of the certificates of the authorities behind which a coordinator may ask; hexadecimal."""

    studies: tuple[str, ...]
    """Names, or `*`."""

    presets: tuple[str, ...]
    """Names, or `*`."""

    tensors: Mapping[str, tuple[int, ...] | None]
    """Name, or beginning of names and `*`, to shape; None is `agreed`."""

    dtypes: tuple[str, ...]
    numbers: Mapping[str, tuple[str, ...]]
    """Message (`hello`, `train`) to the names of its numbers."""

    words: Mapping[str, Mapping[str, int]]
    """Message (`hello`, `refused`) to its words, each with the most characters it may have."""

    bytes_per_round: int
    bytes_per_run: int
    rounds_per_day: int
    """Updates in any 24 hours, of all studies together."""

    messages_per_day: int
    """Messages of the study's program in any 24 hours: updates, first exchanges, refusals of its own."""

    minimum: Minimum

    def names_tensor(self, name: str) -> bool:
        """Whether a tensor of this name may leave, in some shape."""
        return self._pattern(name) is not None

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """The shape that a tensor must have; None if it is the agreed one.

        Raises:
            KeyError: if no tensor of this name may leave.
        """
        pattern = self._pattern(name)
        if pattern is None:
            raise KeyError(name)
        return self.tensors[pattern]

    def _pattern(self, name: str) -> str | None:
        """The entry for a name: the name itself, or else the longest beginning that fits."""
        if name in self.tensors:
            return name
        fitting = [each for each in self.tensors if each.endswith(ANY) and name.startswith(each[:-1])]
        return max(fitting, key=len, default=None)


def default_policy(coordinators: Iterable[str]) -> Policy:
    """What a site begins with: what this version sends, without shared generators, for these coordinators.

    Args:
        coordinators: SHA-256 of their authorities' certificates, as `certificate_sha256` gives it.

    Raises:
        PolicyFileError: if one is no SHA-256.
    """
    from climb_model.sharing import (  # loads torch, which reading a policy does not need
        HELLO_NUMBERS,
        HELLO_WORDS,
        REFUSAL_WORDS,
        SHARED_PARTS,
        TRAIN_METRICS,
    )

    return Policy(
        coordinators=tuple(_digest("coordinators", each) for each in coordinators),
        studies=(ANY,),
        presets=tuple(
            name for name in preset_names() if load_settings(name).model.generators.kind == "separate"
        ),
        tensors={
            f"{part}{ANY}" if part.endswith(".") else part: None
            for part in SHARED_PARTS
            if part not in _ONLY_SHARED_GENERATORS
        },
        dtypes=DTYPES,
        numbers={HELLO: tuple(HELLO_NUMBERS), TRAIN: tuple(TRAIN_METRICS)},
        words={
            HELLO: {key: _MAX_WORDS.get(key, MAX_LINE) for key in HELLO_WORDS},
            REFUSED: {key: _MAX_WORDS.get(key, MAX_LINE) for key in REFUSAL_WORDS},
        },
        bytes_per_round=40_000_000,
        bytes_per_run=4_000_000_000,
        rounds_per_day=100,
        messages_per_day=500,
        minimum=Minimum(),
    )


def read_policy(path: Path) -> Policy:
    """The policy of a file.

    Raises:
        PolicyFileError: if the file is missing, a key is missing, unknown or given twice, or a value cannot
            be meant. No default stands in.
    """
    try:
        values: object = yaml.load(path.read_text("utf-8"), _Loader)
    except FileNotFoundError:
        raise PolicyFileError(f"{path} is missing: nothing leaves this site") from None
    except OSError as error:
        raise PolicyFileError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise PolicyFileError(f"{path} is no YAML text: {' '.join(str(error).split())[:200]}") from None
    try:
        return _policy(values)
    except PolicyFileError as error:
        raise PolicyFileError(f"{path}: {error}") from None


def write_policy(path: Path, policy: Policy) -> None:
    """Write a policy with a comment at each key; `read_policy` reads it back equal. Mode 0600."""
    write_atomic(path, to_text(policy).encode(), mode=0o600)


class _Loader(yaml.SafeLoader):
    """YAML without tags, and without a key that is given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):  # any other kind of key is refused below
                if key.value in seen:
                    raise yaml.YAMLError(f"{key.value!r} is given twice (line {key.start_mark.line + 1})")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _policy(values: object) -> Policy:
    given = _keys("", values, [field.name for field in fields(Policy)])
    minimum = _keys("minimum", given["minimum"], [field.name for field in fields(Minimum)])
    numbers = _keys("numbers", given["numbers"], [HELLO, TRAIN])
    words = _keys("words", given["words"], [HELLO, REFUSED])
    return Policy(
        coordinators=_items("coordinators", given["coordinators"], _digest),
        studies=_items("studies", given["studies"], _text),
        presets=_items("presets", given["presets"], _preset),
        tensors={
            _name(name): _shape(f"tensors.{name}", shape)
            for name, shape in _any_keys("tensors", given["tensors"]).items()
        },
        dtypes=_items("dtypes", given["dtypes"], _dtype),
        numbers={kind: _items(f"numbers.{kind}", names, _text) for kind, names in numbers.items()},
        words={
            kind: {
                key: _whole(f"words.{kind}.{key}", most, 0)
                for key, most in _any_keys(f"words.{kind}", lengths).items()
            }
            for kind, lengths in words.items()
        },
        bytes_per_round=_whole("bytes_per_round", given["bytes_per_round"], 0),
        bytes_per_run=_whole("bytes_per_run", given["bytes_per_run"], 0),
        rounds_per_day=_whole("rounds_per_day", given["rounds_per_day"], 0),
        messages_per_day=_whole("messages_per_day", given["messages_per_day"], 0),
        minimum=Minimum(**{key: _whole(f"minimum.{key}", value, 1) for key, value in minimum.items()}),
    )


def _any_keys(where: str, values: object) -> dict[str, object]:
    if not isinstance(values, dict) or not all(
        isinstance(key, str) for key in cast(dict[object, object], values)
    ):
        raise PolicyFileError(f"{where} must be names with values, got {_shown(values)}")
    return cast(dict[str, object], values)


def _keys(where: str, values: object, wanted: list[str]) -> dict[str, object]:
    """Exactly the wanted keys, in their order."""
    given = _any_keys(where or "a policy", values)
    prefix = f"{where}." if where else ""
    for key in given:
        if key not in wanted:
            close = nearest(key, wanted)
            hint = f"; did you mean '{prefix}{close}'?" if close else ""
            raise PolicyFileError(f"there is no key '{prefix}{key}'{hint}")
    for key in wanted:
        if key not in given:
            raise PolicyFileError(f"{prefix}{key} is missing; a policy has no defaults")
    return {key: given[key] for key in wanted}


def _items(where: str, values: object, item: Callable[[str, object], str]) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise PolicyFileError(f"{where} must be a list, got {_shown(values)}")
    return tuple(map(partial(item, where), cast(list[object], values)))


def _text(where: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise PolicyFileError(f"{where} must hold names, got {_shown(value)}")
    return value


def _digest(where: str, value: object) -> str:
    digest = _text(where, value).replace(":", "").lower()
    if not _DIGEST.fullmatch(digest):
        raise PolicyFileError(
            f"{where} must hold SHA-256 digests of 64 hexadecimal digits, got {_shown(value)}"
        )
    return digest


def _preset(where: str, value: object) -> str:
    name = _text(where, value)
    if name != ANY and name not in preset_names():
        close = nearest(name, preset_names())
        hint = f"; did you mean '{close}'?" if close else f"; there are {', '.join(preset_names())}"
        raise PolicyFileError(f"{where}: there is no preset {_shown(name)}{hint}")
    return name


def _dtype(where: str, value: object) -> str:
    if value not in DTYPES:
        raise PolicyFileError(f"{where} must be among {', '.join(DTYPES)}, got {_shown(value)}")
    return str(value)


def _name(name: str) -> str:
    if not _PATTERN.fullmatch(name):
        raise PolicyFileError(
            f"tensors: a name has letters, digits, '_' and '.', and may end in '*', got {_shown(name)}"
        )
    return name


def _shape(where: str, value: object) -> tuple[int, ...] | None:
    if value == AGREED:
        return None
    if not isinstance(value, list):
        raise PolicyFileError(
            f"{where} must be a shape such as [384, 768] or '{AGREED}', got {_shown(value)}"
        )
    return tuple(_whole(where, size, 1) for size in cast(list[object], value))


def _whole(where: str, value: object, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < math.inf:
        raise PolicyFileError(f"{where} must be a whole number >= {least}, got {_shown(value)}")
    return value


def _shown(value: object) -> str:
    return repr(value)[:60]
