"""lhotse manifests of a prepared corpus: recordings, supervisions and validated cuts per split."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from lhotse import AudioSource, CutSet, MonoCut, Recording, SupervisionSegment, validate
from lhotse.cut import Cut

from ctcsd.data.checks import SAMPLING_RATE, Kept
from ctcsd.data.splits import in_order, mini_ids


def write_manifests(folder: Path, kept: Sequence[Kept], audio_dir: Path, language: str) -> None:
    """Write all manifests into the new `folder`; recordings point at `audio_dir`, which need not hold the files yet."""
    folder.mkdir()
    cuts = {one.name: _cut(one, audio_dir, language) for one in kept}
    write_jsonl(folder / "recordings.jsonl.gz", (cut.recording.to_dict() for cut in cuts.values()))
    write_jsonl(folder / "supervisions.jsonl.gz", (cut.supervisions[0].to_dict() for cut in cuts.values()))
    for split in in_order(one.split for one in kept):
        write_split(folder, split, [cuts[one.name] for one in kept if one.split == split])


def write_split(folder: Path, split: str, cuts: Sequence[Cut]) -> None:
    """Write the cut set of a split, and a small one for trying things out, `mini_SPLIT`."""
    mini = mini_ids(cut.id for cut in cuts)
    for label, chosen in ((split, cuts), (f"mini_{split}", [cut for cut in cuts if cut.id in mini])):
        validate(CutSet.from_cuts(chosen))
        write_jsonl(folder / f"cuts_{label}.jsonl.gz", (cut.to_dict() for cut in chosen))


def _cut(one: Kept, audio_dir: Path, language: str) -> MonoCut:
    recording = Recording(
        id=one.name,
        sources=[AudioSource(type="file", channels=[0], source=str(one.source or audio_dir / f"{one.name}.flac"))],
        sampling_rate=SAMPLING_RATE,
        num_samples=one.num_samples,
        duration=one.seconds,
    )
    supervision = SupervisionSegment(
        id=one.name,
        recording_id=one.name,
        start=0.0,
        duration=one.seconds,
        channel=0,
        text=one.text,
        language=language,
        speaker=one.speaker,
        custom={"text_raw": one.text_raw, "sound": one.sound},  # other sound: other features, however it is called
    )
    return MonoCut(
        id=one.name, start=0.0, duration=one.seconds, channel=0, supervisions=[supervision], recording=recording
    )


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Gzip without a time stamp, so that the same corpus gives the same bytes."""
    with open(path, "wb") as file, gzip.GzipFile("", "wb", mtime=0, fileobj=file) as packed:
        for row in rows:
            packed.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
