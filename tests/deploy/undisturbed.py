"""The same study in one process, where nothing fails but what a test says."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from flwr.app import Message
from harness import TINY, Hospitals
from safetensors.torch import load_file
from torch import Tensor

from client.app import app as client_app
from climb_model.run_config import to_run_config
from climb_model.runs import RunFolder
from configs.load import load_settings
from server.place import ServerPlace
from server.rounds import run_study
from simulation.local_grid import SERVER_NODE, LocalGrid, LocalNode


def shared_weights(
    out: Path,
    hospitals: Hospitals,
    sites: Sequence[str],
    *overrides: str,
    study: str = "study",
    preset: str = "debug",
    absent: Mapping[int, Collection[str]] | None = None,
    late: Mapping[int, Collection[str]] | None = None,
) -> dict[str, Tensor]:
    """Final shared weights of a study whose sites all do what they are asked.

    Args:
        out: new folder.
        absent: round to the sites that are not asked in it.
        late: round to the sites that train in it, and whose replies are lost.
    """
    settings = load_settings(preset, [*TINY, *overrides, "federation.min_sites=1"])
    folder = RunFolder.create(out / study, settings, study)
    names = sorted(sites)
    nodes = [
        LocalNode(
            number,
            {"name": name, "data": str(hospitals.sites[name]), "private": str(out / "private" / name)},
        )
        for number, name in enumerate(names, start=SERVER_NODE + 1)
    ]
    run_config = to_run_config(settings, study)
    numbers = {name: node.node_id for name, node in zip(names, nodes, strict=True)}
    missing, lost = (
        {round: {numbers[name] for name in who} for round, who in (given or {}).items()}
        for given in (absent, late)
    )
    grid = _Absent(client_app, nodes, run_config, missing, lost)
    place = ServerPlace(data=hospitals.central, run=folder.path, num_sites=len(names), engine="local")
    run_study(grid, study, settings, place)
    return load_file(folder.path / "shared.safetensors")


class _Absent(LocalGrid):
    """A Grid some of whose nodes do not hear of some rounds, or are not heard."""

    def __init__(
        self,
        app: object,
        nodes: Sequence[LocalNode],
        run_config: Mapping[str, str],
        missing: Mapping[int, set[int]],
        lost: Mapping[int, set[int]],
    ) -> None:
        super().__init__(app, nodes, run_config)  # type: ignore[arg-type]
        self._missing, self._lost = missing, lost

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Replies of the nodes that hear of the round and are heard."""
        asked = [message for message in messages if not _is_among(message, self._missing)]
        lost = {message.metadata.dst_node_id for message in asked if _is_among(message, self._lost)}
        for reply in super().send_and_receive(asked, timeout=timeout):
            if reply.metadata.src_node_id not in lost:
                yield reply


def _is_among(message: Message, rounds: Mapping[int, set[int]]) -> bool:
    config = message.content.get("config")
    round = None if config is None else config.get("server-round")
    return message.metadata.dst_node_id in rounds.get(round, set())
