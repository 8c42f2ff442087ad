"""Sites that connect after the study has begun: greeted between rounds, and no round waits for them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from flwr.serverapp import Grid

from server.admission import Admission, Terms, admit
from server.greeting import Greeting, called, question, read_greeting, who
from strategies.checks import Rejected
from strategies.post import Answer, Later, connected, is_remote


class Newcomers:
    """Asks each new node once who it is and reads the answer before a later round.

    A node that was refused is asked again after it has been away: its admin may have changed something.
    A site that was revoked and is admitted with a new key takes its name's place.
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
        self._questions = Later(grid)
        self._since: dict[int, float] = {}
        """When each node was asked, in seconds since 1970."""

    def look(self, admitted: Mapping[int, str]) -> Admission:
        """Read what has come since the last look, and ask whoever is new.

        Args:
            admitted: node to site of those that take part.
        """
        there = connected(self._grid)
        self._refused &= there
        greetings: list[Greeting] = []
        rejected: list[Rejected] = []
        answered: set[int] = set()
        names = self._terms.names()
        for answer in self._questions.answers():
            node = answer.node
            answered.add(node)
            if answer.reply is None:
                rejected.append(Rejected(called(node, names), f"{who(node, names)} {answer.fault}"))
                continue
            read = read_greeting(
                answer.reply,
                node=node,
                names=names,
                received=self._received(answer),
                version=self._terms.version,
                max_exams=self._max_exams,
            )
            if isinstance(read, Greeting):
                greetings.append(read)
            else:
                rejected.append(read)
        taken = {site for node, site in admitted.items() if names is None or names.get(node) == site}
        admission = admit(greetings, rejected, self._terms, answered=answered, taken=taken)
        self._refused |= admission.refused
        new = sorted(there - admitted.keys() - answered - self._refused - set(self._questions.awaited))
        if new:
            self._since |= dict.fromkeys(new, time.time())
            self._questions.send([question(node) for node in new])
        return admission

    def _received(self, answer: Answer) -> float | None:
        """When an answer came; simulated ones are looked for between rounds only."""
        if answer.wall_s is None or not is_remote(self._grid):
            return None
        return self._since[answer.node] + answer.wall_s
