"""Real speech for the tests: short clips of fotaq, and corpora of other layouts made from them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from console import REPOSITORY

Clip = tuple[str, np.ndarray]  # the text, and int16 samples at 16 kHz


def fotaq_data() -> Path:
    """The prepared corpus (stage 0 of egs/fotaq, made where it is not there yet)."""
    data = REPOSITORY / "egs/fotaq/data"
    if not (data / "manifests/cuts_train.jsonl.gz").is_file():
        command = [REPOSITORY / "run.sh", "--stage", "0", "--stop-stage", "0", "--quick"]
        subprocess.run(command, check=True, cwd=REPOSITORY, timeout=900)
    return data


def clips(count: int, shortest: float = 0.8, longest: float = 1.6) -> list[Clip]:
    """Utterances of the training set of so many seconds, each text once."""
    import soundfile
    from lhotse import CutSet

    found: dict[str, Clip] = {}
    for cut in CutSet.from_file(fotaq_data() / "manifests/cuts_train.jsonl.gz"):
        text = cut.supervisions[0].text
        if shortest <= cut.duration <= longest and len(text) >= 8 and text not in found:
            found[text] = (text, soundfile.read(cut.recording.sources[0].source, dtype="int16")[0])
            if len(found) == count:
                break
    return list(found.values())
