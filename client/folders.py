"""What has a name of its own in a site's private folder."""

from __future__ import annotations

TOKENS = "tokens"
"""Folder of slice tokens."""

SCRATCH = "scratch"
"""Folder where the processes of one training exchange weights."""

SITE_LOG = "site.log"
LOCK = "lock"
"""Held by whoever works with the site's exams."""
