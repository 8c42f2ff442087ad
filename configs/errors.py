"""What a user got wrong, in one line."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in data, settings or usage that its reader can repair.

    Its message is one line: who, what was wanted, what came. The command line tools print it
    without a traceback; every other exception is a fault of this program.
    """


class SettingsError(UserError):
    """Settings that are unknown, of a wrong type or impossible."""


class UsageError(UserError):
    """A command that cannot be meant: a missing folder, an output that would be overwritten."""
