"""The first exchange: who is there, and whether all hold the same program, frozen encoders and settings."""

from __future__ import annotations

import time

from flwr.serverapp import Grid

from climb_model.runs import RunError
from server.admission import Admission, Terms, admit
from server.greeting import Greeting, called, question, read_greeting, who
from strategies.checks import Rejected
from strategies.post import ask, connected


def first_exchange(
    grid: Grid, terms: Terms, *, num_sites: int, max_exams: int, wait_s: float, timeout_s: float
) -> Admission:
    """Ask every connected node who it is and admit those that fit.

    Args:
        num_sites: nodes to wait for.
        max_exams: most training exams a site may claim.
        wait_s: seconds to wait for the nodes; then those that are there are asked.
        timeout_s: seconds that they have to answer, which includes computing their slice tokens.
    """
    nodes = _connected(grid, num_sites, wait_s)
    greetings: list[Greeting] = []
    rejected: list[Rejected] = []
    answered: set[int] = set()
    for answer in ask(grid, [question(node) for node in nodes], seconds=timeout_s, enough=num_sites):
        names = terms.names()
        if answer.reply is None:
            what = answer.fault or f"did not answer within {timeout_s:g} s"
            rejected.append(Rejected(called(answer.node, names), f"{who(answer.node, names)} {what}"))
            continue
        answered.add(answer.node)
        read = read_greeting(
            answer.reply,
            node=answer.node,
            names=names,
            received=time.time(),
            version=terms.version,
            max_exams=max_exams,
        )
        if isinstance(read, Greeting):
            greetings.append(read)
        else:
            rejected.append(read)
    return admit(greetings, rejected, terms, answered=answered)


def _connected(grid: Grid, num_sites: int, wait_s: float) -> list[int]:
    end = time.monotonic() + wait_s
    while len(nodes := sorted(connected(grid))) < num_sites and time.monotonic() < end:
        time.sleep(0.2)
    if not nodes:
        raise RunError(f"no site connected within {wait_s:g} s, {num_sites} expected")
    return nodes
