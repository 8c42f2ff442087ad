"""What would leave and what has left, as tables for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.audit import AuditEntry
from client.egress.egress import REFUSED_KIND, SENT_KIND
from client.egress.preview import Foreseen
from client.egress.rules import BEHIND, HELLO_MESSAGE, WORDING

WIDTH = 140
"""Where the output is no terminal."""

_TITLES = {HELLO_MESSAGE: "first exchange (query.hello)"}
_BEHIND = {name: WORDING[key] for name, key in BEHIND.items()}


def show_foreseen(messages: Iterable[Foreseen], console: Console | None = None) -> None:
    """Print each message whole: every word, number and tensor, and what the policy says to it."""
    console = _wide(console)
    for message in messages:
        console.print(Text(_TITLES.get(message.message, f"training reply, round {message.round}"), "bold"))
        console.print(_contents(message))
        if message.behind is not None:
            facts = ", ".join(f"{message.behind[name]} {what}" for name, what in _BEHIND.items())
            console.print(Text(f"behind it (stays here): {facts}"))
        console.print(Text(f"bytes in all: {message.reading.num_bytes:,}"))
        console.print(Text(verdict(message), "bold green" if message.broken is None else "bold red"))
        console.print()


def verdict(message: Foreseen) -> str:
    """What the policy says to a message, in one line."""
    if message.broken is None:
        return "policy: may leave"
    broken = message.broken
    return f"policy: STAYS, by rule {broken.rule}: it {broken.line} ({broken.detail})"


def to_dict(message: Foreseen) -> dict[str, object]:
    """A message as JSON's types."""
    reading, broken = message.reading, message.broken
    return {
        "message": message.message,
        "round": message.round,
        "words": dict(reading.words),
        "numbers": {
            name: None if name in message.later else value for name, value in reading.numbers.items()
        },
        "tensors": [
            {"name": each.name, "shape": each.shape, "dtype": each.dtype, "bytes": each.num_bytes}
            for each in reading.tensors
        ],
        "bytes": reading.num_bytes,
        "behind": None if message.behind is None else dict(message.behind),
        "decision": "sent" if broken is None else "refused",
        "rule": None if broken is None else broken.rule,
        "line": None if broken is None else broken.line,
        "detail": None if broken is None else broken.detail,
    }


def show_log(entries: Sequence[AuditEntry], console: Console | None = None) -> None:
    """Print audit entries, one row each."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, right in (
        ("no.", True),
        ("time (UTC)", False),
        ("decision", False),
        ("message", False),
        ("study", False),
        ("round", True),
        ("tensors", True),
        ("bytes", True),
    ):
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    table.add_column("what", ratio=1, overflow="fold")
    for entry in entries:
        table.add_row(*map(Text, _cells(entry)))
    _wide(console).print(table)


def entry_dict(entry: AuditEntry) -> dict[str, object]:
    """An audit entry as JSON's types."""
    return dataclasses.asdict(entry)


def _contents(message: Foreseen) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("kind", no_wrap=True)
    table.add_column("name", no_wrap=True)
    table.add_column("shape", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("value now", ratio=1, overflow="fold")
    for key, value in message.reading.words.items():
        lines = value if isinstance(value, list) else [value]
        table.add_row("word", Text(key), "", "", Text("\n".join(map(str, lines))))
    for name, value in message.reading.numbers.items():
        told = "known after the training" if name in message.later else str(value)
        table.add_row("number", Text(name), "", "", Text(told))
    for each in message.reading.tensors:
        shape = " x ".join(map(str, each.shape)) or "one"
        table.add_row("tensor", Text(each.name), shape, f"{each.num_bytes:,}", Text(each.dtype))
    return table


def _cells(entry: AuditEntry) -> list[str]:
    known = entry.fields
    head = [str(entry.number), entry.time, entry.kind]
    if entry.kind not in (SENT_KIND, REFUSED_KIND):
        return [*head, "", "", "", "", "", ", ".join(f"{name} {value}" for name, value in known.items())]
    num_bytes = known["bytes"]
    return [
        *head,
        str(known["message"]),
        str(known["study"]),
        str(known["round"]),
        str(known["num_tensors"]),
        f"{num_bytes:,}" if isinstance(num_bytes, int) else str(num_bytes),
        _what(entry),
    ]


def _what(entry: AuditEntry) -> str:
    known = entry.fields
    if entry.kind == REFUSED_KIND:
        return f"{known['rule']}: {known['detail']}"
    behind, numbers, words = known["behind"], known["numbers"], known["words"]
    parts = [
        f"behind: {', '.join(f'{behind[name]} {what}' for name, what in _BEHIND.items() if name in behind)}"
        if isinstance(behind, Mapping) and behind
        else "",
        ", ".join(f"{name} {value}" for name, value in numbers.items())
        if isinstance(numbers, Mapping)
        else "",
        str(words["refused"]) if isinstance(words, Mapping) and "refused" in words else "",
        f"{known['withheld']} sentences withheld" if known.get("withheld") else "",
    ]
    return "; ".join(part for part in parts if part)


def _wide(console: Console | None) -> Console:
    console = console or Console(highlight=False)
    if console.is_terminal:
        return console
    return Console(file=console.file, highlight=False, width=WIDTH)
