"""The whole check of a site: it goes on after each fault and collects them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from climb_model.checking.compare import Compared, Role, class_counts, compare, lesion_counts
from climb_model.checking.headers import read_headers
from climb_model.checking.layout import Layout, look_around
from climb_model.checking.machine import (
    check_clock,
    check_disk,
    check_memory,
    check_modes,
    check_weights,
)
from climb_model.checking.pixels import CACHE, OnFile, pixel_findings, read_pixels
from climb_model.checking.reports import check_reports
from climb_model.checking.result import Finding, Result, found, in_order, spoiled
from climb_model.checking.site_tables import SiteTables, read_tables
from climb_model.checking.timing import check_time
from climb_model.checking.tokens import count_tokens
from climb_model.data.exam import SPLITS, DataError
from climb_model.data.folders import list_sites
from climb_model.evaluation.labelled import VALIDATION
from climb_model.privacy_minimum import MIN_EXAMS
from configs.schema import Settings

FEWEST_PATIENTS = 2
"""Below, nothing can be contrasted: training refuses."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a check is asked for besides the settings of the study."""

    weights: Path | None = None
    """Folder of model folders."""

    private: Path | None = None
    """The site's private folder; None is `private/` in the site's folder."""

    server: str | None = None
    """Address whose clock is compared."""

    server_exams: bool = False
    """The folder is the coordinator's: findings are needed, reports are not."""

    quick: bool = False
    """No pixel is read and no time measured."""

    workers: int = 1

    min_exams: int = MIN_EXAMS
    """Training exams that the site's policy wants behind an update."""


@dataclass(frozen=True)
class _Reports:
    """What the machine's checks need of the reports."""

    texts: tuple[str, ...] = field(default=(), repr=False)
    longest: int = 0
    """Tokens of the longest, as it is trained on; 0 where they could not be counted."""


def check_site(root: Path, settings: Settings, options: Options, on_file: OnFile | None = None) -> Result:
    """Check a site's folder and its machine.

    Args:
        root: the site's folder, or a folder that holds one site.
        settings: of the study that the site wants to take part in.
        options: what else to look at.
        on_file: called with (done, all) while pixels are read.

    Raises:
        DataError: if there is no such folder or it holds several sites.
    """
    layout = look_around(_site_folder(root), settings.data.sequences)
    private = options.private or layout.folder / "private"
    role = Role(server=options.server_exams, measured=_measured(settings, options))
    findings = [*layout.findings, *_images(layout, private, settings, options, on_file)]
    tables = read_tables(
        layout,
        settings.evaluation.findings,
        reports=not options.server_exams,
        labels=options.server_exams,
    )
    compared = compare(layout, tables, role)
    findings += [*tables.faults, *compared.findings]
    reports, report_findings = _reports(tables, compared, settings, options)
    findings += report_findings
    usable = {uid: split for uid, split in compared.splits.items() if uid not in spoiled(findings)}
    if layout.kind:
        findings += enough(usable, compared.patients, settings, role, options.min_exams)
    findings += _machine(layout, private, settings, options, usable, reports)
    return Result(findings=in_order(findings), exams=_counts(layout, tables, compared, usable))


def _site_folder(root: Path) -> Path:
    try:
        sites = list_sites(root)
    except DataError:
        if not root.is_dir():
            raise
        return root  # what is wrong with it is told as a finding
    except OSError:
        return root
    if len(sites) > 1:
        fact = f"the folder holds {len(sites)} sites: check one of them"
        raise DataError(fact, fact)
    return next(iter(sites.values()))


def _measured(settings: Settings, options: Options) -> tuple[str, ...]:
    if not options.server_exams:
        return (settings.evaluation.split,)
    return tuple(dict.fromkeys((settings.evaluation.split, VALIDATION)))


def _images(
    layout: Layout, private: Path, settings: Settings, options: Options, on_file: OnFile | None
) -> list[Finding]:
    """Headers of all files, and pixels of those that the settings want and whose header is sound."""
    everything = {uid: {**named, **layout.unused[uid]} for uid, named in layout.files.items()}
    stage = read_headers(everything, settings.data.sequences[0])
    sound = {
        uid: {sequence: path for sequence, path in named.items() if sequence in stage.heads[uid]}
        for uid, named in layout.files.items()
    }
    findings = list(stage.findings)
    if options.quick:
        return findings + found("files.not_read", count=sum(map(len, sound.values())))
    cache = private / CACHE
    pixels = read_pixels(sound, layout.folder, cache, workers=options.workers, on_file=on_file)
    return findings + pixel_findings(pixels)


def _reports(
    tables: SiteTables, compared: Compared, settings: Settings, options: Options
) -> tuple[_Reports, list[Finding]]:
    """Reports of the exams that have a folder and a split; nothing where they are not wanted."""
    if tables.reports is None:
        return _Reports(), []
    reports = {uid: tables.reports[uid] for uid in compared.splits if uid in tables.reports}
    texts = {uid: text for uid, text in reports.items() if text}
    tokens = count_tokens(texts, settings, options.weights)
    most = settings.model.text.max_tokens
    longest = min(max(tokens.lengths.values(), default=0), most)
    return _Reports(texts=tuple(texts.values()), longest=longest), [*check_reports(reports), *tokens.findings]


def enough(
    usable: Mapping[str, str],
    patients: Mapping[str, str],
    settings: Settings,
    role: Role,
    min_exams: int,
) -> list[Finding]:
    """Whether there are exams enough for the folder's role.

    Args:
        usable: UID to split.
        patients: UID to patient.
        settings: of the study.
        role: what the folder is for.
        min_exams: training exams below which an update tells of single ones.
    """
    if role.server:
        split = role.measured[0]
        return found("exams.none_in_split", count=int(split not in usable.values()), detail=split)
    train = [uid for uid, split in usable.items() if split == "train"]
    num_patients = len({patients[uid] for uid in train if uid in patients})
    told = f"{len(train)} usable"
    findings: list[Finding] = []
    if num_patients < FEWEST_PATIENTS:
        findings += found("exams.too_few_patients", count=1, detail=f"{num_patients} usable")
    if len(train) < min_exams:
        detail = f"{told}, at least {min_exams} wanted"
        findings += found("exams.privacy_minimum", count=1, detail=detail)
    if len(train) < settings.training.batch_size:
        detail = f"{told}, a batch has {settings.training.batch_size}"
        findings += found("exams.fewer_than_batch", count=1, detail=detail)
    return findings


def _machine(
    layout: Layout,
    private: Path,
    settings: Settings,
    options: Options,
    usable: Mapping[str, str],
    reports: _Reports,
) -> list[Finding]:
    num_train = sum(split == "train" for split in usable.values())
    findings = [
        *check_disk(settings, num_train, len(usable) - num_train, private),
        *check_weights(settings, options.weights),
        *check_modes(layout, private),
        *check_clock(options.server),
    ]
    if options.server_exams:
        return findings
    findings += check_memory(settings, reports.longest)
    whole = not any(each.code == "machine.weights" for each in findings)
    if num_train and whole and not options.quick:
        findings += check_time(settings, options.weights, num_train, reports.texts)
    return findings


def _counts(
    layout: Layout, tables: SiteTables, compared: Compared, usable: Mapping[str, str]
) -> dict[str, object]:
    """Numbers of exams; classes are those of all exams with a folder and a split."""
    counts: dict[str, object] = {
        "folders": len(layout.folders),
        "usable": len(usable),
        "patients": len({compared.patients[uid] for uid in usable if uid in compared.patients}),
    }
    counts |= {split: sum(where == split for where in usable.values()) for split in SPLITS}
    if tables.findings is not None:
        counts["findings"] = class_counts(tables, compared.splits)
    if tables.annotations is not None:
        counts["lesions"] = lesion_counts(tables.annotations, compared.splits)
    return counts
