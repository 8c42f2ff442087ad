"""The rules of a policy, each asked of what wants to leave."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

from client.egress.forms import NOTICES, has_form
from client.egress.policy import ANY, HELLO, MAX_LINE, REFUSED, TRAIN, Policy
from client.egress.records import ARRAYS, NUMBERS, WORDS, Reading, Tensor, unread
from climb_model.made_by import program_version
from climb_model.names import RunError
from climb_model.run_config import from_run_config
from configs.errors import SettingsError
from configs.load import preset_names
from configs.schema import Settings

HELLO_MESSAGE, TRAIN_MESSAGE = "query.hello", "train"

SECTIONS = {HELLO_MESSAGE: HELLO, TRAIN_MESSAGE: TRAIN}
"""Kind of message to its section of the policy's `numbers` and `words`."""

_FORMS = {
    HELLO: {"hello": WORDS, "metrics": NUMBERS},
    TRAIN: {"arrays": ARRAYS, "metrics": NUMBERS},
    REFUSED: {"refused": WORDS},
}
"""Records that a reply may have: name to kind."""

BEHIND = {
    "num-exams": "exams",
    "num-tokens": "tokens",
    "num-batch-tokens": "batch_tokens",
    "num-steps": "steps",
}
"""What a site's app tells of an update to its own egress check: name to key of the policy's `minimum`."""

WORDING = {
    "exams": "exams",
    "tokens": "report tokens",
    "batch_tokens": "report tokens in every step",
    "steps": "optimizer steps",
}
"""Keys of `minimum` in words."""

_CLOCK, _CLOCK_S = "clock", 3600.0
_COUNTS, _MAX_COUNT = "num-", 10**9
_KNOWN_PARTS = re.compile(
    r"(fusion|slice_positions|text_projection|log_scale|image_head|start_token|report_generator"
    r"|slice_generator)\b"
)


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """What wants to leave, and for whom."""

    message: str
    """`query.hello` or `train`."""

    study: str
    preset: str
    coordinator: str
    """SHA-256 of its authority's certificate."""

    overrides: str = "[]"
    """Of the study's settings, as they came."""

    run_id: int | None = None
    """Flower's number of the run; None for one that has not begun."""

    round: int = 0
    """From 1; 0 for the first exchange."""

    bundle: str = ""
    """Digest of the code that made the reply."""

    reading: Reading = field(default_factory=unread)
    """Of the reply; `unread()` until it is there."""

    behind: Mapping[str, int] | None = None
    """`BEHIND` of an update."""

    agreed: Mapping[str, tuple[int, ...]] | None = None
    """Name to shape of each tensor that came with the request (`agreed_shapes`); without it, tensors whose
    shape the policy leaves to the agreement stay."""

    own_line: bool = False
    """Whether it is a refusal in this site's own words, not in those of the study's program."""

    @cached_property
    def settings(self) -> Settings | str:
        """The study's settings; if they are not possible, the line by which the program says so."""
        run_config = {"study": self.study, "preset": self.preset, "overrides": self.overrides}
        try:
            return from_run_config(run_config)[1]
        except RunError as error:
            return str(error)
        except SettingsError as error:
            return f"{error}; climb-federated {program_version()} runs here"
        except Exception as error:  # what was sent may be anything
            return f"failed with {type(error).__name__}; its own log says more"

    @property
    def sent(self) -> frozenset[str]:
        """Names that the coordinator sent, which may be repeated to it."""
        settings = self.settings
        named = () if isinstance(settings, str) else _named(settings)
        return frozenset((*named, *(self.agreed or ())))

    @property
    def is_refusal(self) -> bool:
        """Whether the site's app itself says that it does not take part."""
        return set(self.reading.records) == {REFUSED}

    @property
    def is_update(self) -> bool:
        """Whether it counts as a round."""
        return self.message == TRAIN_MESSAGE and not self.is_refusal


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A rule that what wants to leave does not keep."""

    rule: str
    """Key of the policy."""

    line: str
    """After `its policy`, for the coordinator: the rule, and nothing of what it stopped."""

    detail: str
    """For the site's own log: what was stopped, by name, without its value."""


def broken_rule(policy: Policy, site: str, leaving: Leaving) -> Broken | None:
    """The first rule that a reply breaks by itself; None if it keeps them all."""
    return next(_broken(policy, site, leaving), None)


def spent_rule(
    policy: Policy, leaving: Leaving, *, run_bytes: int, num_rounds: int, num_messages: int
) -> Broken | None:
    """The rule that a reply breaks after all that has left before; a refusal in own words breaks none.

    Args:
        run_bytes: that have left in this run.
        num_rounds: updates that have left in the last 24 hours.
        num_messages: messages that the study's program made in them.
    """
    if leaving.own_line:
        return None
    wanted = run_bytes + leaving.reading.num_bytes
    if wanted > policy.bytes_per_run:
        return Broken(
            rule="bytes_per_run",
            line=f"lets at most {policy.bytes_per_run} bytes leave in a run",
            detail=f"{wanted} bytes with this reply",
        )
    if leaving.is_update and num_rounds >= policy.rounds_per_day:
        return Broken(
            rule="rounds_per_day",
            line=f"lets at most {policy.rounds_per_day} updates leave in 24 hours",
            detail=f"{num_rounds} or more have left",
        )
    if num_messages >= policy.messages_per_day:
        return Broken(
            rule="messages_per_day",
            line=f"lets at most {policy.messages_per_day} messages leave in 24 hours",
            detail=f"{num_messages} or more have left",
        )
    return None


def _broken(policy: Policy, site: str, leaving: Leaving) -> Iterator[Broken]:
    section = SECTIONS.get(leaving.message)
    if leaving.coordinator.replace(":", "").lower() not in policy.coordinators:
        yield _rule("coordinators", "does not name this coordinator", leaving.coordinator)
    if not {ANY, leaving.study} & set(policy.studies):
        yield _rule("studies", "does not name this study", leaving.study)
    if not {ANY, leaving.preset} & set(policy.presets):
        told = f"preset '{leaving.preset}'" if leaving.preset in preset_names() else "this preset"
        yield _rule("presets", f"does not allow {told}", leaving.preset)
    if section is None:
        yield _rule("messages", "knows no message of this kind", leaving.message)
        return
    section = REFUSED if leaving.is_refusal else section
    for name, kind in leaving.reading.records.items():
        if _FORMS[section].get(name) != kind:
            yield _rule("records", "does not let a further record leave", f"{name} ({kind})")
    for tensor in leaving.reading.tensors:
        yield from _broken_by_tensor(policy, tensor, leaving.agreed)
    yield from _broken_by_numbers(policy.numbers.get(section, ()), leaving.reading.numbers)
    yield from _broken_by_words(policy.words.get(section, {}), leaving, site)
    if leaving.is_update:
        yield from _broken_by_minimum(policy, leaving.behind)
    if leaving.reading.num_bytes > policy.bytes_per_round and not leaving.is_refusal:
        line = f"lets at most {policy.bytes_per_round} bytes leave in a reply"
        yield _rule("bytes_per_round", line, f"{leaving.reading.num_bytes} bytes")


def _broken_by_tensor(
    policy: Policy, tensor: Tensor, agreed: Mapping[str, tuple[int, ...]] | None
) -> Iterator[Broken]:
    told = _told_name(tensor.name, agreed)
    if not policy.names_tensor(tensor.name):
        yield _rule("tensors", f"does not let {told} leave", tensor.name)
        return
    wanted = policy.shape_of(tensor.name)
    if wanted is None:
        wanted = (agreed or {}).get(tensor.name)
    if wanted is None:
        yield _rule("tensors", f"does not let {told} leave, which was not asked for", tensor.name)
    elif tensor.shape != wanted:
        yield _rule("tensors", f"does not let {told} leave in this shape", f"{tensor.name} {tensor.shape}")
    if tensor.dtype not in policy.dtypes:
        yield _rule("dtypes", f"does not let {told} leave in this type", tensor.name)
    elif tensor.norm is None:
        yield _rule("tensors", f"does not let {told} leave: it is no plain array", tensor.name)
    elif not math.isfinite(tensor.norm):
        yield _rule("tensors", f"does not let {told} leave: its values are not finite", tensor.name)


def _broken_by_numbers(allowed: tuple[str, ...], numbers: Mapping[str, object]) -> Iterator[Broken]:
    for name, value in numbers.items():
        if name not in allowed:
            yield _rule("numbers", "does not let a further number leave", name)
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            yield _rule("numbers", f"wants one finite number as '{name}'", name)
        elif name.startswith(_COUNTS) and not (isinstance(value, int) and 0 <= value < _MAX_COUNT):
            yield _rule("numbers", f"wants a count as '{name}'", name)
        elif name == _CLOCK and abs(value - time.time()) > _CLOCK_S:
            yield _rule("numbers", "wants the time of this machine as 'clock'", name)


def _broken_by_words(allowed: Mapping[str, int], leaving: Leaving, site: str) -> Iterator[Broken]:
    settings = leaving.settings
    sequences = () if isinstance(settings, str) else settings.data.sequences
    for key, value in leaving.reading.words.items():
        if key not in allowed:
            yield _rule("words", "does not let a further word leave", key)
            continue
        if isinstance(value, list) != (key == NOTICES):
            yield _rule("words", f"wants {'lines' if key == NOTICES else 'one text'} as '{key}'", key)
            continue
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            yield _rule("words", f"wants text as '{key}'", key)
            continue
        lines = [str(text) for text in texts]
        length = sum(map(len, lines))
        if length > allowed[key] or len(lines) > max(allowed[key], 1):
            yield _rule(
                "words", f"lets at most {allowed[key]} characters leave as '{key}'", f"{key}: {length}"
            )
        if not all(line.isprintable() for line in lines):
            yield _rule("words", f"wants plain text as '{key}'", key)
        if key == "site" and value not in (site, ""):
            yield _rule("words", "lets no other name leave than the site's own", key)
        if isinstance(value, str) and not leaving.is_refusal and not has_form(key, value, sequences):
            yield _rule("words", f"wants '{key}' in this program's own form", key)


def _broken_by_minimum(policy: Policy, behind: Mapping[str, int] | None) -> Iterator[Broken]:
    for name, key in BEHIND.items():
        least = dataclasses.asdict(policy.minimum)
        number = (behind or {}).get(name)
        if not isinstance(number, int) or isinstance(number, bool):
            line = f"wants to know how many {WORDING[key]} are behind an update"
            yield _rule(f"minimum.{key}", line, "not told")
        elif number < least[key]:
            line = f"wants at least {least[key]} {WORDING[key]} behind an update"
            yield _rule(f"minimum.{key}", line, str(number))


def _named(settings: Settings) -> Iterator[str]:
    """Every text in settings."""
    waiting: list[object] = [dataclasses.asdict(settings)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += cast(dict[str, object], value).values()
        elif isinstance(value, list | tuple):
            waiting += cast(list[object], value)


def _told_name(name: str, agreed: Mapping[str, tuple[int, ...]] | None) -> str:
    """A tensor for the coordinator: what it asked for by name, else by its part; names can carry content."""
    if agreed is not None and name in agreed:
        return f"tensor '{name}'"
    part = _KNOWN_PARTS.match(name)
    return f"a further tensor of '{part[0]}'" if part else "a further tensor"


def _rule(rule: str, line: str, detail: str) -> Broken:
    return Broken(rule=rule, line=line[: MAX_LINE // 2], detail=ascii(detail)[1:-1][:200])
