"""`climb-sim`: many virtual sites on one machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from configs.cli import DONE, Tool, existing_folder, new_folder, whole_number
from configs.errors import UsageError
from configs.load import load_settings, preset_names

CENTRAL = "CENTRAL"
"""The folder of the server's own exams below a data root, as `make-data` names it."""

_ENGINES = ("local", "flower")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `climb-sim`; returns the exit code."""
    tool = Tool("climb-sim", "Federated studies on one machine. Research use, not a medical device.")
    _add_demo(tool)
    _add_make_data(tool)
    _add_make_dicom(tool)
    _add_run(tool)
    _add_model(tool)
    return tool.run(arguments)


def _add_demo(tool: Tool) -> None:
    parser = tool.verb("demo", _demo, does="four synthetic hospitals train together; minutes, no download")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="RUN", help="new run folder")
    parser.add_argument("--quick", action="store_true", help="a much shortened run that shows the way only")
    parser.add_argument("--seed", type=whole_number(0), default=0)


def _demo(arguments: argparse.Namespace) -> int:
    out = new_folder(arguments.out, "--out")
    from simulation.demo import demo

    demo(out, seed=arguments.seed, quick=arguments.quick)
    return DONE


def _add_make_data(tool: Tool) -> None:
    parser = tool.verb("make-data", _make_data, does="write synthetic hospitals with planted findings")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder, one folder a hospital below it")
    parser.add_argument("--sites", type=whole_number(1), default=4, help="training hospitals")
    parser.add_argument("--exams", type=whole_number(20), default=200, help="breasts a hospital")
    parser.add_argument("--central-exams", type=whole_number(20), default=260, help="breasts of the server")
    parser.add_argument("--seed", type=whole_number(0), default=0)
    parser.add_argument(
        "--difficulty", type=_difficulty, default=1.0, help="1 is the standard, smaller is easier"
    )
    parser.add_argument("--tissue", type=Path, metavar="DIR", help="NIfTI volumes as real background")
    parser.add_argument("--workers", type=whole_number(1), default=2, help="processes")


def _difficulty(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"must be a number in (0, 100], got {text!r}")
    return value


def _make_data(arguments: argparse.Namespace) -> int:
    out = new_folder(arguments.out, "OUT")
    tissue = None if arguments.tissue is None else existing_folder(arguments.tissue, "--tissue")
    from climb_model.data.synthetic import make_hospitals

    make_hospitals(
        out,
        num_sites=arguments.sites,
        exams=arguments.exams,
        central_exams=arguments.central_exams,
        seed=arguments.seed,
        difficulty=arguments.difficulty,
        tissue=tissue,
        workers=arguments.workers,
    )
    print(
        f"{out}: {arguments.sites} sites with {arguments.exams} breasts each, "
        f"{CENTRAL} with {arguments.central_exams}"
    )
    return DONE


def _add_make_dicom(tool: Tool) -> None:
    does = "export synthetic hospitals as DICOM trees with report tables, to try the import on"
    parser = tool.verb("make-dicom", _make_dicom, does=does)
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder, one folder a hospital below it")
    parser.add_argument("--data", type=Path, required=True, metavar="DATA", help="what make-data wrote")
    parser.add_argument("--seed", type=whole_number(0), default=0)
    parser.add_argument("--workers", type=whole_number(1), default=2, help="processes")


def _make_dicom(arguments: argparse.Namespace) -> int:
    out = new_folder(arguments.out, "OUT")
    data = existing_folder(arguments.data, "--data")
    from climb_model.data.synthetic_dicom.export import TRUTH, make_dicom

    made = make_dicom(data, out, seed=arguments.seed, workers=arguments.workers)
    print(
        f"{out}: {made.num_hospitals} hospitals, {made.num_studies} studies, {made.num_files} DICOM files; "
        f"left out: {made.num_left_out} patients with one breast; what each study is: {TRUTH}"
    )
    return DONE


def _add_run(tool: Tool) -> None:
    parser = tool.verb("run", _run, does="train the sites below a folder together", settings=True)
    parser.add_argument("--preset", metavar="NAME", help=f"settings: {', '.join(preset_names())}")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="one folder a site below it")
    parser.add_argument("--central", type=Path, metavar="DIR", help=f"the server's exams; ROOT/{CENTRAL}")
    parser.add_argument("--out", type=Path, metavar="RUN", help="new run folder")
    parser.add_argument("--engine", choices=_ENGINES, help="local (the default): this process; flower: Ray")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder of model folders; else the hub")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with a run; takes nothing else")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.resume is not None:
        return _resume(arguments)
    for name in ("preset", "data", "out"):
        if vars(arguments)[name] is None:
            raise UsageError(f"run needs --{name} (or --resume RUN alone)")
    settings = load_settings(arguments.preset, arguments.overrides)
    data = existing_folder(arguments.data, "--data")
    if arguments.central is None and not (data / CENTRAL).is_dir():
        raise UsageError(
            f"--data {data} holds no {CENTRAL}, the server's own exams: give --central DIR "
            "(one hospital by itself: climb-site train)"
        )
    central = existing_folder(arguments.central or data / CENTRAL, "--central")
    weights = None if arguments.weights is None else existing_folder(arguments.weights, "--weights")
    begun = (arguments.out / "run.json").is_file()  # the run folder itself tells what it holds
    out = arguments.out if begun else new_folder(arguments.out, "--out")
    from climb_model.data.folders import list_sites

    sites = {name: path for name, path in list_sites(data).items() if not path.samefile(central)}
    if not sites:
        raise UsageError(f"--data must hold site folders beside the server's, got {data} without any")
    from climb_model.screen import LiveTable
    from simulation.engine import run

    run(
        settings,
        sites=sites,
        central=central,
        out=out,
        engine=arguments.engine or _ENGINES[0],
        weights=weights,
        observer=LiveTable(),
    )
    return _show(out)


def _resume(arguments: argparse.Namespace) -> int:
    for name in ("preset", "data", "central", "out", "engine", "weights", "overrides"):
        if vars(arguments)[name]:
            given = "key=value" if name == "overrides" else f"--{name}"
            raise UsageError(f"--resume goes on with the settings and folders of the run, got {given} too")
    folder = existing_folder(arguments.resume, "--resume")
    from climb_model.screen import LiveTable
    from simulation.engine import resume

    resume(folder, observer=LiveTable())
    return _show(folder)


def _show(run: Path) -> int:
    from climb_model.report.page import write_report

    print(f"report: {write_report(run)}")
    return DONE


def _add_model(tool: Tool) -> None:
    parser = tool.verb("model", _model, does="what is trained and shared; needs no weights", settings=True)
    parser.add_argument("--preset", required=True, metavar="NAME", help=", ".join(preset_names()))
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _model(arguments: argparse.Namespace) -> int:
    settings = load_settings(arguments.preset, arguments.overrides)
    from simulation.describe import describe, to_text

    description = describe(settings)
    print(json.dumps(description.to_json(), indent=2) if arguments.json else to_text(description))
    return DONE
