"""Training on the devices that a site has: one process each, all on the same batches."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from climb_model.atomic import write_text_atomic
from climb_model.data.exam import DataError
from climb_model.model.climb import ClimbModel, build_model
from climb_model.model.language_model import LanguageModel
from climb_model.model.text import ReportEncoder
from climb_model.prepare import ExamSet
from climb_model.training.batches import trainable
from climb_model.training.errors import TrainingError
from climb_model.training.processes import Processes
from climb_model.training.trainer import OptimizerState, TrainReport, train_round
from configs.errors import UserError
from configs.schema import Settings

AUTO = "auto"
"""The first GPU, or the CPU where there is none."""

POLL_S = 0.2
EXCHANGE = "climb-train-"
"""Beginning of the names of folders where processes exchange weights."""
OnStep = Callable[[int, int, float], None]


class DeviceError(UserError):
    """Devices that this machine does not have; one line."""


def parse_devices(text: str) -> tuple[torch.device, ...]:
    """The devices of a setting such as `auto`, `cpu` or `cuda:0,cuda:1`.

    Raises:
        DeviceError: if one is unknown, not there or named twice. The CPU never stands in for a GPU
            that was asked for.
    """
    if text == AUTO:
        return (torch.device("cuda:0" if torch.cuda.is_available() else "cpu"),)
    devices: list[torch.device] = []
    for name in text.split(","):
        try:
            device = torch.device(name.strip())
        except RuntimeError:
            raise DeviceError(
                f"devices must be 'auto', 'cpu' or such as 'cuda:0,cuda:1', got '{text}'"
            ) from None
        if name.strip() == "cuda":
            device = torch.device("cuda:0")
        found = torch.cuda.device_count() if device.type == "cuda" else int(device.type == "cpu")
        if (device.index or 0) >= found:
            raise DeviceError(
                f"device '{name.strip()}' is wanted, this machine has {torch.cuda.device_count()} GPUs"
            )
        if device in devices and device.type != "cpu":
            raise DeviceError(f"devices must name each once, got '{text}'")
        devices.append(device)
    if len({device.type for device in devices}) > 1:
        raise DeviceError(f"devices must be all GPUs or all CPUs, got '{text}'")
    return tuple(devices)


def train_on(
    devices: Sequence[torch.device],
    model: ClimbModel,
    optimizer_state: OptimizerState | None,
    exams: ExamSet,
    reports: ReportEncoder,
    settings: Settings,
    *,
    round: int,
    global_step: int,
    on_step: OnStep | None = None,
    scratch: Path | None = None,
) -> tuple[TrainReport, OptimizerState]:
    """`train_round` on one device, or with each batch shared among several.

    The negatives stay those of the whole batch: vectors are gathered from all devices. Losses and
    gradients are those of one device with the whole batch (dropout apart).

    Args:
        devices: several CPUs are as many processes on this machine.
        model: on the CPU, also afterwards.
        scratch: private folder where several processes exchange weights; None takes the system's.

    Returns and errors: as `train_round`. The optimizer's state is on the CPU.

    Raises:
        TrainingError: also if a batch has fewer exams than there are devices.
    """
    alone = len(devices) == 1
    train = partial(_on_one, devices[0]) if alone else partial(_on_several, devices, scratch)
    return train(
        model,
        optimizer_state,
        exams,
        reports,
        settings,
        round=round,
        global_step=global_step,
        on_step=on_step,
    )


def _on_one(
    device: torch.device,
    model: ClimbModel,
    optimizer_state: OptimizerState | None,
    exams: ExamSet,
    reports: ReportEncoder,
    settings: Settings,
    *,
    round: int,
    global_step: int,
    on_step: OnStep | None,
) -> tuple[TrainReport, OptimizerState]:
    """`train_round` with the model on the device and back."""
    on_gpu = device.type == "cuda"
    model.to(device)
    try:
        with torch.cuda.device(device) if on_gpu else nullcontext():
            report, state = train_round(
                model,
                optimizer_state,
                exams,
                reports,
                settings,
                round=round,
                global_step=global_step,
                on_step=on_step,
            )
    finally:
        model.to("cpu")
    return report, to_cpu(state) if on_gpu else state


def _on_several(
    devices: Sequence[torch.device],
    scratch: Path | None,
    model: ClimbModel,
    optimizer_state: OptimizerState | None,
    exams: ExamSet,
    reports: ReportEncoder,
    settings: Settings,
    *,
    round: int,
    global_step: int,
    on_step: OnStep | None,
) -> tuple[TrainReport, OptimizerState]:
    """`train_round` by one process a device; weights and state pass through files."""
    batch_size = min(settings.training.batch_size, len(trainable(exams)))
    if batch_size < len(devices):
        raise TrainingError(
            f"site '{exams.site}': a batch of {batch_size} exams cannot be shared by {len(devices)} devices"
        )
    with _meeting_place(scratch) as meet:
        torch.save(model.state_dict(), meet / "model.pt")
        torch.save(optimizer_state, meet / "optimizer.pt")
        steps: Any = get_context("spawn").SimpleQueue()
        work = (meet, tuple(devices), model.language_model, exams, reports, settings)
        torch.cuda.empty_cache()  # what this process keeps would come on top of theirs
        _run_processes(len(devices), (*work, round, global_step, steps), meet, steps, on_step)
        model.load_state_dict(torch.load(meet / "model.pt"))
        return torch.load(meet / "done.pt", weights_only=False)  # written by our own process


@contextmanager
def _meeting_place(scratch: Path | None) -> Generator[Path]:
    """A folder where processes exchange weights; those of trainings that were killed are removed."""
    if scratch is not None:
        scratch.mkdir(parents=True, exist_ok=True)
        for old in scratch.glob(f"{EXCHANGE}*"):
            shutil.rmtree(old)
    with tempfile.TemporaryDirectory(prefix=EXCHANGE, dir=scratch) as folder:
        yield Path(folder)


def _run_processes(
    number: int, work: tuple[Any, ...], meet: Path, steps: Any, on_step: OnStep | None
) -> None:
    """Run `_work` in so many processes, telling their steps, until all have ended.

    Raises:
        TrainingError: with the line of the first process that could not go on.
    """
    workers = start_processes(_work, work, nprocs=number, join=False, start_method="spawn")
    assert workers is not None
    try:
        while not workers.join(POLL_S):
            tell(steps, on_step)
    except ProcessExitedException:
        faults = sorted(meet.glob("*.fault"))
        if not faults:
            raise
        raise TrainingError(faults[0].read_text("utf-8")) from None
    tell(steps, on_step)


def tell(steps: Any, on_step: OnStep | None) -> None:
    """Hand on the steps that the first process has put into the queue."""
    while not steps.empty():
        step = steps.get()
        if on_step is not None:
            on_step(*step)


def _work(
    rank: int,
    meet: Path,
    devices: tuple[torch.device, ...],
    language_model: LanguageModel | None,
    exams: ExamSet,
    reports: ReportEncoder,
    settings: Settings,
    round: int,
    global_step: int,
    steps: Any,
) -> None:
    """One process: its parts of every batch."""
    device = devices[rank]
    if device.type == "cuda":
        torch.cuda.set_device(device)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all processes are on this machine
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{meet}/meet",
        rank=rank,
        world_size=len(devices),
    )
    model = build_model(settings, language_model)
    model.load_state_dict(torch.load(meet / "model.pt"))
    model.to(device)
    optimizer_state = torch.load(meet / "optimizer.pt")
    dist.barrier()  # nobody writes before all have read
    try:
        report, state = train_round(
            model,
            optimizer_state,
            exams,
            reports,
            settings,
            round=round,
            global_step=global_step,
            on_step=(lambda *step: steps.put(step)) if rank == 0 else None,
            processes=Processes.of_group(),
        )
    except (TrainingError, DataError) as error:  # a TrainingError's line may travel
        line = error.public if isinstance(error, DataError) else str(error)
        write_text_atomic(meet / f"{rank}.fault", line)
        raise SystemExit(1) from None  # the parent then ends the others, which may wait for this one
    if rank == 0:
        torch.save({name: value.cpu() for name, value in model.state_dict().items()}, meet / "model.pt")
        torch.save((report, to_cpu(state)), meet / "done.pt")
    dist.destroy_process_group()


def to_cpu(state: OptimizerState) -> OptimizerState:
    """An optimizer's state with all tensors on the CPU."""

    def moved(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.cpu()
        if isinstance(value, dict):
            return {key: moved(inner) for key, inner in value.items()}
        return value

    return moved(state)
