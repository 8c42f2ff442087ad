"""Which NIfTI file of an exam is which sequence: by the site's mapping file, else by its name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from climb_model.intake.mapping import SeriesMapping
from climb_model.intake.study import SeriesError

_TOKENS = re.compile(r"[0-9]+|[^\W\d_]+[0-9]*")
_PRE = re.compile(r"(pre|precontrast|prekm|nativ|native)[0-9]*")
_POST = re.compile(r"(post|postcontrast|postkm)([0-9]*)")
_T2 = re.compile(r"t2(w|tse|stir|fs|fse)?")
_DYNAMIC = re.compile(r"(dce|dyn|dynamic|dynamik|dynamisch)[0-9]*")
_SUBTRACTION = re.compile(r"(sub|subtraction|subtraktion|subs)[0-9]*")
_OTHER = re.compile(r"(mask|maske|seg|segmentation|label|labels|roi|adc|dwi|diff|map|mip|bold)[0-9]*")

IGNORED = "ignored by the mapping file"
SUBTRACTED = "a subtraction: made anew from Post_1 and Pre"
NO_SEQUENCE = "by its name a mask, a map or another kind of image"
UNKNOWN = "its name tells no sequence"


@dataclass(frozen=True)
class VolumeName:
    """One NIfTI file, or one time point of it."""

    stem: str
    """File name without ending."""

    num_volumes: int


@dataclass(frozen=True)
class NamedFiles:
    """The sequences of an exam: name to stem and time point (from 0; None for a 3-D file)."""

    sequences: dict[str, tuple[str, int | None]]
    how: dict[str, str]
    """Why each was taken, without a word of the file's name."""

    left_out: dict[str, str]
    """Stem to reason."""


def name_files(files: Sequence[VolumeName], mapping: SeriesMapping) -> NamedFiles:
    """Pre, Post_1..n and T2 among the files of an exam.

    Where the mapping has patterns for a sequence, only files whose stem they match are taken. A file with a
    time axis is the dynamic series; its volume number `pre_phases` is Pre and those behind it are the Posts.

    Raises:
        SeriesError: no Pre, two of them, or Posts whose order cannot be told.
    """
    left_out = {each.stem: IGNORED for each in files if _matches(each.stem, mapping.ignore)}
    kinds: dict[str, list[VolumeName]] = {"Pre": [], "Post": [], "T2": [], "dynamic": []}
    for each in files:
        if each.stem not in left_out:
            kind = _kind(each, mapping, alone=len(files) == 1)
            if kind in kinds:
                kinds[kind].append(each)
            else:
                left_out[each.stem] = kind
    sequences: dict[str, tuple[str, int | None]] = {}
    if kinds["dynamic"] and not kinds["Pre"] and not kinds["Post"]:
        sequences |= _phases(kinds["dynamic"], mapping)
        how = dict.fromkeys(sequences, "time points of one file")
    else:
        left_out |= {each.stem: "a time axis beside files of single phases" for each in kinds["dynamic"]}
        sequences |= _single_phases(kinds["Pre"], kinds["Post"], mapping)
        how = {
            name: "mapping" if (mapping.Pre if name == "Pre" else mapping.Post) else "file name"
            for name in sequences
        }
    if kinds["T2"]:
        sequences["T2"] = (_only("T2", kinds["T2"]).stem, None)
        how["T2"] = "mapping" if mapping.T2 else "file name"
    taken = {stem for stem, _ in sequences.values()}
    for kind in ("Pre", "T2"):
        left_out |= {each.stem: f"another {kind}" for each in kinds[kind] if each.stem not in taken}
    return NamedFiles(sequences, how, left_out)


def _matches(stem: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(stem.casefold(), pattern.casefold()) for pattern in patterns)


def _kind(file: VolumeName, mapping: SeriesMapping, *, alone: bool) -> str:
    """`Pre`, `Post`, `T2`, `dynamic`, or why it is none of them."""
    given: Mapping[str, tuple[str, ...]] = {
        "Pre": mapping.Pre,
        "Post": mapping.Post,
        "T2": mapping.T2,
        "dynamic": mapping.dynamic,
    }
    for kind, patterns in given.items():
        if _matches(file.stem, patterns):
            return _with_axes(kind, file)
    tokens = [token.casefold() for token in _TOKENS.findall(file.stem)]
    kind = _by_name(tokens)
    if kind == UNKNOWN and file.num_volumes > 1 and alone:
        kind = "dynamic"
    if given.get(kind):
        return f"not what the mapping file names as {kind}"
    return _with_axes(kind, file)


def _by_name(tokens: Sequence[str]) -> str:
    def has(pattern: re.Pattern[str]) -> bool:
        return any(pattern.fullmatch(token) for token in tokens)

    if has(_OTHER):
        return NO_SEQUENCE
    if has(_SUBTRACTION):
        return SUBTRACTED
    found = [
        kind
        for kind, pattern in (("Pre", _PRE), ("Post", _POST), ("T2", _T2), ("dynamic", _DYNAMIC))
        if has(pattern)
    ]
    if found[1:] == ["dynamic"] and found[0] in ("Pre", "Post"):  # such as dyn_pre: a phase
        return found[0]
    return found[0] if len(found) == 1 else UNKNOWN


def _with_axes(kind: str, file: VolumeName) -> str:
    if kind == "dynamic" and file.num_volumes == 1:
        return UNKNOWN
    if kind in ("Pre", "Post", "T2") and file.num_volumes > 1:
        return f"wanted a 3-D image for {kind}, got {file.num_volumes} volumes"
    return kind


def _phases(files: Sequence[VolumeName], mapping: SeriesMapping) -> dict[str, tuple[str, int | None]]:
    if len(files) > 1:
        raise SeriesError(f"{len(files)} files have a time axis; name one in the mapping file: --mapping")
    (file,) = files
    first = mapping.pre_phases - 1
    if file.num_volumes <= mapping.pre_phases:
        raise SeriesError(f"{file.num_volumes} time points, {mapping.pre_phases} of them before contrast")
    named: dict[str, tuple[str, int | None]] = {"Pre": (file.stem, first)}
    posts = range(mapping.pre_phases, file.num_volumes)
    return named | {f"Post_{number}": (file.stem, at) for number, at in enumerate(posts, start=1)}


def _single_phases(
    pres: Sequence[VolumeName], posts: Sequence[VolumeName], mapping: SeriesMapping
) -> dict[str, tuple[str, int | None]]:
    if not pres:
        raise SeriesError("no file is Pre by its name; name it in the mapping file: --mapping")
    if not posts:
        raise SeriesError(
            "no file is a post-contrast phase by its name; name it in the mapping file: --mapping"
        )
    named: dict[str, tuple[str, int | None]] = {"Pre": (_only("Pre", pres).stem, None)}
    if len(posts) == 1 and _number(posts[0].stem) is None:
        return named | {"Post_1": (posts[0].stem, None)}
    numbers = {each.stem: _number(each.stem) for each in posts}
    known = sorted(number for number in numbers.values() if number is not None)
    least = known[0] if mapping.Post and known else 1  # a site's own numbers may begin anywhere
    if known != list(range(least, least + len(posts))):
        raise SeriesError(f"the order of {len(posts)} post-contrast files cannot be told, or one is missing")
    order = sorted(posts, key=lambda each: numbers[each.stem] or 0)
    return named | {f"Post_{number}": (each.stem, None) for number, each in enumerate(order, start=1)}


def _only(kind: str, files: Sequence[VolumeName]) -> VolumeName:
    """The one file of a kind; among several the one that is named exactly so."""
    exact = [each for each in files if each.stem.casefold() == kind.casefold()]
    if len(exact or files) > 1:
        raise SeriesError(
            f"{len(files)} files are {kind} by their names; name one in the mapping file: --mapping"
        )
    return (exact or list(files))[0]


def _number(stem: str) -> int | None:
    """The number behind `post`, else the last one in the name."""
    behind = re.search(r"post(?:contrast|km)?[_\- .]*([0-9]+)", stem.casefold())
    found = behind.group(1) if behind else next(reversed(re.findall(r"[0-9]+", stem)), None)
    return None if found is None else int(found)
