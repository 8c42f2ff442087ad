"""What the three command line tools have in common: arguments, one-line errors, exit codes."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from configs.errors import SettingsError, UsageError, UserError

DONE, FAILED, WRONG_USAGE = 0, 1, 2
"""Exit codes: done; the work failed or a check found faults; wrong usage or settings."""

INTERRUPTED = 130
_DISK_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
_PATH_ERRORS = (errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
"""A user's mistake where they name a path; without one they are ours."""

Command = Callable[[argparse.Namespace], int]
"""The work of one verb: from its parsed arguments to an exit code."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print who and what was wrong on standard error, and exit with 2."""
        self.exit(WRONG_USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


class Tool:
    """One command line tool and its verbs."""

    def __init__(self, program: str, does: str) -> None:
        self._program = program
        self._parser = Parser(prog=program, description=does, allow_abbrev=False)
        self._verbs = self._parser.add_subparsers(required=True, metavar="VERB", title="verbs")

    def verb(self, name: str, command: Command, *, does: str, settings: bool = False) -> Parser:
        """Add one verb and return its parser, for its arguments.

        Args:
            name: the verb.
            command: its work; imports of more than the standard library belong inside it.
            does: what it does, in one line.
            settings: whether it takes `key=value` overrides, given to it as `arguments.overrides`.
        """
        note = "Arguments key=value override single settings, such as training.batch_size=8."
        parser = self._verbs.add_parser(
            name, help=does, description=does, epilog=note if settings else None, allow_abbrev=False
        )
        parser.set_defaults(command=command, takes_settings=settings, parser=parser)
        return parser

    def run(self, arguments: Sequence[str] | None = None) -> int:
        """Parse, do the work, and turn a user's mistake into one line on standard error.

        Args:
            arguments: None takes those of this process.

        Returns:
            0 done; 1 the work failed; 2 wrong usage or settings; 130 interrupted by the user.
        """
        # threads that wait by spinning stall for minutes when another program wants the same cores;
        # read when torch is first imported, which no command has done yet
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        parsed, rest = self._parser.parse_known_args(arguments)
        overrides = [text for text in rest if "=" in text and not text.startswith("-")]
        strange = [text for text in rest if text not in overrides] if parsed.takes_settings else rest
        if strange:
            parsed.parser.error(f"unknown argument {strange[0]!r}")
        parsed.overrides = overrides
        try:
            return parsed.command(parsed)
        except (SettingsError, UsageError) as error:
            return self._say(str(error), WRONG_USAGE)
        except UserError as error:
            return self._say(str(error), FAILED)
        except KeyboardInterrupt:
            return self._say("interrupted", INTERRUPTED)
        except BrokenPipeError:  # the reader of our output has gone, as `head` does: nobody to tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except OSError as error:
            if error.errno not in _DISK_ERRORS and not (error.errno in _PATH_ERRORS and error.filename):
                raise
            return self._say(f"{error.filename or 'disk'}: {error.strerror}", FAILED)

    def _say(self, message: str, code: int) -> int:
        print(f"{self._program}: {' '.join(message.split())}", file=sys.stderr)
        return code


def existing_folder(path: Path, what: str) -> Path:
    """The path, if it is a folder.

    Raises:
        UsageError: naming what the folder is for.
    """
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise UsageError(f"{what} must be a folder, got {path}, where there is {found}")
    return path


def existing_file(path: Path, what: str) -> Path:
    """The path, if it is a file or a pipe.

    Raises:
        UsageError: naming what the file is for.
    """
    if path.is_dir() or not path.exists():
        found = "a folder" if path.is_dir() else "nothing"
        raise UsageError(f"{what} must be a file, got {path}, where there is {found}")
    return path


def new_folder(path: Path, what: str) -> Path:
    """The path, if nothing is there yet or an empty folder.

    Raises:
        UsageError: if something would be overwritten.
    """
    if path.is_dir() and not any(path.iterdir()):
        return path
    if path.exists() or path.is_symlink():
        raise UsageError(f"{what} must be a new folder, got {path}, which is there already")
    return path


def whole_number(least: int) -> Callable[[str], int]:
    """An argument's type: a whole number of at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a whole number >= {least}, got {text!r}")
        return value

    return parse
