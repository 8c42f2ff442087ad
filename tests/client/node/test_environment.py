"""What Flower finds around it at a site, before it is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from climb_model.environment import CHUNK_BYTES

ASKED = """
import sys
import client.node.cli as cli
import client.node.settings as settings
settings.read_node = lambda folder: None
assert not [name for name in sys.modules if name.partition(".")[0] == "flwr"], "too late"
from configs.cli import Tool
tool = Tool("t", "t")
cli.add_node(tool)
import client.node.environment as environment
told = environment.set_environment
def told_then_ends(home):
    told(home)
    import os
    from flwr.app.message.array import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE as chunk
    from flwr.supercore.inflatable.inflatable_utils import FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PUSHES as pushes
    print(chunk, pushes, os.environ["FLWR_HOME"])
    raise SystemExit(0)
environment.set_environment = told_then_ends
tool.run(["start", "--node", sys.argv[1]])
"""


def test_start_sets_the_size_of_pieces_before_flower_reads_it(tmp_path: Path, checkout: Path) -> None:
    """Flower reads both when it is imported: in the gate, which cuts the reply, and in the SuperNode."""
    done = subprocess.run(
        [sys.executable, "-c", ASKED, str(tmp_path)],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(CHUNK_BYTES), "1", str(tmp_path / "state" / "flower")]
