"""The site's machine: disk, memory, devices, weights, who may read what, and its clock."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from climb_model.checking.layout import Layout
from climb_model.checking.result import Finding, found
from climb_model.checking.tokens import TOKENIZER_FILE, load_tokenizer
from climb_model.clock import MOST_AHEAD_S, clock_offset
from climb_model.data.exam import DataError
from climb_model.intake.pseudonym import KEY_FILE
from climb_model.model.climb import build_model
from climb_model.model.text import BERT_FILES
from climb_model.model.vision import DINO_FILES
from climb_model.model.weights import SHARDS, WHOLE, weights_source
from climb_model.no_redirect import NoRedirect
from configs.schema import BUILTIN_FILTERS, BUILTIN_GERMAN, Settings

GIGABYTE = 1e9
MOST_BEHIND_S = 30.0
TIMEOUT_S = 5.0
TYPICAL_TOKENS = 75
"""Of a report, where none could be counted."""

OTHERS_READ, OTHERS_ENTER, NOT_OWNER = 0o004, 0o001, 0o077


def token_bytes(settings: Settings, num_train: int, num_other: int) -> int:
    """Disk space of the kept slice tokens: float16 of each view, and a presence byte a slice token.

    Args:
        num_train: exams that are kept in all views.
        num_other: exams that are kept in one.
    """
    data = settings.data
    num_tokens = len(data.sequences) * data.slices
    views = num_train * data.num_views + num_other
    return num_tokens * (2 * settings.model.vision.width * views + num_train + num_other)


def check_disk(settings: Settings, num_train: int, num_other: int, private: Path) -> list[Finding]:
    """Whether the slice tokens fit where they will be kept."""
    there = private
    while not os.path.exists(there):  # false also where it cannot be reached
        there = there.parent
    wanted, free = token_bytes(settings, num_train, num_other), shutil.disk_usage(there).free
    if wanted <= free:
        return []
    detail = f"{wanted / GIGABYTE:.1f} GB wanted (exams x views x slice tokens x width x 2 bytes)"
    return found("machine.disk", count=1, detail=f"{detail}, {free / GIGABYTE:.1f} GB free")


def batch_bytes(settings: Settings, num_tokens: int) -> int:
    """Memory of a training step, a rough estimate.

    Weights, gradients and AdamW's two moments are 16 bytes a parameter. A layer keeps 68 bytes a token
    and unit of width, and 10 a head and pair of tokens where attention is not fused (Korthikanti et al.
    2022, doubled for float32); a written report also the scores of all words of a 30,000-word table.

    Args:
        settings: of the study.
        num_tokens: of a long report.
    """
    with torch.device("meta"):
        num_parameters = sum(value.numel() for value in build_model(settings).parameters())
    fusion, objectives, training = settings.model.fusion, settings.objectives, settings.training
    num_slices = len(settings.data.sequences) * settings.data.slices + 1
    lengths = [num_slices, num_tokens * training.texts_per_exam]
    depths = [fusion.depth, fusion.depth]
    if objectives.coca:
        lengths.append(num_tokens)
        depths.append(settings.model.generators.depth)
    if objectives.inverse_coca:
        lengths.append(num_slices)
        depths.append(settings.model.generators.depth)
    per_exam = sum(
        depth * (68 * fusion.width * length + 10 * fusion.heads * length * length)
        for length, depth in zip(lengths, depths, strict=True)
    )
    if objectives.coca:
        per_exam += 8 * 30_000 * num_tokens
    at_once = training.chunk_size or training.batch_size
    half = training.precision == "bfloat16"
    return 16 * num_parameters + at_once * per_exam // (2 if half else 1)


def free_memory() -> int:
    """Bytes that this process may still take: of the GPU, or of the machine within its control group."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text("ascii"))
        return free if limit == "max" else min(free, max(int(limit) - used, 0))
    except (OSError, ValueError, StopIteration):
        return free


def check_memory(settings: Settings, num_tokens: int) -> list[Finding]:
    """Whether a batch is likely to fit, and on what it will be computed."""
    wanted, free = batch_bytes(settings, num_tokens or TYPICAL_TOKENS), free_memory()
    findings = found("machine.device", count=1, detail=device_name())
    if wanted > free:
        detail = (
            f"about {wanted / GIGABYTE:.1f} GB wanted (16 bytes a parameter + exams x layers x "
            f"(68 x width x tokens + 10 x heads x tokens^2) + words), {free / GIGABYTE:.1f} GB free"
        )
        findings += found("machine.memory", count=1, detail=detail)
    return findings


def device_name() -> str:
    """The GPUs, or how many cores there are without one."""
    if not torch.cuda.is_available():
        return f"no GPU; {len(os.sched_getaffinity(0))} CPU cores"
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join(names)


def check_weights(settings: Settings, weights: Path | None) -> list[Finding]:
    """Whether the folders of the frozen models are whole: no file missing, cut or damaged in its header."""
    model = settings.model
    wanted = {
        model.vision.weights: DINO_FILES,
        model.fusion.language_model or model.text.weights: BERT_FILES,
    }
    facts: list[str] = []
    for name, needed in wanted.items():
        if name in (BUILTIN_FILTERS, BUILTIN_GERMAN):
            continue
        if weights is None:
            return found("machine.weights_unchecked", count=1)
        try:
            folder = Path(weights_source(name, weights, needed))
        except DataError as error:
            facts.append(error.public)
        else:
            damaged = ", ".join(_damaged(folder, needed))
            facts += [f"weights of '{name}' are cut or damaged: {damaged}"] if damaged else []
    return found("machine.weights", count=len(facts), detail="; ".join(facts))


def _damaged(folder: Path, needed: tuple[str, ...]) -> list[str]:
    """Files of a model's folder that are not whole; of tensors, header and length are compared."""
    damaged: list[str] = []
    if TOKENIZER_FILE in needed and load_tokenizer(folder / TOKENIZER_FILE) is None:
        damaged.append(TOKENIZER_FILE)
    return damaged + [name for name in _tensor_files(folder) if not _whole(folder / name)]


def _tensor_files(folder: Path) -> list[str]:
    """The files that hold a model's tensors; of a list that cannot be read, the list itself."""
    if (folder / WHOLE).is_file():
        return [WHOLE]
    try:
        return sorted(map(str, set(json.loads((folder / SHARDS).read_bytes())["weight_map"].values())))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return [SHARDS]


def _whole(path: Path) -> bool:
    """Whether a file of tensors is as long as its header says."""
    try:
        with safe_open(path, framework="numpy"):
            return True
    except (SafetensorError, OSError):
        return False


def check_modes(layout: Layout, private: Path) -> list[Finding]:
    """Who else on this machine may read the exams, the reports and what is private.

    From the site's folder downwards: what the folders above allow may change with a mount.
    """
    findings: list[Finding] = []
    open_site = _allows(layout.folder, OTHERS_ENTER)
    if open_site and _allows(layout.folder, OTHERS_READ):
        findings += found("machine.site_mode", count=1)
    if open_site and _allows(layout.metadata, OTHERS_ENTER):
        names = ("reports.csv", "mrt-befund.csv")
        count = sum(_allows(layout.metadata / name, OTHERS_READ) for name in names)
        findings += found("machine.reports_mode", count=count)
    folders = {private, layout.folder / KEY_FILE.parent}
    findings += found("machine.private_mode", count=sum(_allows(folder, NOT_OWNER) for folder in folders))
    keys = {folder / KEY_FILE.name for folder in folders}
    return findings + found("machine.key_mode", count=sum(_allows(key, NOT_OWNER) for key in keys))


def _allows(path: Path, bits: int) -> bool:
    try:
        return bool(path.stat().st_mode & bits)
    except OSError:
        return False


def check_clock(server: str | None) -> list[Finding]:
    """Compare this machine's clock with the Date that a server tells.

    Args:
        server: an http or https address; None asks nobody.
    """
    if server is None:
        return found("machine.clock_unchecked", count=1)
    begun = time.time()
    ahead = clock_offset(_date_of(server), begun, time.time())
    if ahead is None:
        return found("machine.server_silent", count=1)
    if ahead > MOST_AHEAD_S:
        return found("machine.clock_ahead", count=1, detail=f"{ahead:.0f} s, at most {MOST_AHEAD_S:.0f} s")
    if ahead < -MOST_BEHIND_S:
        return found("machine.clock_behind", count=1, detail=f"{-ahead:.0f} s")
    return []


def _date_of(server: str) -> str | None:
    """The time in a server's answer, whatever it answers; None without one."""
    try:
        request = urllib.request.Request(server, method="HEAD")
        with urllib.request.build_opener(NoRedirect).open(request, timeout=TIMEOUT_S) as answer:
            return answer.headers["Date"]
    except urllib.error.HTTPError as error:
        return error.headers["Date"]
    except (OSError, ValueError, http.client.HTTPException):
        return None
