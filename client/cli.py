"""`climb-site`: what the admin of one hospital does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from configs.cli import DONE, Tool, existing_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `climb-site`; returns the exit code."""
    tool = Tool("climb-site", "One hospital's side of a study. Research use, not a medical device.")
    _add_import(tool)
    return tool.run(arguments)


def _add_import(tool: Tool) -> None:
    parser = tool.verb("import", _import, does="turn a DICOM series into a volume of the site's folder")
    parser.add_argument("dicom", type=Path, metavar="DICOM_DIR", help="folder of DICOM files")
    parser.add_argument("site", type=Path, metavar="SITE_DIR", help="the site's data folder; made if missing")
    parser.add_argument(
        "--series",
        type=_series,
        required=True,
        metavar="SEQUENCE[=DESCRIPTION]",
        help="which series becomes which sequence, such as Pre='T1 axial'; Pre alone: the only series",
    )
    parser.add_argument("--id", metavar="ID", help="name of the exam; else made from the study")


def _series(text: str) -> tuple[str, str | None]:
    sequence, equals, description = text.partition("=")
    if not sequence or (equals and not description):
        raise argparse.ArgumentTypeError(f"must be SEQUENCE or SEQUENCE=DESCRIPTION, got {text!r}")
    return sequence, description or None


def _import(arguments: argparse.Namespace) -> int:
    dicom = existing_folder(arguments.dicom, "DICOM_DIR")
    from climb_model.data.dicom import import_series

    sequence, series = arguments.series
    print(import_series(dicom, arguments.site, sequence=sequence, series=series, exam_id=arguments.id))
    return DONE
