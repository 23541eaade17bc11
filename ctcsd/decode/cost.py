"""What a search costs: processor time by the length of the audio, and memory."""

from __future__ import annotations

import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ctcsd.files import is_number, read_json

STATUS, PEAK_RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FIGURES = ("search_seconds", "rtf", "search_peak_mib")


def peak_mib() -> int:
    """Peak resident memory of this process; on Linux since `restart_peak`, and without that of the parent before it."""
    if not STATUS.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return int(STATUS.read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) >> 10


def restart_peak() -> None:
    """Let the peak be what is resident now; where the system cannot, nothing happens."""
    with suppress(OSError):
        PEAK_RESET.write_text("5", encoding="ascii")


def read_cost(path: Path) -> dict[str, Any]:
    """What `Cost.figures` gave, from its JSON file; what is missing there, or no number, stays out."""
    found = read_json(path) if path.is_file() else {}
    return {key: found[key] for key in FIGURES if is_number(found.get(key))}


class Cost:
    """Counts from its making, or its `start`, to `figures`; the peak memory is counted from its making."""

    def __init__(self) -> None:
        restart_peak()
        self.start()

    def start(self) -> None:
        """What came before, such as the making of graphs, is no search."""
        self._start = time.process_time()

    def figures(self, audio_seconds: float) -> dict[str, Any]:
        """Seconds of the processor, the real-time factor (these by those of the audio), and MiB."""
        seconds = time.process_time() - self._start
        return {
            "search_seconds": round(seconds, 3),
            "rtf": float(f"{seconds / max(audio_seconds, 1e-9):.3g}"),
            "search_peak_mib": peak_mib(),
        }
