"""One line and an exit code for each mistake, whatever the tool."""

from __future__ import annotations

import argparse
import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.cli import Tool, existing_file, existing_folder, new_folder, whole_number
from configs.errors import SettingsError, UsageError, UserError


def tool(work: Callable[[argparse.Namespace], int], *, settings: bool = True) -> Callable[[list[str]], int]:
    built = Tool("climb-test", "A tool for tests.")
    parser = built.verb("do", work, does="does something", settings=settings)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--num", type=whole_number(2))
    return built.run


def fails_with(error: BaseException) -> Callable[[list[str]], int]:
    def work(_: argparse.Namespace) -> int:
        raise error

    return tool(work)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (SettingsError("override: seed is odd"), 2, "override: seed is odd"),
        (UsageError("--out is there"), 2, "--out is there"),
        (UserError("site 'A' has no exams"), 1, "site 'A' has no exams"),
        (UserError("two\nlines"), 1, "two lines"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), 1, "a/b: No space left on device"),
        (OSError(errno.ENOENT, "No such file or directory", "a/b"), 1, "a/b: No such file or directory"),
        (OSError(errno.EEXIST, "File exists", "a/b"), 1, "a/b: File exists"),
        (OSError(errno.ENOTDIR, "Not a directory", "a/b"), 1, "a/b: Not a directory"),
        (OSError(errno.EISDIR, "Is a directory", "a/b"), 1, "a/b: Is a directory"),
    ],
)
def test_a_user_s_mistake_is_one_line_on_standard_error(
    error: BaseException, code: int, line: str, command: Callable[..., tuple[int, str, str]]
) -> None:
    assert command(fails_with(error), "do") == (code, "", f"climb-test: {line}\n")


@pytest.mark.parametrize(
    "error",
    [
        *(ValueError("ours"), KeyError("ours"), OSError("ours"), OSError(errno.EBADF, "ours", "a/b")),
        FileNotFoundError(errno.ENOENT, "gone"),
    ],
)
def test_our_own_faults_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        fails_with(error)(["do"])


def test_overrides_may_stand_anywhere(command: Callable[..., tuple[int, str, str]]) -> None:
    seen: list[argparse.Namespace] = []

    def work(arguments: argparse.Namespace) -> int:
        seen.append(arguments)
        return 0

    code, _, err = command(tool(work), "do", "a.b=1", "--out", "x=y", "c=[2, 3]", "--num=4", "d=")
    assert (code, err) == (0, "")
    assert seen[0].overrides == ["a.b=1", "c=[2, 3]", "d="]
    assert (seen[0].out, seen[0].num) == (Path("x=y"), 4)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["do", "--ot", "x"], "climb-test do: unknown argument '--ot'"),
        (["do", "--ot=x"], "climb-test do: unknown argument '--ot=x'"),
        (["do", "word"], "climb-test do: unknown argument 'word'"),
        (["do", "--num", "1"], "climb-test do: argument --num: must be a whole number >= 2, got '1'"),
        (["do", "--num", "x"], "climb-test do: argument --num: must be a whole number >= 2, got 'x'"),
        (["do", "--out"], "climb-test do: argument --out: expected one argument"),
        ([], "climb-test: the following arguments are required: VERB"),
        (["undo"], "climb-test: argument VERB: invalid choice: 'undo'"),
    ],
)
def test_wrong_usage_is_one_line_and_2(
    arguments: list[str], line: str, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = command(tool(lambda _: 0), *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_overrides_are_refused_where_a_verb_takes_none(command: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = command(tool(lambda _: 0, settings=False), "do", "seed=1")
    assert code == 2
    assert err == "climb-test do: unknown argument 'seed=1' (see climb-test do --help)\n"


def test_a_new_folder_is_absent_or_empty(tmp_path: Path) -> None:
    assert new_folder(tmp_path / "absent", "--out") == tmp_path / "absent"
    (tmp_path / "empty").mkdir()
    assert new_folder(tmp_path / "empty", "--out") == tmp_path / "empty"
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for taken in (tmp_path, tmp_path / "file", tmp_path / "dangling"):
        with pytest.raises(UsageError, match=f"--out must be a new folder, got {taken}"):
            new_folder(taken, "--out")


def test_an_existing_folder_is_no_file_and_not_absent(tmp_path: Path) -> None:
    assert existing_folder(tmp_path, "--data") == tmp_path
    (tmp_path / "file").touch()
    for wrong, there in (("file", "a file"), ("absent", "nothing")):
        with pytest.raises(UsageError, match=f"--data must be a folder, got .*, where there is {there}"):
            existing_folder(tmp_path / wrong, "--data")


def test_an_existing_file_is_no_folder_and_not_absent(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert existing_file(tmp_path / "file", "KIT") == tmp_path / "file"
    assert existing_file(Path("/dev/null"), "KIT") == Path("/dev/null")  # as what a pipe of the shell's is
    for wrong, there in ((tmp_path, "a folder"), (tmp_path / "absent", "nothing")):
        with pytest.raises(UsageError, match=f"^KIT must be a file, got {wrong}, where there is {there}$"):
            existing_file(wrong, "KIT")


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    program = (
        "import sys; from configs.cli import Tool\n"
        "def speak(_):\n"
        "    for _ in range(1000): print('x' * 1000, flush=True)\n"
        "tool = Tool('t', 'words')\n"
        "tool.verb('speak', speak, does='speak')\n"
        "sys.exit(tool.run(['speak']))"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as speaker:
        assert speaker.stdout is not None
        assert speaker.stderr is not None
        speaker.stdout.readline()
        speaker.stdout.close()
        told = speaker.stderr.read()
        assert speaker.wait(timeout=60) == 1
    assert told == b""
