"""`climb-site`: what the admin of one hospital does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from client.data_cli import add_check, add_forget, add_import
from client.egress.cli import add_egress
from client.kit.cli import add_membership
from client.node.cli import add_node
from configs.cli import DONE, Tool, existing_folder, new_folder, whole_number
from configs.errors import UsageError
from configs.load import load_settings, preset_names


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `climb-site`; returns the exit code."""
    tool = Tool("climb-site", "One hospital's side of a study. Research use, not a medical device.")
    add_import(tool)
    add_check(tool)
    _add_train(tool)
    _add_evaluate(tool)
    _add_similar(tool)
    add_forget(tool)
    add_membership(tool)
    add_node(tool)
    add_egress(tool)
    return tool.run(arguments)


def _add_train(tool: Tool) -> None:
    parser = tool.verb(
        "train", _train, does="train on this site's exams alone, without a federation", settings=True
    )
    parser.add_argument("site", type=Path, nargs="?", metavar="SITE_DIR", help="the site's data folder")
    parser.add_argument("--preset", metavar="NAME", help=f"settings: {', '.join(preset_names())}")
    parser.add_argument("--out", type=Path, metavar="RUN", help="new run folder")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder of model folders; else the hub")
    parser.add_argument("--devices", metavar="LIST", help="auto (the default), cpu, or such as cuda:0,cuda:1")
    parser.add_argument(
        "--resume", type=Path, metavar="RUN", help="go on with a training; takes nothing else"
    )


def _train(arguments: argparse.Namespace) -> int:
    if arguments.resume is not None:
        return _resume(arguments)
    for name, given in (("SITE_DIR", "site"), ("--preset", "preset"), ("--out", "out")):
        if vars(arguments)[given] is None:
            raise UsageError(f"train needs {name} (or --resume RUN alone)")
    settings = load_settings(arguments.preset, arguments.overrides)
    site = existing_folder(arguments.site, "SITE_DIR")
    weights = None if arguments.weights is None else existing_folder(arguments.weights, "--weights")
    begun = (arguments.out / "run.json").is_file()  # the run folder itself tells what it holds
    out = arguments.out if begun else new_folder(arguments.out, "--out")
    from client.train import train_alone
    from climb_model.progress import watched_by
    from climb_model.screen import LiveTable
    from climb_model.training.devices import AUTO

    with LiveTable(study=out.name, alone=True) as screen, watched_by(screen):
        train_alone(site, settings, out, weights, devices=arguments.devices or AUTO, say=print)
    return _show(out)


def _resume(arguments: argparse.Namespace) -> int:
    for name, given in (
        ("SITE_DIR", "site"),
        ("--preset", "preset"),
        ("--out", "out"),
        ("--weights", "weights"),
        ("--devices", "devices"),
        ("key=value", "overrides"),
    ):
        if vars(arguments)[given]:
            raise UsageError(f"--resume goes on with the settings and folders of the run, got {name} too")
    run = existing_folder(arguments.resume, "--resume")
    from client.train import resume_alone
    from climb_model.progress import watched_by
    from climb_model.screen import LiveTable

    with LiveTable(study=run.resolve().name, alone=True) as screen, watched_by(screen):
        resume_alone(run, say=print)
    return _show(run)


def _show(run: Path) -> int:
    from climb_model.report.page import write_report

    print(f"report: {write_report(run)}")
    return DONE


def _add_evaluate(tool: Tool) -> None:
    parser = tool.verb(
        "evaluate", _evaluate, does="measure trained weights on this site's own exams: AUC, retrieval"
    )
    parser.add_argument(
        "site",
        type=Path,
        metavar="SITE_DIR",
        help="the site's data folder; findings give AUC, reports retrieval",
    )
    trained = parser.add_mutually_exclusive_group(required=True)
    trained.add_argument(
        "--shared", type=Path, metavar="FILE", help="a run's shared.safetensors, config.yaml beside it"
    )
    trained.add_argument("--run", type=Path, metavar="RUN", help="what this site trained alone")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder of model folders; else the hub")
    parser.add_argument("--split", choices=("test", "val"), help="else the one that the settings name")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="new folder for tables and a page")


def _evaluate(arguments: argparse.Namespace) -> int:
    site = existing_folder(arguments.site, "SITE_DIR")
    weights = None if arguments.weights is None else existing_folder(arguments.weights, "--weights")
    run = None if arguments.run is None else existing_folder(arguments.run, "--run")
    out = None if arguments.out is None else new_folder(arguments.out, "--out")
    from rich.console import Console

    from client.evaluate import evaluate_run, write_folder
    from climb_model.evaluation.evaluate import evaluate
    from climb_model.progress import watched_by
    from climb_model.results import evaluation_lines
    from climb_model.screen import LiveTable

    with LiveTable(console=Console(stderr=True, highlight=False)) as screen, watched_by(screen):
        if run is not None:
            found = evaluate_run(run, site, weights, split=arguments.split, say=print)
        else:
            found = evaluate(arguments.shared, site, weights, split=arguments.split, reports=True)
    print("\n".join(evaluation_lines(found.summary)))
    if out is not None:
        print(f"report: {write_folder(found, out)}")
    return DONE


def _add_similar(tool: Tool) -> None:
    parser = tool.verb(
        "similar", _similar, does="list the site's exams whose images are most like one exam's"
    )
    parser.add_argument("exam", metavar="EXAM", help="UID of the exam")
    parser.add_argument("--site", type=Path, required=True, metavar="SITE_DIR", help="the site's data folder")
    parser.add_argument(
        "--shared", type=Path, required=True, metavar="FILE", help="a run's shared.safetensors"
    )
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder of model folders; else the hub")
    parser.add_argument(
        "--top", type=whole_number(1), default=10, metavar="N", help="exams to list; 10 unless told"
    )
    parser.add_argument(
        "--split",
        action="append",
        choices=("train", "val", "test"),
        help="list exams of this split only; may be given again",
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        metavar="DIR",
        help="private folder that keeps the slice tokens for the next time; else they are made anew",
    )
    parser.add_argument("--show-reports", action="store_true", help="show the reports too, on this screen")


def _similar(arguments: argparse.Namespace) -> int:
    site = existing_folder(arguments.site, "--site")
    weights = None if arguments.weights is None else existing_folder(arguments.weights, "--weights")
    from rich.console import Console

    from client.similar import similar, to_lines
    from climb_model.data.exam import SPLITS
    from climb_model.progress import watched_by
    from climb_model.screen import LiveTable

    with LiveTable(console=Console(stderr=True, highlight=False)) as screen, watched_by(screen):
        found = similar(
            arguments.exam,
            site,
            arguments.shared,
            weights,
            top=arguments.top,
            splits=arguments.split or SPLITS,
            scratch=arguments.scratch,
            show_reports=arguments.show_reports,
        )
    print("\n".join(to_lines(found)))
    return DONE
