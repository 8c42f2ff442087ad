"""Real processes, links that fail, and machines of their own: what the failure tests share."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # harness, relay and namespaces are no tests
