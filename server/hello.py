"""The first exchange: who is there, and whether all hold the same frozen encoders and settings."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from flwr.app import ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from climb_model.runs import RunError, check_name
from climb_model.sharing import HELLO_NUMBERS, HELLO_WORDS
from strategies.checks import METRICS, Rejected, clean, failure, refusal_line

HELLO = "hello"
"""Action of the query and name of the reply's record of words."""

MAX_NOTICES = 20


@dataclass(frozen=True)
class Greeting:
    """What a site says of itself."""

    node: int
    site: str
    fingerprint: dict[str, str]
    settings: str
    exams: int
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Admission:
    """Who takes part, and who does not and why."""

    sites: dict[int, str]
    """Node to site."""

    exams: dict[str, int]
    """Training exams of each admitted site, sorted by name."""

    notices: dict[str, tuple[str, ...]]
    rejected: tuple[Rejected, ...]


def first_exchange(
    grid: Grid,
    *,
    fingerprint: Mapping[str, str],
    settings: str,
    num_sites: int,
    max_exams: int,
    wait_s: float,
    timeout_s: float,
) -> Admission:
    """Ask every connected node who it is and admit those that fit.

    Args:
        fingerprint: the server's own: part of the frozen encoders to hash.
        settings: hash of the study's settings.
        num_sites: nodes to wait for.
        max_exams: most training exams a site may claim.
        wait_s: seconds to wait for the nodes; then those that are there are asked.
        timeout_s: seconds that they have to answer, which includes computing their slice tokens.
    """
    nodes = _connected(grid, num_sites, wait_s)
    messages = [
        Message(RecordDict(), dst_node_id=node, message_type=f"{MessageType.QUERY}.{HELLO}") for node in nodes
    ]
    greetings: list[Greeting] = []
    rejected: list[Rejected] = []
    silent = set(nodes)
    for reply in grid.send_and_receive(messages, timeout=timeout_s):
        silent.discard(reply.metadata.src_node_id)
        answer = read_greeting(reply, max_exams)
        if isinstance(answer, Greeting):
            greetings.append(answer)
        else:
            rejected.append(answer)
    rejected += [Rejected(f"node-{node}", f"a node did not answer within {timeout_s:g} s") for node in silent]
    return admit(greetings, rejected, fingerprint=fingerprint, settings=settings)


def admit(
    greetings: Iterable[Greeting],
    rejected: Iterable[Rejected],
    *,
    fingerprint: Mapping[str, str],
    settings: str,
) -> Admission:
    """Sites of one name are all refused; so is a site whose encoders or settings differ, by their names."""
    greetings = sorted(greetings, key=lambda greeting: (greeting.site, greeting.node))
    refused = list(rejected)
    count = Counter(greeting.site for greeting in greetings)
    admitted: list[Greeting] = []
    for greeting in greetings:
        if count[greeting.site] > 1:
            if not any(entry.site == greeting.site for entry in refused):
                reason = (
                    f"{count[greeting.site]} sites are named '{greeting.site}'; none of them can take part"
                )
                refused.append(Rejected(greeting.site, reason))
            continue
        reason = _difference(greeting, fingerprint, settings)
        if reason:
            refused.append(Rejected(greeting.site, reason))
        else:
            admitted.append(greeting)
    return Admission(
        sites={greeting.node: greeting.site for greeting in admitted},
        exams={greeting.site: greeting.exams for greeting in admitted},
        notices={greeting.site: greeting.notices for greeting in admitted},
        rejected=tuple(sorted(refused, key=lambda entry: (entry.site, entry.reason))),
    )


def read_greeting(reply: Message, max_exams: int) -> Greeting | Rejected:
    """Check an answer's records, keys and types; nothing else may be in it."""
    node = f"node-{reply.metadata.src_node_id}"
    if reply.has_error():
        return Rejected(node, f"a node failed at the first exchange ({failure(reply)})")
    content = reply.content
    refusal = refusal_line(content)
    if refusal is not None:
        return Rejected(_name_in_refusal(content) or node, refusal)
    words, numbers = content.get(HELLO), content.get(METRICS)
    try:
        if set(content) != {HELLO, METRICS}:
            raise ValueError("other records than agreed")
        if not isinstance(words, ConfigRecord) or set(words) != set(HELLO_WORDS):
            raise ValueError("other words than agreed")
        if not isinstance(numbers, MetricRecord) or set(numbers) != set(HELLO_NUMBERS):
            raise ValueError("other numbers than agreed")
        site = check_name("site", words["site"])
        exams = numbers["num-examples"]
        if not isinstance(exams, int) or isinstance(exams, bool) or not 0 < exams <= max_exams:
            raise ValueError(f"num-examples {clean(repr(exams))}, expected 1 to {max_exams}")
        return Greeting(
            node=reply.metadata.src_node_id,
            site=site,
            fingerprint=_fingerprint(words["fingerprint"]),
            settings=_text(words["settings"]),
            exams=exams,
            notices=_notices(words["notices"]),
        )
    except ValueError as error:
        return Rejected(node, f"a node answered the first exchange with {clean(str(error))}")


def _connected(grid: Grid, num_sites: int, wait_s: float) -> list[int]:
    end = time.monotonic() + wait_s
    while len(nodes := sorted(grid.get_node_ids())) < num_sites and time.monotonic() < end:
        time.sleep(0.2)
    if not nodes:
        raise RunError(f"no site connected within {wait_s:g} s, {num_sites} expected")
    return nodes


def _difference(greeting: Greeting, fingerprint: Mapping[str, str], settings: str) -> str | None:
    differing = [
        f"{part} ({clean(greeting.fingerprint.get(part, 'none'))[:12]}, the server's is "
        f"{fingerprint.get(part, 'none')[:12]})"
        for part in sorted(fingerprint.keys() | greeting.fingerprint.keys())
        if greeting.fingerprint.get(part) != fingerprint.get(part)
    ]
    if greeting.settings != settings:
        differing.append(f"settings ({clean(greeting.settings)[:16]}, the server's are {settings})")
    return f"site '{greeting.site}' differs in {', '.join(differing)}" if differing else None


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


def _fingerprint(value: object) -> dict[str, str]:
    parsed: object = json.loads(_text(value) if len(str(value)) < 300 else str(value)[:4000])
    if not isinstance(parsed, dict):
        raise ValueError("a fingerprint that is no list of parts")
    items = cast(dict[object, object], parsed)
    return {clean(str(part)): clean(str(digest)) for part, digest in items.items()}


def _notices(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("notices that are no list")
    return tuple(_text(notice) for notice in cast(list[object], value)[:MAX_NOTICES])
