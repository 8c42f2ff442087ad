"""What a site says of itself at the first exchange, believed in nothing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from flwr.app import ConfigRecord, Message, MessageType, MetricRecord, RecordDict

from climb_model.runs import RunError, check_name
from climb_model.sharing import HELLO_NUMBERS, HELLO_WORDS
from strategies.checks import METRICS, Rejected, clean, failure, refusal_line

HELLO = "hello"
"""Action of the query and name of the reply's record of words."""

MAX_NOTICES = 20
MAX_JSON = 4000
"""Most characters of a word that is JSON."""

_COUNTED = re.compile(r"[\w.\- ]{1,64}")

Counts = Mapping[str, "int | Counts"]
"""A site's data in counts: names to numbers, in sections."""


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """What a site says of itself."""

    node: int
    site: str
    version: str
    versions: dict[str, str]
    fingerprint: dict[str, str]
    settings: str
    exams: int
    summary: Counts
    notices: tuple[str, ...]
    ahead_s: float | None
    """Its clock less the coordinator's when the answer came, in seconds; None if nobody knows when."""


def question(node: int) -> Message:
    """The message that asks a node who it is."""
    return Message(RecordDict(), dst_node_id=node, message_type=f"{MessageType.QUERY}.{HELLO}")


def read_greeting(
    reply: Message,
    *,
    node: int,
    names: Mapping[int, str] | None,
    received: float | None,
    version: str,
    max_exams: int,
) -> Greeting | Rejected:
    """Check an answer's records, keys and types; nothing else may be in it.

    Args:
        names: node to site as the coordinator registered them: who is not among them or gives another name
            is refused. None: each site has the name that it gives.
        received: the coordinator's clock when it came, in seconds since 1970; None: nobody knows.
        version: the coordinator's of climb-federated, to which an older site is told to upgrade.
        max_exams: most training exams a site may claim.
    """
    name = called(node, names)
    registered = None if names is None else names.get(node)
    if names is not None and registered is None:
        return Rejected(name, "a node is not registered as a site that is admitted (climb-server sites)")
    if reply.has_error():
        return Rejected(name, f"{who(node, names)} failed at the first exchange ({failure(reply)})")
    content = reply.content
    refusal = refusal_line(content)
    if refusal is not None:
        return Rejected(registered or _name_in_refusal(content) or name, refusal)
    words, numbers = content.get(HELLO), content.get(METRICS)
    try:
        if set(content) != {HELLO, METRICS}:
            raise ValueError("other records than agreed")
        if not isinstance(words, ConfigRecord) or not set(words) <= set(HELLO_WORDS):
            raise ValueError("other words than agreed")
        if not isinstance(numbers, MetricRecord) or not set(numbers) <= set(HELLO_NUMBERS):
            raise ValueError("other numbers than agreed")
        site = check_name("site", words.get("site"))
        if registered is not None and site != registered:
            return Rejected(
                registered,
                f"site '{registered}' says that it is '{site}': its site.yaml must name it as its key is "
                "admitted",
            )
        if len(words) < len(HELLO_WORDS) or len(numbers) < len(HELLO_NUMBERS):
            return Rejected(
                site, f"site '{site}' runs an older climb-federated than {version}: upgrade its image"
            )
        exams, clock = numbers["num-examples"], numbers["clock"]
        if not isinstance(exams, int) or isinstance(exams, bool) or not 0 < exams <= max_exams:
            raise ValueError(f"num-examples {clean(repr(exams))}, expected 1 to {max_exams}")
        if not isinstance(clock, float) or not math.isfinite(clock):
            raise ValueError(f"clock {clean(repr(clock))}, expected seconds")
        return Greeting(
            node=node,
            site=site,
            version=_text(words["version"]),
            versions=_texts(words["versions"], "versions"),
            fingerprint=_texts(words["fingerprint"], "a fingerprint"),
            settings=_text(words["settings"]),
            exams=exams,
            summary=_counts(_object(words["summary"], "a summary"), depth=3),
            notices=_notices(words["notices"]),
            ahead_s=None if received is None else clock - received,
        )
    except ValueError as error:
        return Rejected(name, f"{who(node, names)} answered the first exchange with {clean(str(error))}")


def called(node: int, names: Mapping[int, str] | None) -> str:
    """A node's site where it is registered, else the node's number, for the history."""
    return (names or {}).get(node, f"node-{node}")


def who(node: int, names: Mapping[int, str] | None) -> str:
    """The same in words, as the beginning of a line."""
    site = (names or {}).get(node)
    return "a node" if site is None else f"site '{site}'"


def _name_in_refusal(content: RecordDict) -> str | None:
    record = next(iter(content.values()))
    name = record.get("site")
    try:
        return check_name("site", name)
    except RunError:
        return None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("words that are no text")
    return clean(value)


def _object(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, str) or len(value) > MAX_JSON:
        raise ValueError(f"{what} that is no text of at most {MAX_JSON} characters")
    try:
        parsed: object = json.loads(value)
    except RecursionError:
        raise ValueError(f"{what} that is nested too deeply") from None
    if not isinstance(parsed, dict):
        raise ValueError(f"{what} that is no list of parts")
    return cast(dict[str, object], parsed)


def _texts(value: object, what: str) -> dict[str, str]:
    return {clean(part): _text(text) for part, text in _object(value, what).items()}


def _counts(values: Mapping[str, object], depth: int) -> Counts:
    """Nothing but numbers of things, under short names."""
    counts: dict[str, int | Counts] = {}
    for name, value in values.items():
        if not _COUNTED.fullmatch(name):
            raise ValueError("a summary with names that are none")
        if isinstance(value, dict) and depth > 1:
            counts[name] = _counts(cast(Mapping[str, object], value), depth - 1)
        elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9:
            counts[name] = value
        else:
            raise ValueError("a summary that holds other than counts")
    return counts


def _notices(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("notices that are no list")
    return tuple(_text(notice) for notice in cast(list[object], value)[:MAX_NOTICES])
