"""The last thing before a message leaves: the site's policy, and a line in its audit log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flwr.app import RecordDict

from client.egress.policy import Policy


class Egress:
    """What leaves a site goes through here.

    Guarantees:
        - What the policy does not name does not leave: a refusal in one line without content does.
        - The entry of the audit log is on disk before the reply is given back.
        - If it cannot be written, nothing is given back at all.
    """

    def __init__(self, private: Path, policy: Policy | Path, site: str) -> None:
        """
        Args:
            private: folder of the audit log.
            policy: a policy, or its file, which is then read anew for each message; while it is missing
                or faulty everything is refused.
            site: this site's name.
        """
        self._private, self._policy, self._site = private, policy, site

    def check(
        self,
        kind: str,
        study: str,
        run_id: int,
        round: int,
        content: RecordDict,
        behind: Mapping[str, int] | None,
        preset: str,
        coordinator: str,
        agreed: Mapping[str, tuple[int, ...]] | None = None,
    ) -> RecordDict:
        """What leaves in the place of a reply: itself, unchanged, or a refusal without content.

        Args:
            kind: `query.hello` or `train`.
            round: from 1; 0 for the first exchange.
            behind: `num-exams`, `num-tokens` and `num-steps` of an update.
            coordinator: SHA-256 of its authority's certificate.
            agreed: name to shape of each tensor that came with the request (`agreed_shapes`); without it,
                tensors whose shape the policy leaves to the agreement stay.

        Raises:
            AuditError: if the audit log was changed or cannot be written. Then nothing may leave.
            LockedError: if another process keeps writing to it.
        """
        raise NotImplementedError


def agreed_shapes(request: RecordDict) -> dict[str, tuple[int, ...]]:
    """Name to shape of each tensor of a request."""
    return {
        name: tuple(array.shape)
        for record in request.array_records.values()
        for name, array in record.items()
    }
