"""The cache of graphs, in either interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ctcsd.decode.graphs import topology

# Builds H, and halfway through waits for a line.
BUILDER = """
import sys
from pathlib import Path
from ctcsd.decode.graphs import cached, topology

def build(path):
    with path.open("w") as out:
        for line in topology(5):
            print(line, file=out)
        print("building", flush=True)
        input()
        for line in topology(3):
            print(line, file=out)
    return "done"

cached(Path(sys.argv[1]), "H", ".txt", build)
"""


def test_two_processes_make_a_graph_once(lang_dir: Path) -> None:
    command = [sys.executable, "-c", BUILDER, str(lang_dir)]
    both = [
        subprocess.Popen(
            command,
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    first = sorted(process.stdout.readline() for process in both)
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert first == [f"another process prepares {lang_dir / 'graphs'}: waiting for it\n", "building\n"]
    assert sorted(out for out, _ in said) == ["", "H: done\n"]
    (path,) = (lang_dir / "graphs").glob("*.txt")
    assert path.read_text().splitlines() == [*topology(5), *topology(3)]
