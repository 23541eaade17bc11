"""A corpus for speakers that were never heard: all but one train, and that one is tested."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from lhotse.cut import Cut

from ctcsd.data.batches import transcript
from ctcsd.data.features import load_cuts
from ctcsd.data.manifests import write_split
from ctcsd.data.splits import SPLITS
from ctcsd.errors import UserError
from ctcsd.files import writing

SHOWN = 10  # speakers that a message names


def hold_out_speaker(data_dir: Path, speaker: str, out: Path) -> dict[str, int]:
    """Make a data folder whose train and dev lack a speaker, and whose test holds all that only this speaker says.

    It is a prepared corpus (stage 0) of its own, so that features, lexicon and language model are too; its audio is
    that of `data_dir`. What the speaker says in the words of an utterance that is left in train or dev is in no split.

    Returns:
        how many cuts each split has, and how many the speaker's are in no split ("left out").

    Raises:
        UserError: no such speaker, nothing left of a split, or the folder has manifests.
    """
    if (out / "manifests").exists():
        raise UserError(f"{out} has manifests already: give a new folder")
    cuts = {split: load_cuts(data_dir / "manifests" / f"cuts_{split}.jsonl.gz", stage=0) for split in SPLITS}
    own = [cut for split in SPLITS for cut in cuts[split] if _is_of(cut, speaker)]
    if not own:
        counts = Counter(s.speaker for split in cuts.values() for cut in split for s in cut.supervisions if s.speaker)
        names = ", ".join(name for name, _ in counts.most_common(SHOWN)) or "none is named"
        raise UserError(f"no utterance of speaker '{speaker}' in {data_dir}; speakers: {names}")
    kept = {split: [cut for cut in cuts[split] if not _is_of(cut, speaker)] for split in ("train", "dev")}
    texts = {transcript(cut) for split in kept.values() for cut in split}
    kept["test"] = [cut for cut in own if transcript(cut) not in texts]
    for split, left in kept.items():
        if not left:
            raise UserError(
                f"without speaker '{speaker}' in train and dev, and with no other in test, {split} is empty"
            )
    partial = out / ".partial.manifests"
    with writing(out):
        partial.mkdir(parents=True, exist_ok=True)
        for split, left in kept.items():
            write_split(partial, split, left)
        partial.rename(out / "manifests")
    sizes = {**{split: len(left) for split, left in kept.items()}, "left out": len(own) - len(kept["test"])}
    print(f"{out}: {', '.join(f'{name} {count}' for name, count in sizes.items())}")
    print(f"to go on: ./run.sh --recipe RECIPE --data {out} --exp ANOTHER --stage 1 data.speaker=null")
    return sizes


def _is_of(cut: Cut, speaker: str) -> bool:
    return any(s.speaker == speaker for s in cut.supervisions)
