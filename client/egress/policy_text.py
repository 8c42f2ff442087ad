"""The text of a policy file, with a comment at each key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from string import Template
from typing import TYPE_CHECKING

from climb_model.privacy_minimum import MIN_BATCH_TOKENS

if TYPE_CHECKING:
    from client.egress.policy import Policy

AGREED = "agreed"
"""Shape of a tensor that may have the shape in which the coordinator sent it."""

_TEXT = Template("""\
# What may leave this site. This file belongs to the site: its admin and its data-protection officer
# read and change it, and no message from outside can. It is read before each message, on this machine,
# after the training and before the sending. What is not named here stays. A missing file, an unknown
# key or a value that cannot be meant stops everything.
#   climb-site preview     shows what the next message would hold, and what this policy says to it
#   climb-site audit log   shows what has left

# Who may ask: SHA-256 of the certificate of the coordinator's authority (ca.crt in this folder).
coordinators:$coordinators

# Studies by name; "*" is any study of these coordinators.
studies:$studies

# Settings that a study may begin from. climb-code is not among them unless you add it: it shares the
# weights that write reports, which can learn reports by heart. It needs three things: its name here,
# "image_head.*": agreed and "start_token": agreed below, and shared_generators in site.yaml.
presets:$presets

# Weights by name; a name that ends in * is the beginning of names. The shape is a list, such as
# [384, 768], or agreed: the shape in which the coordinator sent the tensor for this round.
#   climb-site preview --tensors   prints every name with its shape, to be put here instead
tensors:$tensors

# Types of numbers that weights may have: float32, float16.
dtypes:$dtypes

# Numbers by name: of the first exchange (hello) and of a training reply (train).
numbers:$numbers

# Words by name, each with the most characters it may have: of the first exchange (hello), and of the
# line by which this site says that it does not take part (refused). None of them is free text: versions,
# hashes and counts have the form in which this program writes them, or nothing leaves; of notices and
# refusals only this program's own sentences leave, with numbers in them; others are withheld.
words:$words

# How much: bytes of one reply, bytes of a whole run, updates in any 24 hours of all studies, and messages
# that a study's program made in any 24 hours, first exchanges and its own refusals among them.
bytes_per_round: $bytes_per_round
bytes_per_run: $bytes_per_run
rounds_per_day: $rounds_per_day
messages_per_day: $messages_per_day

# The least that an update must be made from, counted by the training program over the round's optimizer
# steps; a step whose learning rate is less than a hundredth of the round's largest does not count.
#   exams         different exams in these steps
#   tokens        report tokens of these exams, each exam counted once
#   batch_tokens  report tokens that every single step was trained on: of the different texts of its batch,
#                 as they were drawn. From one step with fewer than $fewest_tokens every token can be read
#                 out. Steps of 32 exams with reports of 80 words have 500 and more. The preset debug (4
#                 exams a step) and reports that are a few words long have fewer: lower it for exams that
#                 are nobody's only.
#   steps         these steps
# More make it harder to tell single exams and reports from an update; none is a formal guarantee.
minimum:
  exams: $exams
  tokens: $tokens
  batch_tokens: $batch_tokens
  steps: $steps
""")


def to_text(policy: Policy) -> str:
    """The file's text; reading it gives an equal policy."""
    return _TEXT.substitute(
        coordinators=_list(policy.coordinators),
        studies=_list(policy.studies),
        presets=_list(policy.presets),
        tensors=_tensors(policy.tensors),
        dtypes=_list(policy.dtypes),
        numbers=_mapping({kind: _flow(names) for kind, names in policy.numbers.items()}),
        words=_mapping({kind: _lengths(lengths) for kind, lengths in policy.words.items()}),
        bytes_per_round=policy.bytes_per_round,
        bytes_per_run=policy.bytes_per_run,
        rounds_per_day=policy.rounds_per_day,
        messages_per_day=policy.messages_per_day,
        fewest_tokens=MIN_BATCH_TOKENS,
        exams=policy.minimum.exams,
        tokens=policy.minimum.tokens,
        batch_tokens=policy.minimum.batch_tokens,
        steps=policy.minimum.steps,
    )


def tensor_text(spec: Mapping[str, tuple[int, ...] | None]) -> str:
    """The policy's `tensors` with these names and shapes."""
    return f"tensors:{_tensors(spec)}"


def _tensors(spec: Mapping[str, tuple[int, ...] | None]) -> str:
    shapes = {
        name: AGREED if shape is None else f"[{', '.join(map(str, shape))}]" for name, shape in spec.items()
    }
    return _mapping(shapes)


def _list(values: Iterable[str]) -> str:
    return "".join(f"\n  - {json.dumps(value)}" for value in values) or " []"


def _mapping(values: Mapping[str, str]) -> str:
    return "".join(f"\n  {json.dumps(key)}: {value}" for key, value in values.items()) or " {}"


def _flow(names: Iterable[str]) -> str:
    return f"[{', '.join(map(json.dumps, names))}]"


def _lengths(lengths: Mapping[str, int]) -> str:
    return "".join(f"\n    {json.dumps(key)}: {most}" for key, most in lengths.items()) or " {}"
