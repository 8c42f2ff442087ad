"""How little may be behind an update before it tells of single exams: the one place of these numbers."""

from __future__ import annotations

MIN_EXAMS = 32
"""Different exams. From a plain update the slice embeddings of 1-2 exams come back with cosine 1.00, of 8
with 0.85, of 32 with 0.52."""

MIN_TOKENS = 384
"""Report tokens of these exams, each exam counted once."""

MIN_BATCH_TOKENS = 384
"""Report tokens of every single step's batch, as they were drawn, each text once: from the gradient of a
batch with fewer, every token and its position comes back. The presets' batches of 32 exams with reports of
80 words hold 500 (one sentence drawn, `real`) to 2,300 (whole reports, `climb`); `debug`, with 4 exams, does
not reach it."""

MIN_STEPS = 2
"""Optimizer steps with a learning rate that counts. The update of one step is a plain gradient, the easiest
to read; more steps alone protect nobody: after 5, 96 % of the tokens of 1-3 reports still came back. That is
what the others are for."""
