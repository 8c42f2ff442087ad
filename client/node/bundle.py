"""Which code runs: the files of a received bundle against this image's own, and the admin's approvals."""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import re
import stat
import tokenize
import tomllib
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from climb_model.atomic import write_atomic, write_text_atomic
from climb_model.bundle_files import PROJECT, bundle_candidates
from configs.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
"""Where this image's packages lie: the folder of `client`."""

MAX_PACKED = 10_000_000
"""Bytes of a bundle; Flower's own limit."""

MAX_UNPACKED = 50_000_000
MAX_FILES = 2_000
MAX_WAITING = 5
"""Bundles kept for the admin to look at; an older one makes place, and comes again with the next message."""

_INFO = ".info/"
_PATH = re.compile(r"[A-Za-z0-9_\-.+@ ]{1,100}(/[A-Za-z0-9_\-.+@ ]{1,100}){0,15}")
_KINDS = (".py", ".toml", ".yaml", ".yml", ".json", ".jsonl", ".md")
"""Endings that Flower puts into a bundle: source and data, nothing compiled."""

_PACKAGES = ("client", "climb_model", "configs", "server", "strategies")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{8,64}")


class BundleError(UserError):
    """A bundle that is not what a bundle must be, or an approval that names none."""


@dataclass(frozen=True)
class Difference:
    """How a bundle differs from this image's own; paths within the bundle, sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def num_files(self) -> int:
        """Files that differ; 0: the bundle is this image's own."""
        return len(self.added) + len(self.removed) + len(self.changed)

    def lines(self) -> list[str]:
        """One line a file."""
        named = [("added", self.added), ("removed", self.removed), ("changed", self.changed)]
        return [f"{what:8}{path}" for what, paths in named for path in paths]


@dataclass(frozen=True)
class Waiting:
    """A bundle that came with a message and is not this image's own."""

    digest: str
    version: str
    """`[project].version` of its pyproject.toml; '' if it has none."""

    difference: Difference
    approved: bool


def files_of_fab(content: bytes) -> dict[str, str]:
    """Path to SHA-256 of each file of a bundle, sorted; nothing is unpacked, run or imported.

    Flower's own list (`.info/`) is left out: it follows from the files.

    Raises:
        BundleError: if it is no bundle, too large, or holds a file twice, outside its folder, a link,
            or one that is encrypted.
    """
    return files_of(contents_of_fab(content))


def files_of(contents: Mapping[str, bytes]) -> dict[str, str]:
    """Path to SHA-256 of each file."""
    return {path: hashlib.sha256(data).hexdigest() for path, data in contents.items()}


def contents_of_fab(content: bytes) -> dict[str, bytes]:
    """Path to bytes of each file of a bundle, sorted; see `files_of_fab`."""
    if len(content) > MAX_PACKED:
        raise BundleError(f"the bundle has {len(content)} bytes, at most {MAX_PACKED} are taken")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _contents(archive)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError("the bundle is damaged or no bundle") from None
    except Exception as error:  # whatever a decoder raises over hostile bytes, zlib.error among it
        raise BundleError(f"the bundle cannot be read ({type(error).__name__})") from None


def own_contents(root: Path = ROOT) -> dict[str, bytes]:
    """Path to bytes of what this image's own bundle would hold, made by Flower's rules from `root`.

    Raises:
        BundleError: if there is no `pyproject.toml` that Flower makes a bundle by.
    """
    if not (root / PROJECT).is_file():
        raise BundleError(f"{root} has no {PROJECT}: a node starts from its image, or from a checkout")
    from flwr.cli.build import build_fab_from_files

    try:
        return contents_of_fab(build_fab_from_files(bundle_candidates(root))[0])
    except ValueError as error:
        raise BundleError(f"the bundle of {root} cannot be made: {error}") from None


def own_files(root: Path = ROOT) -> dict[str, str]:
    """Path to SHA-256 of each file of this image's own bundle, sorted."""
    return files_of(own_contents(root))


def program_digest(root: Path = ROOT) -> str:
    """SHA-256 of all source and data of this project's packages on the disk, by path and content."""
    found = [path for package in _PACKAGES for path in (root / package).rglob("*") if path.suffix in _KINDS]
    digest = hashlib.sha256()
    for path in sorted([*found, root / PROJECT]):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def bundle_digest(files: Mapping[str, str]) -> str:
    """SHA-256 of a bundle's files, by path and content: equal bundles have equal digests, however packed."""
    lines = [f"{path}\0{files[path]}\n" for path in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def difference(ours: Mapping[str, str], theirs: Mapping[str, str]) -> Difference:
    """How a bundle differs from ours; arguments as `files_of_fab` gives them."""
    return Difference(
        tuple(sorted(set(theirs) - set(ours))),
        tuple(sorted(set(ours) - set(theirs))),
        tuple(sorted(path for path in set(ours) & set(theirs) if ours[path] != theirs[path])),
    )


def unified_diff(ours: Mapping[str, bytes], theirs: Mapping[str, bytes]) -> list[str]:
    """The text of what differs; control characters of a bundle are shown, not sent to the screen."""
    found = difference(files_of(ours), files_of(theirs))
    lines: list[str] = []
    for path in sorted((*found.added, *found.removed, *found.changed)):
        before, after = _text(ours.get(path, b"")), _text(theirs.get(path, b""))
        old = f"image/{path}" if path in ours else "/dev/null"
        new = f"bundle/{path}" if path in theirs else "/dev/null"
        lines += difflib.unified_diff(before, after, old, new, lineterm="")
    return lines


def version_of(contents: Mapping[str, bytes]) -> str:
    """`[project].version` of a bundle, 40 plain characters at most; '' if it names none."""
    try:
        project = cast(Any, tomllib.loads(contents[PROJECT].decode("utf-8")))["project"]
        return re.sub(r"[^0-9A-Za-z.+\-]", "?", str(project["version"]))[:40]
    except (KeyError, TypeError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return ""


def unpack(content: bytes, folder: Path) -> None:
    """Write a bundle's files into a new folder, all read-only.

    Raises:
        BundleError: as `files_of_fab`.
    """
    contents = contents_of_fab(content)
    for path, data in contents.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(0o444)
    for inner in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        inner.chmod(0o555)


class Approvals:
    """The bundles that wait for this site's admin, and those that the admin approved.

    In a folder: `HASH.fab` with `HASH.json` beside it, and `approved.json` with digests and times.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def is_approved(self, digest: str) -> bool:
        """Whether the admin approved the bundle of this digest."""
        return digest in self.approved()

    def approved(self) -> dict[str, str]:
        """Digest to UTC time of each approval.

        Raises:
            BundleError: if `approved.json` is damaged.
        """
        path = self._folder / "approved.json"
        if not path.is_file():
            return {}
        try:
            values = cast(dict[str, str], json.loads(path.read_text("utf-8")))
            return {digest: str(values[digest]) for digest in values if _DIGEST.fullmatch(digest)}
        except (ValueError, TypeError, AttributeError):
            raise BundleError(f"{path} is damaged: delete it and approve again") from None

    def wait(self, digest: str, content: bytes, found: Difference) -> None:
        """Keep a bundle for the admin to look at; of those not approved the newest `MAX_WAITING` stay."""
        path = self._folder / f"{digest}.fab"
        if path not in self._files():
            values = {
                "version": version_of(contents_of_fab(content)),
                "added": found.added,
                "removed": found.removed,
                "changed": found.changed,
            }
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_text_atomic(self._folder / f"{digest}.json", json.dumps(values) + "\n")
            write_atomic(path, content, mode=0o600)
        approved = self.approved()
        unapproved = [old for old in self._files() if old.stem not in approved and old != path]
        for old in unapproved[: max(0, len(unapproved) + 1 - MAX_WAITING)]:
            old.unlink(missing_ok=True)
            old.with_suffix(".json").unlink(missing_ok=True)

    def waiting(self) -> tuple[Waiting, ...]:
        """All bundles that are kept, the oldest first.

        Raises:
            BundleError: if what was noted of one is damaged.
        """
        approved = self.approved()
        found: list[Waiting] = []
        for path in self._files():
            note = path.with_suffix(".json")
            try:
                values = cast(dict[str, Any], json.loads(note.read_text("utf-8")))
                differing = Difference(*(tuple(values[how]) for how in ("added", "removed", "changed")))
                found.append(Waiting(path.stem, values["version"], differing, path.stem in approved))
            except FileNotFoundError:  # it has just made place for a newer one
                continue
            except (ValueError, TypeError, KeyError):
                raise BundleError(
                    f"{note} is damaged: delete it; the bundle comes again with the next message"
                ) from None
        return tuple(found)

    def content(self, digest: str) -> bytes:
        """The bundle that waits or is approved, as it came; its digest is checked.

        Raises:
            BundleError: if it is not kept or was changed on the disk.
        """
        path = self._folder / f"{digest}.fab"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            message = f"bundle {digest[:12]} is not kept; it comes again with the next message"
            raise BundleError(message) from None
        if bundle_digest(files_of_fab(content)) != digest:
            raise BundleError(f"bundle {digest[:12]} was changed on the disk: delete {path}")
        return content

    def find(self, prefix: str) -> str:
        """The one digest, kept or approved, that begins with at least 8 digits.

        Raises:
            BundleError: if none or several do.
        """
        if not _PREFIX.fullmatch(prefix):
            raise BundleError(f"a bundle is named by 8 to 64 digits of its hash (0-9, a-f), got {prefix!r}")
        known = sorted({*(path.stem for path in self._files()), *self.approved()})
        fitting = [digest for digest in known if digest.startswith(prefix)]
        if len(fitting) != 1:
            there = ", ".join(digest[:12] for digest in known) or "none"
            raise BundleError(
                f"{len(fitting)} bundles have a hash {prefix}..., expected 1; there are: {there}"
            )
        return fitting[0]

    def approve(self, digest: str, moment: str) -> str:
        """Approve a bundle that waits, for the next message on; returns its digest.

        Args:
            digest: all of it: another bundle with the same first digits could be made.
            moment: when, UTC.

        Raises:
            BundleError: if it is not named in full, or its bytes are gone or changed.
        """
        if not _DIGEST.fullmatch(digest):
            raise BundleError(
                f"approve takes all 64 digits of a hash as climb-site status shows it, got {digest!r:.80}"
            )
        self.content(digest)
        self._write(self.approved() | {digest: moment})
        return digest

    def withdraw(self, prefix: str) -> str:
        """Take an approval back, for the next message on; returns the digest."""
        digest = self.find(prefix)
        approved = self.approved()
        if digest not in approved:
            raise BundleError(f"bundle {digest[:12]} is not approved")
        self._write({key: value for key, value in approved.items() if key != digest})
        return digest

    def _files(self) -> list[Path]:
        found: list[tuple[int, str, Path]] = []
        for path in self._folder.glob("*.fab"):
            with suppress(FileNotFoundError):  # it has just made place for a newer one
                path.with_suffix(".json").stat()
                found.append((path.stat().st_mtime_ns, path.name, path))
        return [path for _, _, path in sorted(found)]

    def _write(self, approved: Mapping[str, str]) -> None:
        write_text_atomic(self._folder / "approved.json", json.dumps(dict(approved), indent=1) + "\n")


def _contents(archive: zipfile.ZipFile) -> dict[str, bytes]:
    infos = archive.infolist()
    if len(infos) > MAX_FILES:
        raise BundleError(f"the bundle has {len(infos)} files, at most {MAX_FILES} are taken")
    contents: dict[str, bytes] = {}
    folded: set[str] = set()
    left = MAX_UNPACKED
    for info in infos:
        name = _checked_name(info)
        if name.casefold() in folded:
            raise BundleError(f"the bundle holds {name} twice")
        folded.add(name.casefold())
        with archive.open(info) as file:
            data = file.read(left + 1)  # what the zip says of a file's size is not believed
        left -= len(data)
        if left < 0:
            raise BundleError(f"the bundle has more than {MAX_UNPACKED} bytes unpacked")
        if not name.startswith(_INFO):
            if not _is_shown_as_it_runs(name, data):
                raise BundleError(f"the bundle's {name} is not UTF-8, which all text of a bundle must be")
            contents[name] = data
    if PROJECT not in contents:
        raise BundleError(f"the bundle holds no {PROJECT}")
    return dict(sorted(contents.items()))


def _checked_name(info: zipfile.ZipInfo) -> str:
    """The path of a file, if it is a plain file below the bundle's own folder."""
    name = info.orig_filename
    parts = PurePosixPath(name).parts
    sound = _PATH.fullmatch(name) and not {".", ".."} & {part.strip() for part in name.split("/")}
    sound = sound and (name.endswith(_KINDS) or name in (f"{_INFO}CONTENT", "LICENSE"))
    if not sound or name != info.filename or "/".join(parts) != name:
        raise BundleError(f"the bundle holds a file with the name {ascii(name)[:60]}, which is not allowed")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG) or info.flag_bits & 0x1:
        raise BundleError(f"the bundle's {name} is a link, encrypted, or no plain file")
    return name


def _text(data: bytes) -> list[str]:
    """Lines with control characters escaped."""
    lines = data.decode("utf-8").split("\n")
    return ["".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in line) for line in lines]


def _is_shown_as_it_runs(name: str, data: bytes) -> bool:
    """Whether the text that the admin is shown is what Python reads: UTF-8, and no other by its own words."""
    try:
        data.decode("utf-8")
        if not name.endswith(".py"):
            return True
        lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return tokenize.detect_encoding(io.BytesIO(lines).readline)[0] in ("utf-8", "utf-8-sig")
    except (UnicodeDecodeError, SyntaxError):
        return False
