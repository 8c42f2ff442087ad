"""What ends a training."""

from __future__ import annotations

from configs.errors import UserError


class TrainingError(UserError):
    """Training that cannot go on; the message names site and step, holds no data, and may travel."""
