"""The coordinator's app as Flower starts it."""

from __future__ import annotations

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from climb_model.atomic import write_text_atomic
from climb_model.data.exam import DataError
from climb_model.report.page import write_report
from climb_model.run_config import from_run_config
from climb_model.sharing import SharingError
from configs.errors import UserError
from server.place import FAILURE, read_place
from server.rounds import run_study

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study that the run settings name where `CLIMB_SERVER` says, and write its report page."""
    place = read_place(context.run_config.get("study"))
    failure = place.run / FAILURE
    failure.unlink(missing_ok=True)
    try:
        study, settings = from_run_config(context.run_config)
        torch.set_num_threads(settings.training.num_threads)
        run_study(grid, study, settings, place)
        write_report(place.run)
    except (UserError, DataError, SharingError) as error:
        write_text_atomic(failure, f"{error}\n")
        raise
