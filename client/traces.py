"""Where a site's folders hold something of an exam; finding it changes nothing."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from client.folders import SITE_LOG
from client.trained_exams import EXAMS_FILE, trained_exams
from climb_model.atomic import write_atomic
from climb_model.data.folders import UKA_KEYS, UKA_SIDES
from climb_model.data.store import remove_store, store_holds
from climb_model.data.table_rows import Change, change_rows
from climb_model.data.tables import Row, folded
from climb_model.intake.forgotten import whole_exam
from configs.errors import UserError

VOLUMES, NATIVE, ROWS = "volumes", "native volumes of both breasts", "table rows"
TOKENS, KEPT, LINES = "token files", "kept results", "log lines"
"""What a trace is of."""

COUNTED = (ROWS, LINES)

CHECK_CACHE = "check-cache.json"
_TEXT = (".csv", ".json", ".jsonl", ".log", ".txt", ".md", ".html", ".yaml")
_MOST_TEXT_BYTES = 1 << 26
_LEAST_TELLING = 8
"""Characters of an exam's name that is looked for in texts; `7` would be found in any."""

_TOKEN_FILE = re.compile(r"tokens-\w+(\.json|\.f16|\.\d+\.partial|\.\d+\.json\.partial)")
_DRAFTS = (".unfinished", ".old", ".forgotten")
"""Endings of hidden folders that a killed import or a killed removal leaves."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be forgotten."""

    name: str
    """`<ID>_left`, `<ID>_right`, or `<ID>` for both breasts."""

    exam: str
    uids: tuple[str, ...]

    @classmethod
    def named(cls, name: str) -> Asked:
        """One breast or a whole exam by its name.

        Raises:
            UserError: if it cannot be the name of a folder.
        """
        if not name or name.startswith(".") or Path(name).name != name:
            raise UserError(f"an exam is named by its UID, such as 0001_left, got {name!r}")
        exam = whole_exam(name)
        return cls(name=name, exam=exam, uids=(name,) if name != exam else (f"{exam}_left", f"{exam}_right"))

    @property
    def names(self) -> tuple[str, ...]:
        """The breasts, and the exam, whose native volumes hold them."""
        return (*self.uids, self.exam)

    def in_text(self, text: str) -> bool:
        """Whether a text names what was asked for; a whole exam also by a name long enough to tell."""
        whole = self.name == self.exam and len(self.exam) >= _LEAST_TELLING
        names = self.names if whole else self.uids
        return re.search(rf"(?<![\w-])(?:{'|'.join(map(re.escape, names))})(?![\w-])", text) is not None


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One file or folder that holds something of an exam."""

    what: str
    path: Path
    number: int = 1
    """Rows or lines in it."""

    remove: Callable[[], None] = field(repr=False)
    """May be repeated after it was cut off."""


@dataclass(frozen=True, kw_only=True)
class Traces:
    """Everything found."""

    removable: tuple[Trace, ...]
    """In the order in which it is removed."""

    trained: dict[Path, dict[str, int]]
    """Folder of private weights to the UIDs that trained them and the first round of each."""

    unknown: tuple[Path, ...]
    """Folders of private weights of which nobody noted what trained them."""

    others: tuple[Path, ...]
    """Files that name the exam and are of no kind that this program knows to change."""


def find_traces(site_dir: Path, private: Sequence[Path], asked: Asked) -> Traces:
    """Search a site's folder, its `private` and the private and run folders that are given.

    Raises:
        DataError: a table that cannot be read row by row.
        StateError: a damaged list of the exams that trained private weights.
    """
    files = list(_files(list(dict.fromkeys(path.resolve() for path in (site_dir / "private", *private)))))
    tokens = [path for path in files if _TOKEN_FILE.fullmatch(path.name)]
    traces = [
        *_volumes(site_dir, asked),
        *_tables(site_dir, asked),
        *_token_files(tokens, asked),
        *_kept(files, asked),
        *_private_tables(files, asked),
    ]
    states = dict.fromkeys(path.parent for path in files if re.fullmatch(r"round-\d+\.pt", path.name))
    lists = dict.fromkeys(path.parent for path in files if path.name == EXAMS_FILE)
    trained = {
        folder: {uid: first for uid, first in trained_exams(folder).items() if uid in asked.uids}
        for folder in lists
    }
    known = {trace.path for trace in traces} | {folder / EXAMS_FILE for folder in lists} | {*tokens}
    tables = (path for folder in _table_folders(site_dir) for path in folder.iterdir())
    return Traces(
        removable=tuple(traces),
        trained={folder: found for folder, found in trained.items() if found},
        unknown=tuple(folder for folder in states if folder not in lists),
        others=tuple(path for path in (*tables, *files) if path not in known and _names(path, asked)),
    )


def _volumes(site_dir: Path, asked: Asked) -> Iterator[Trace]:
    """Folders of volumes, and hidden ones that a killed import or removal left."""
    for folder, what in (("data_unilateral", VOLUMES), ("data", NATIVE)):
        parent = site_dir / folder
        for name in asked.names:
            for path in (parent / name, *(parent / f".{name}{ending}" for ending in _DRAFTS)):
                if path.is_symlink() or path.exists():
                    yield Trace(what=what, path=path, remove=partial(_remove_folder, path))


def exam_folders(site_dir: Path) -> Iterator[tuple[str, Path]]:
    """`<ID>` and folder of everything that `_volumes` would find by its name."""
    for parent in (site_dir / "data", site_dir / "data_unilateral"):
        for path in sorted(parent.iterdir()) if parent.is_dir() else ():
            name = path.name
            if name.startswith(".") and name.endswith(_DRAFTS):
                name = name.removeprefix(".").rpartition(".")[0]
            if not name.startswith(".") and (path.is_symlink() or path.is_dir()):
                yield whole_exam(name), path


def _remove_folder(path: Path) -> None:
    """Take a folder out of every reader's sight first, then delete it; of a link only the link."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.name.startswith("."):
        shutil.rmtree(path)
    elif path.exists():
        hidden = path.with_name(f".{path.name}.forgotten")
        if hidden.exists():
            shutil.rmtree(hidden)
        path.rename(hidden)
        shutil.rmtree(hidden)


def _table_folders(site_dir: Path) -> list[Path]:
    return [path for name in ("metadata_unilateral", "metadata") if (path := site_dir / name).is_dir()]


def _tables(site_dir: Path, asked: Asked) -> Iterator[Trace]:
    """Rows of the site's tables, of either layout, and of the import's report."""
    for folder in _table_folders(site_dir):
        for path in sorted(folder.iterdir()):
            if path.suffix == ".csv":
                yield from _rows(path, _change_for(site_dir, asked))
            elif path.name.endswith(".csv.unfinished") and _names(path, asked):
                yield Trace(what=KEPT, path=path, remove=partial(path.unlink, missing_ok=True))
    report = site_dir / "import-report.csv"
    if report.is_file():
        yield from _rows(report, partial(_without, column="exam", names=asked.names))


def _change_for(site_dir: Path, asked: Asked) -> Change:
    """What becomes of a row of a site's table."""
    keys, sides = [folded(key) for key in UKA_KEYS], {side: folded(c) for side, c in UKA_SIDES.items()}
    other = {"left": "right", "right": "left"}

    def change(row: Row) -> Row | None:
        if not all(key in row for key in keys):
            return _without(row, column="uid", names=asked.names)
        if row[keys[0]] + row[keys[1]].zfill(2) != asked.exam:
            return row
        side = asked.name.rpartition("_")[2]
        if asked.name == asked.exam or not _has_volumes(site_dir, f"{asked.exam}_{other[side]}"):
            return None
        return row | {sides[side]: ""} if sides[side] in row else row

    return change


def _has_volumes(site_dir: Path, uid: str) -> bool:
    return (site_dir / "data_unilateral" / uid).is_dir()


def _without(row: Row, *, column: str, names: Sequence[str]) -> Row | None:
    return None if row.get(column, "") in names else row


def _rows(path: Path, change: Change) -> Iterator[Trace]:
    content, number = change_rows(path, change)
    if number:
        yield Trace(what=ROWS, path=path, number=number, remove=partial(_rewrite, path, content))


def _rewrite(path: Path, content: bytes) -> None:
    """Give a file another content as a whole, also behind a link; its mode stays."""
    target = path.resolve()
    mode = target.stat().st_mode & 0o777
    write_atomic(target, content, mode=mode)
    target.chmod(mode)


def _token_files(files: Sequence[Path], asked: Asked) -> Iterator[Trace]:
    """Whole stores of slice tokens: their key hashes all their exams, so a part would not be used again."""
    for base in dict.fromkeys(path.with_name(path.name.split(".")[0]) for path in files):
        if store_holds(base, asked.uids):
            yield Trace(what=TOKENS, path=base.with_suffix(".f16"), remove=partial(remove_store, base))


def _kept(files: Sequence[Path], asked: Asked) -> Iterator[Trace]:
    """Files of private folders that are named after an exam, and the cache of a check that knows it."""
    for path in files:
        name = path.name.removeprefix(".")
        own = any(name == uid or name.startswith(f"{uid}.") for uid in asked.uids)
        if own or (path.name == CHECK_CACHE and _names(path, asked)):
            yield Trace(what=KEPT, path=path, remove=partial(path.unlink, missing_ok=True))


def _private_tables(files: Sequence[Path], asked: Asked) -> Iterator[Trace]:
    """Rows of predictions, and lines of a site's log."""
    for path in files:
        if path.name == "predictions.csv":
            yield from _rows(path, partial(_without, column="uid", names=asked.names))
        elif path.name in (SITE_LOG, f"{SITE_LOG}.1"):
            lines = path.read_text("utf-8", errors="surrogateescape").splitlines(keepends=True)
            kept = [line for line in lines if not asked.in_text(line)]
            if len(kept) < len(lines):
                content = "".join(kept).encode("utf-8", "surrogateescape")
                number = len(lines) - len(kept)
                yield Trace(what=LINES, path=path, number=number, remove=partial(_rewrite, path, content))


def _files(roots: Sequence[Path]) -> Iterator[Path]:
    """Every file below some folders, once; links to folders are not followed."""
    seen: set[Path] = set()
    for root in roots:
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                path = Path(folder) / name
                if path not in seen:
                    seen.add(path)
                    yield path


def _names(path: Path, asked: Asked) -> bool:
    """Whether a text file names the exam."""
    text = path.name.removesuffix(".unfinished").endswith(_TEXT)
    if not text or not path.is_file() or path.stat().st_size > _MOST_TEXT_BYTES:
        return False
    return asked.in_text(path.read_text("utf-8", errors="replace"))
