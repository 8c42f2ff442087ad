"""`climb-site import`, `check` and `forget`: the verbs of the data door."""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from configs.cli import DONE, FAILED, Tool, existing_folder, whole_number
from configs.errors import UsageError
from configs.load import load_settings, preset_names

if TYPE_CHECKING:
    from climb_model.intake.import_report import ImportResult
    from climb_model.intake.importer import Progress


def add_import(tool: Tool) -> None:
    parser = tool.verb("import", _import, does="turn a DICOM export and its reports into this site's folder")
    parser.add_argument(
        "source", type=Path, metavar="DICOM_DIR", help="folder of DICOM files in any order and naming"
    )
    parser.add_argument("site", type=Path, metavar="SITE_DIR", help="the site's data folder; made if missing")
    parser.add_argument("--reports", type=Path, metavar="FILE", help="table of reports, CSV or Excel")
    parser.add_argument(
        "--mapping", type=Path, metavar="FILE", help="YAML: the site's names of series and columns"
    )
    parser.add_argument(
        "--motion",
        choices=("none", "rigid", "deformable", "convexadam"),
        help="correct motion between the phases before subtraction; none unless told",
    )
    parser.add_argument("--workers", type=whole_number(1), metavar="N", help="processes; 2 unless told")
    parser.add_argument("--replace", action="store_true", help="import exams anew that are there already")
    parser.add_argument("--show-files", action="store_true", help="list the files left out, on this screen")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--nifti", action="store_true", help="the folder holds NIfTI volumes of both breasts")
    kind.add_argument(
        "--parquet", action="store_true", help="the folder holds the ODELIA challenge's parquet"
    )
    kind.add_argument(
        "--series",
        type=_series,
        metavar="SEQUENCE[=DESCRIPTION]",
        help="import one series natively under a name, such as Pre='T1 axial'; it is never split",
    )
    parser.add_argument(
        "--id", metavar="ID", help="with --series: name of the exam; else made from the study"
    )
    parser.add_argument("--institution", metavar="NAME", help="with --parquet: rows of this institution only")
    parser.add_argument(
        "--make-reports",
        action="store_true",
        help="with --parquet: short German texts made from the column Lesion, marked as made",
    )


_UNUSED = {
    "series": ("reports", "mapping", "motion", "workers", "replace", "show_files"),
    "parquet": ("reports", "mapping", "motion", "workers"),
}
"""Options of `import` that a kind of source has no use for."""


def _series(text: str) -> tuple[str, str | None]:
    sequence, equals, description = text.partition("=")
    if not sequence or (equals and not description):
        raise argparse.ArgumentTypeError(f"must be SEQUENCE or SEQUENCE=DESCRIPTION, got {text!r}")
    return sequence, description or None


def _import(arguments: argparse.Namespace) -> int:
    source = existing_folder(arguments.source, "DICOM_DIR")
    for option, needs in (("id", "series"), ("institution", "parquet"), ("make_reports", "parquet")):
        if vars(arguments)[option] and not vars(arguments)[needs]:
            raise UsageError(f"--{option.replace('_', '-')} goes with --{needs}")
    for mode, unused in _UNUSED.items():
        for option in unused if vars(arguments)[mode] else ():
            if vars(arguments)[option] not in (None, False):
                raise UsageError(f"--{option.replace('_', '-')} does not go with --{mode}")
    os.umask(0o027)  # what is written is for the site's own users only
    if arguments.series is not None:
        return _import_series(arguments, source)
    from client.import_screen import ImportScreen
    from climb_model.intake.import_report import file_lines, result_lines

    try:
        with ImportScreen() as screen:
            load = _import_parquet if arguments.parquet else _import_exams
            result = load(arguments, source, screen.show)
    except KeyboardInterrupt:
        print("what is finished stays; run the same command again to go on", file=sys.stderr)
        raise
    print("\n".join(result_lines(result, arguments.site)))
    if arguments.show_files:
        print("\n".join(file_lines(result.entries)))
    return DONE if result.num_breasts else FAILED


def _import_exams(arguments: argparse.Namespace, source: Path, show: Progress) -> ImportResult:
    from climb_model.intake.importer import ImportOptions, import_site
    from climb_model.intake.mapping import load_mapping

    if arguments.reports is not None and not arguments.reports.is_file():
        raise UsageError(f"--reports must be a file, got {arguments.reports}")
    if arguments.reports is not None and arguments.mapping is None:
        raise UsageError("--reports needs --mapping FILE, which names its columns (docs/data-door.md)")
    options = ImportOptions(
        mapping=load_mapping(arguments.mapping),
        reports=arguments.reports,
        motion=arguments.motion or "none",
        workers=arguments.workers or 2,
        replace=arguments.replace,
    )
    return import_site(source, arguments.site, options, nifti=arguments.nifti, on_progress=show)


def _import_parquet(arguments: argparse.Namespace, source: Path, show: Progress) -> ImportResult:
    from climb_model.intake.parquet.challenge import import_parquet

    return import_parquet(
        source,
        arguments.site,
        make_reports=arguments.make_reports,
        institution=arguments.institution or "",
        replace=arguments.replace,
        on_exam=partial(show, "importing exams"),
    )


def _import_series(arguments: argparse.Namespace, source: Path) -> int:
    from climb_model.intake.dicom.one_series import import_series

    sequence, series = arguments.series
    print(import_series(source, arguments.site, sequence=sequence, series=series, exam_id=arguments.id))
    return DONE


def add_check(tool: Tool) -> None:
    parser = tool.verb(
        "check",
        _check,
        does="tell what is wrong with a site's exams, tables, reports and machine, and what to do",
        settings=True,
    )
    parser.add_argument("site", type=Path, metavar="SITE_DIR", help="the site's data folder")
    parser.add_argument(
        "--preset",
        default="climb",
        metavar="NAME",
        help=f"settings of the study: {', '.join(preset_names())}; climb unless told",
    )
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder of model folders")
    parser.add_argument(
        "--private", type=Path, metavar="DIR", help="the site's private folder; else SITE_DIR/private"
    )
    parser.add_argument(
        "--policy", type=Path, metavar="FILE", help="the site's policy, for the fewest exams behind an update"
    )
    parser.add_argument(
        "--node", type=Path, metavar="DIR", help="the site's node: its private folder, weights and policy"
    )
    parser.add_argument(
        "--server", type=_web_address, metavar="URL", help="compare this machine's clock with that server's"
    )
    parser.add_argument(
        "--server-exams",
        action="store_true",
        help="these are the coordinator's: findings needed, reports not",
    )
    parser.add_argument(
        "--quick", action="store_true", help="headers, tables and reports only: no pixels, no timing"
    )
    parser.add_argument(
        "--workers",
        type=whole_number(1),
        default=2,
        metavar="N",
        help="processes that read pixels; 2 unless told",
    )
    parser.add_argument("--show-ids", action="store_true", help="name exams, patients and files")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")


def _web_address(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"must begin with http:// or https://, got {text!r}")
    return text


def _check(arguments: argparse.Namespace) -> int:
    site = existing_folder(arguments.site, "SITE_DIR")
    weights = None if arguments.weights is None else existing_folder(arguments.weights, "--weights")
    private, policy = arguments.private, arguments.policy
    if arguments.node is not None:
        from client.node.settings import NodePaths, read_node

        node = read_node(arguments.node)
        private, weights = private or node.private, weights or node.weights
        policy = policy or NodePaths(arguments.node).policy
    settings = load_settings(arguments.preset, arguments.overrides)
    from client.check import progress_bar, show
    from client.egress.policy import read_policy
    from climb_model.checking.check import Options, check_site
    from climb_model.privacy_minimum import MIN_EXAMS

    options = Options(
        weights=weights,
        private=private,
        server=arguments.server,
        server_exams=arguments.server_exams,
        quick=arguments.quick,
        workers=arguments.workers,
        min_exams=MIN_EXAMS if policy is None else read_policy(policy).minimum.exams,
    )
    with progress_bar() as on_file:
        result = check_site(site, settings, options, on_file)
    if arguments.json:
        print(json.dumps(result.to_dict(show_ids=arguments.show_ids), ensure_ascii=False))
    else:
        show(result, show_ids=arguments.show_ids)
    return DONE if result.passed else FAILED


def add_forget(tool: Tool) -> None:
    parser = tool.verb("forget", _forget, does="remove an exam and everything made of it from this site")
    exam = parser.add_mutually_exclusive_group(required=True)
    exam.add_argument("exam", nargs="?", metavar="UID", help="<ID>_left or <ID>_right; <ID>: both breasts")
    exam.add_argument("--accession", metavar="NUMBER", help="the exam that came under this number")
    exam.add_argument("--patient", metavar="NUMBER", help="all exams of the patient with this number")
    parser.add_argument("--site", type=Path, required=True, metavar="SITE_DIR", help="the site's data folder")
    parser.add_argument(
        "--private",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="private folder or run folder to search too; may be given again",
    )
    parser.add_argument(
        "--node", type=Path, metavar="DIR", help="the site's node, whose private folder is searched too"
    )
    parser.add_argument("--dry-run", action="store_true", help="only list what would be removed")


def _forget(arguments: argparse.Namespace) -> int:
    site = existing_folder(arguments.site, "--site")
    private = [existing_folder(folder, "--private") for folder in arguments.private]
    if arguments.node is not None:
        from client.node.settings import read_node

        private.append(existing_folder(read_node(arguments.node).private, "private of the node's site.yaml"))
    from client.forget import exam_of_accession, exams_of_patient, forget, to_lines

    names = [arguments.exam]
    if arguments.accession is not None:
        names = [exam_of_accession(arguments.accession, site)]
    elif arguments.patient is not None:
        names = exams_of_patient(arguments.patient, site)
    for name in names:
        print("\n".join(to_lines(forget(name, site, private, dry_run=arguments.dry_run))))
    if not private:
        print(
            "private folders of a node and run folders were not searched: give --node, and each run folder "
            "that trained on this site as --private"
        )
    return DONE
