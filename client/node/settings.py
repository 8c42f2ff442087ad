"""A site's node: its folder, its settings in `site.yaml`, and how much of the machine it may use."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from client.audit import END_FILE
from climb_model.atomic import write_text_atomic
from climb_model.names import check_name
from configs.errors import UsageError, UserError

VARIABLE = "CLIMB_NODE"
"""Environment variable that names the node's folder."""

DEFAULT_FOLDER = Path("node")

DEVICES = "auto, cpu or such as cuda:0,cuda:1"
"""What names devices, in words."""

_DEVICES = re.compile(r"auto|(cpu|cuda(:[0-9]+)?)(\s*,\s*(cpu|cuda(:[0-9]+)?))*")
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]@]+):([0-9]{1,5})")


class NodeError(UserError):
    """A node that is not set up as it should be; for the site's own screen, since it may name folders."""


@dataclass(frozen=True, kw_only=True)
class Quotas:
    """What training may take of the hospital's machine; the section `quotas` of `site.yaml`."""

    gpu_memory_share: float = 0.8
    """Share of the memory of each of `devices`, in (0, 1]; more is refused by the allocator, not taken. A
    message is refused while less than that is free: so the rest, a fifth for screens and small models, is
    never taken from the hospital's own work. 1: no limit, and only `min_free_gpu_mib` need be free."""

    min_free_gpu_mib: int = 2048
    """MiB that must be free on each of `devices` whatever the share, else a message is refused; with less,
    training would run out of memory after all, next to other work that may, too. 0: no matter."""

    num_threads: int = 0
    """CPU cores that training may use at the same time; 0: all that this process may."""

    nice: int = 10
    """Niceness of the training process, 0 (as everybody) to 19 (only what nobody else wants)."""


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """What `site.yaml` holds: who this site is, where its server is, and where its exams lie."""

    name: str
    """The site's name in the study, as it was invited."""

    server: str
    """`host:port`; the only address that this site connects to."""

    data: Path = field(repr=False)
    private: Path = field(repr=False)
    """Where private weights, slice tokens, the site's own log and the audit log are kept."""

    weights: Path | None = field(default=None, repr=False)
    """Folder of the frozen encoders' model folders."""

    devices: str = "auto"
    chunk_size: int | None = None
    shared_generators: bool = False
    """Whether this site takes part in studies that share the weights that write reports."""

    quotas: Quotas = Quotas()

    def node_config(self) -> dict[str, str]:
        """What `client.site.site_of` reads; paths in it never leave this machine."""
        values: dict[str, str] = {
            "name": self.name,
            "data": str(self.data),
            "private": str(self.private),
            "devices": self.devices,
            "shared-generators": str(self.shared_generators).lower(),
        }
        if self.weights is not None:
            values["weights"] = str(self.weights)
        if self.chunk_size is not None:
            values["chunk-size"] = str(self.chunk_size)
        return values


@dataclass(frozen=True)
class NodePaths:
    """Where things lie in a node's folder."""

    folder: Path

    @property
    def settings(self) -> Path:
        """`site.yaml`: NodeSettings."""
        return self.folder / "site.yaml"

    @property
    def policy(self) -> Path:
        """`policy.yaml`: what may leave; the site's own."""
        return self.folder / "policy.yaml"

    @property
    def ca(self) -> Path:
        """`ca.crt`: the coordinator's certificate authority, PEM."""
        return self.folder / "ca.crt"

    @property
    def key(self) -> Path:
        """`node.key`: the site's private key, mode 0600."""
        return self.folder / "node.key"

    @property
    def public_key(self) -> Path:
        """`node.pub`: the public part of the key."""
        return self.folder / "node.pub"

    @property
    def secret(self) -> Path:
        """`superexec.secret`: between the gate and this machine's SuperNode only, mode 0600."""
        return self.folder / "superexec.secret"

    @property
    def invitation(self) -> Path:
        """`invitation`: copy of the kit."""
        return self.folder / "invitation"

    @property
    def state(self) -> Path:
        """`state/`: what the running node writes."""
        return self.folder / "state"

    @property
    def flower_home(self) -> Path:
        """`state/flower`: FLWR_HOME of the SuperNode."""
        return self.state / "flower"

    @property
    def bundles(self) -> Path:
        """`state/bundles`: bundles that wait or are approved, and `approved.json`."""
        return self.state / "bundles"

    @property
    def work(self) -> Path:
        """`state/work`: one folder a message, gone with its reply."""
        return self.state / "work"

    @property
    def paused(self) -> Path:
        """`state/paused`: is there while the admin pauses the site; holds the reason."""
        return self.state / "paused"

    @property
    def status(self) -> Path:
        """`state/status.json`: how the node is, for `climb-site status`."""
        return self.state / "status.json"

    @property
    def audit_end(self) -> Path:
        """`state/audit-end.json`: where the audit log ended when this node wrote to it last."""
        return self.state / END_FILE

    @property
    def lock(self) -> Path:
        """`state/lock`: held by the one `climb-site start` of this folder."""
        return self.state / "lock"


def names_devices(text: str) -> bool:
    """Whether a text has the form of a list of devices; whether they are there is not asked."""
    return _DEVICES.fullmatch(text) is not None


def read_node(folder: Path) -> NodeSettings:
    """The settings of a node's folder.

    Raises:
        UsageError: if there is no `site.yaml`.
        NodeError: if it holds an unknown key or an impossible value.
    """
    path = NodePaths(folder).settings
    if not path.is_file():
        raise UsageError(
            f"{folder} is no site's node, there is no site.yaml: make it with climb-site join KIT"
        )
    try:
        read: object = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise NodeError(f"{path} is no YAML") from None
    values = _section(read, NodeSettings, str(path))
    quotas = Quotas(
        **_typed(_section(values.pop("quotas", {}), Quotas, f"{path}: quotas"), Quotas, str(path))
    )
    settings = NodeSettings(**_typed(values, NodeSettings, str(path)), quotas=quotas)
    _check(settings, str(path))
    return settings


def write_node(folder: Path, settings: NodeSettings) -> None:
    """Write `site.yaml`, every value in it.

    Raises:
        NodeError: if a value is impossible.
    """
    path = NodePaths(folder).settings
    _check(settings, str(path))
    values = dataclasses.asdict(settings)
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
    write_text_atomic(path, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def _section(read: object, kind: type, where: str) -> dict[str, object]:
    known = {one.name for one in dataclasses.fields(kind)}
    if not isinstance(read, Mapping):
        raise NodeError(f"{where} must hold key: value lines, got {type(read).__name__}")
    values = {str(key): value for key, value in cast(Mapping[object, object], read).items()}
    for key in values:
        if key not in known:
            raise NodeError(f"{where} has an unknown key {key!r}; there are: {', '.join(sorted(known))}")
    return values


_TYPES: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "Path": (str,),
    "Path | None": (str, type(None)),
    "int | None": (int, type(None)),
}


def _typed(values: Mapping[str, object], kind: type, where: str) -> dict[str, Any]:
    """The values with folders as paths, all of the fields' types, all of the required ones there."""
    typed: dict[str, Any] = {}
    for one in dataclasses.fields(kind):
        if one.name == "quotas":
            continue
        if one.name not in values:
            if one.default is dataclasses.MISSING:
                raise NodeError(f"{where} lacks '{one.name}'")
            continue
        value, wanted = values[one.name], str(one.type)
        fits = isinstance(value, _TYPES[wanted]) and isinstance(value, bool) == (wanted == "bool")
        if not fits:
            raise NodeError(f"{where}: {one.name} must be {wanted}, got {value!r}")
        typed[one.name] = Path(value) if "Path" in wanted and isinstance(value, str) else value
    return typed


def _check(settings: NodeSettings, where: str) -> None:
    check_name("site", settings.name)
    address = _SERVER.fullmatch(settings.server)
    quotas = settings.quotas
    for wrong, wanted, got in (
        (address is None or not 1 <= int(address[2]) <= 65535, "server must be host:port", settings.server),
        (not names_devices(settings.devices), f"devices must be {DEVICES}", settings.devices),
        ((settings.chunk_size or 0) < 0, "chunk_size must be >= 0", settings.chunk_size),
        (not 0 < quotas.gpu_memory_share <= 1, "gpu_memory_share must be in (0, 1]", quotas.gpu_memory_share),
        (quotas.min_free_gpu_mib < 0, "min_free_gpu_mib must be >= 0", quotas.min_free_gpu_mib),
        (quotas.num_threads < 0, "num_threads must be >= 0", quotas.num_threads),
        (not 0 <= quotas.nice <= 19, "nice must be 0 to 19", quotas.nice),
    ):
        if wrong:
            raise NodeError(f"{where}: {wanted}, got {got!r}")
