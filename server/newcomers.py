"""Sites that connect after the study has begun: greeted between rounds, and no round waits for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flwr.app import Message
from flwr.serverapp import Grid

from server.admission import Admission, Terms, admit
from server.greeting import Greeting, question, read_greeting
from strategies.checks import Rejected
from strategies.post import connected, is_lost, push


class Newcomers:
    """Asks each new node once who it is and reads the answer before a later round.

    A node that was refused is asked again after it has been away: its admin may have changed something.
    """

    def __init__(self, grid: Grid, terms: Terms, max_exams: int, refused: Iterable[int]) -> None:
        """
        Args:
            max_exams: most training exams a site may claim.
            refused: nodes that the first exchange did not admit.
        """
        self._grid = grid
        self._terms = terms
        self._max_exams = max_exams
        self._refused = set(refused)
        self._asked: dict[int, str] = {}

    def look(self, admitted: Mapping[int, str]) -> Admission:
        """Read what has come since the last look, and ask whoever is new.

        Args:
            admitted: node to site of those that take part.
        """
        there = connected(self._grid)
        self._refused &= there
        greetings: list[Greeting] = []
        rejected: list[Rejected] = []
        replies = self._replies()
        for node, reply in replies:
            read = read_greeting(
                reply, node=node, received=None, version=self._terms.version, max_exams=self._max_exams
            )
            if isinstance(read, Greeting):
                greetings.append(read)
            else:
                rejected.append(read)
        answered = {node for node, _ in replies}
        admission = admit(greetings, rejected, self._terms, answered=answered, taken=admitted.values())
        self._refused |= admission.refused
        new = sorted(there - admitted.keys() - answered - self._refused - self._asked.keys())
        if new:
            self._asked |= zip(new, push(self._grid, [question(node) for node in new]), strict=True)
        return admission

    def _replies(self) -> list[tuple[int, Message]]:
        """Answers that have come. A node that was lost is forgotten, so that it is asked again."""
        found: list[tuple[int, Message]] = []
        for node, name in list(self._asked.items()):
            for reply in self._grid.pull_messages([name]):
                if reply.metadata.reply_to_message_id == name:
                    del self._asked[node]
                    if not is_lost(reply):
                        found.append((node, reply))
        return found
