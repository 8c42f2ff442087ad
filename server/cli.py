"""`climb-server`: what the coordinator of a study does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from configs.cli import DONE, Tool, existing_folder
from server.deployment.member_cli import add_members
from server.deployment.study_cli import add_studies


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `climb-server`; returns the exit code."""
    tool = Tool("climb-server", "The coordinator's side of a study. Research use, not a medical device.")
    add_members(tool)
    add_studies(tool)
    _add_evaluate(tool)
    _add_card(tool)
    return tool.run(arguments)


def _add_evaluate(tool: Tool) -> None:
    parser = tool.verb("evaluate", _evaluate, does="measure a finished run on a folder of labelled exams")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="exams with findings")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder of model folders; else the hub")


def _evaluate(arguments: argparse.Namespace) -> int:
    run = existing_folder(arguments.run, "RUN")
    data = existing_folder(arguments.data, "--data")
    weights = None if arguments.weights is None else existing_folder(arguments.weights, "--weights")
    from climb_model.evaluation.evaluate import evaluate
    from climb_model.results import evaluation_lines
    from climb_model.trained import SHARED

    print("\n".join(evaluation_lines(evaluate(run / SHARED, data, weights).summary)))
    return DONE


def _add_card(tool: Tool) -> None:
    parser = tool.verb("card", _card, does="write a finished run's model card again")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--site-names", action="store_true", help="name the sites; else they are numbered")


def _card(arguments: argparse.Namespace) -> int:
    run = existing_folder(arguments.run, "RUN")
    from climb_model.report.card import write_card
    from climb_model.runs import RunFolder

    print(write_card(RunFolder.open(run), site_names=arguments.site_names))
    return DONE
