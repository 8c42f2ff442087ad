"""TensorBoard curves of a run: per round and per site."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from climb_model.runs import RoundRecord


class ScalarBoard:
    """Writes `RUN/tensorboard`; a context manager.

    Opening it purges what an earlier process wrote and writes the given history anew, so that a
    resumed run has each round once, also a round whose writer was killed halfway.
    """

    def __init__(self, folder: Path, history: Sequence[RoundRecord]) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # seconds to import: only where it is used

        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(folder))
        for record in history:
            self.add(record)

    def add(self, record: RoundRecord) -> None:
        """Add one round; the x axis is the round."""
        values = {
            "federation/mean_auc": record.mean_auc,
            "federation/global_step": record.global_step,
            "federation/seconds": record.seconds,
            "federation/num_sites": len(record.sites),
            "federation/num_rejected": len(record.rejected),
        }
        values |= {f"auc/{finding}": value for finding, value in record.auc.items()}
        for name, site in record.sites.items():
            values |= {
                f"site_{name}/loss": site.loss,
                f"site_{name}/exams": site.exams,
                f"site_{name}/seconds": site.seconds,
                f"site_{name}/bytes_up": site.bytes_up,
            }
        for tag, value in values.items():
            if value is not None:
                self._writer.add_scalar(tag, value, record.round)
        self._writer.flush()

    def __enter__(self) -> ScalarBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
