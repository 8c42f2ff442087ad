"""How little may be behind an update before it tells of single exams: the one place of these numbers."""

from __future__ import annotations

MIN_EXAMS = 32
"""Different exams. From a plain update the slice embeddings of 1-2 exams come back with cosine 1.00, of 8
with 0.85, of 32 with 0.52."""

MIN_TOKENS = 384
"""Report tokens of these exams, each exam counted once: from the gradient of a batch with fewer, every token
and its position comes back."""

MIN_STEPS = 2
"""Optimizer steps. The update of one step is a plain gradient, the easiest to read; more steps alone protect
nobody: after 5, 96 % of the tokens of 1-3 reports still came back. That is what the other two are for."""
