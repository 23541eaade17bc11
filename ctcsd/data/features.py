"""Stage 1: log-mel filterbank features, stored by lhotse."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from lhotse import CutSet, Fbank, FbankConfig, LilcomChunkyWriter

from ctcsd.config import LangConfig
from ctcsd.errors import UserError
from ctcsd.stamp import depends, mark, up_to_date
from ctcsd.text.lang import make_lang

SAMPLE_RATE = 16000


def load_cuts(path: Path, stage: int) -> CutSet:
    """A cut set from its file, all in memory; raises UserError naming the stage that makes it."""
    if not path.is_file():
        raise UserError(f"no cut set at {path}: run stage {stage}")
    try:
        cuts = CutSet.from_file(path).to_eager()
    except Exception as error:  # whatever a damaged gzip, JSON line or manifest raises
        raise UserError(f"{path}: damaged ({type(error).__name__}): delete it and run stage {stage} again") from None
    if len(cuts) == 0:
        raise UserError(f"the cut set {path} is empty")
    return cuts


def cuts_file(data_dir: Path, num_mel_bins: int, split: str) -> Path:
    """Where the cut set of a split with features lies."""
    return data_dir / f"fbank{num_mel_bins}" / f"cuts_{split}.jsonl.gz"


def perturbed(split: str, speeds: Sequence[float]) -> str:
    """The name of a split together with its speed-perturbed copies, such as train_sp0.9-1.1."""
    return f"{split}_sp{'-'.join(f'{speed:g}' for speed in speeds)}" if speeds else split


def compute_features(
    data_dir: Path, split: str, num_mel_bins: int = 80, speeds: Sequence[float] = (), jobs: int = 2
) -> Path:
    """Fbank (25 ms windows every 10 ms, natural log) of one split; skipped where it is up to date.

    Reads `manifests/cuts_SPLIT.jsonl.gz`, writes `cuts_file(...)`, the latter last, so that a killed stage leaves
    nothing that looks whole.

    Args:
        speeds: factors of further, speed-perturbed copies (for training).

    Raises:
        UserError: no such split, an empty one, or audio at another rate than 16 kHz.
    """
    source = data_dir / "manifests" / f"cuts_{split}.jsonl.gz"
    target = cuts_file(data_dir, num_mel_bins, perturbed(split, speeds))
    marker = target.with_name(f"{target.name}.done")
    needs = depends({"num_mel_bins": num_mel_bins, "speeds": list(speeds)}, [source])
    if up_to_date(f"features of {perturbed(split, speeds)}", marker, needs) and target.is_file():
        return target
    cuts = load_cuts(source, stage=0)
    for cut in cuts:
        if cut.sampling_rate != SAMPLE_RATE:
            raise UserError(f"cut {cut.id} is at {cut.sampling_rate} Hz, not {SAMPLE_RATE}: run stage 0 again")
    copies = cuts
    for speed in speeds:
        copies = copies + cuts.perturb_speed(speed)
    storage = target.parent / perturbed(split, speeds)
    target.unlink(missing_ok=True)
    shutil.rmtree(storage, ignore_errors=True)
    storage.mkdir(parents=True)
    done = copies.to_eager().compute_and_store_features(
        extractor=Fbank(FbankConfig(sampling_rate=SAMPLE_RATE, num_mel_bins=num_mel_bins)),
        storage_path=storage / "feats",
        num_jobs=min(jobs, len(cuts)),
        storage_type=LilcomChunkyWriter,
    )
    partial = target.with_name(f"partial_{target.name}")
    done.to_file(partial)
    partial.rename(target)
    mark(marker, needs)
    return target


def lang_of_corpus(data_dir: Path, lang_dir: Path, cfg: LangConfig) -> None:
    """Stage 2: make the lang dir from a split's transcripts; skipped where it is up to date.

    Raises:
        UserError: as `make_lang`, or no such split.
    """
    source = data_dir / "manifests" / f"cuts_{cfg.text}.jsonl.gz"
    marker = lang_dir.with_name(f".{lang_dir.name}.done")
    needs = depends({"unit": cfg.unit, "vocab_size": cfg.vocab_size}, [source])
    if up_to_date(lang_dir.name, marker, needs) and (lang_dir / "tokens.txt").is_file():
        return
    texts = [s.text for cut in load_cuts(source, stage=0) for s in cut.supervisions if s.text]
    table = make_lang(texts, lang_dir, cfg.unit, cfg.vocab_size)
    mark(marker, needs)
    print(f"{lang_dir}: {len(table)} tokens ({cfg.unit})")
