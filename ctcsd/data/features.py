"""Stage 1, log-mel filterbank features stored by lhotse, and stage 2 over the same manifests."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import logging
import shutil
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from lhotse import CutSet, Fbank, FbankConfig, LilcomChunkyWriter
from lhotse.cut import Cut

from ctcsd.config import PHONE_KEYS, Config, LangConfig
from ctcsd.data.checks import Drop
from ctcsd.data.integrity import check_cuts, read_wave, with_checksums
from ctcsd.data.report import write_drops
from ctcsd.errors import UserError
from ctcsd.files import replacing, writing
from ctcsd.stamp import depends, mark, up_to_date
from ctcsd.text.lang import LM_FILE, make_lang
from ctcsd.text.phones import PhoneOptions

SAMPLE_RATE = 16000


def fbank(num_mel_bins: int) -> Fbank:
    """The features of every model: log-mel filterbanks as Kaldi computes them, of 16 kHz audio."""
    return Fbank(FbankConfig(sampling_rate=SAMPLE_RATE, num_mel_bins=num_mel_bins))


def load_cuts(path: Path, stage: int, sample: int = 0) -> CutSet:
    """A cut set from its file, all in memory; raises UserError naming the stage that makes it.

    Args:
        sample: only so many cuts, those whose ids have the smallest hashes; no others are held in memory. 0: all.
    """
    if not path.is_file():
        raise UserError(f"no cut set at {path}: run stage {stage}")
    try:
        cuts = CutSet.from_file(path)
        cuts = CutSet.from_cuts(heapq.nsmallest(sample, iter(cuts), key=id_hash)) if sample else cuts.to_eager()
    except Exception as error:  # whatever a damaged gzip, JSON line or manifest raises
        raise UserError(f"{path}: damaged ({type(error).__name__}): delete it and run stage {stage} again") from None
    if len(cuts) == 0:
        raise UserError(f"the cut set {path} is empty")
    try:
        check_cuts(cuts)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return cuts


def id_hash(cut: Cut) -> bytes:
    """By which cuts stand in an order that has nothing to do with their content: the first ones are a sample."""
    return hashlib.sha1(cut.id.encode()).digest()


def cuts_file(data_dir: Path, cfg: Config, split: str) -> Path:
    """Where the cut set of a split with its features lies: of one speaker, and perturbed, where cfg says so."""
    name = split if cfg.data.speaker is None else f"{split}_{cfg.data.speaker}"
    if split == cfg.data.train and (speeds := copied_speeds(cfg)):
        name += f"_sp{'-'.join(f'{speed:g}' for speed in speeds)}"
    return data_dir / cfg.features.name / f"cuts_{name}.jsonl.gz"


def copied_speeds(cfg: Config) -> list[float]:
    """Of the copies of the training set: features.speeds but 1, which is the original, each once."""
    return list(dict.fromkeys(speed for speed in cfg.features.speeds if speed != 1.0))


def compute_features(data_dir: Path, cfg: Config, split: str, jobs: int = 2) -> Path:
    """Stage 1: fbank (25 ms windows every 10 ms, natural log) of one split; skipped where it is up to date.

    For features.type=wave nothing is computed: the cut set alone is written, and batches read its audio.

    Reads `manifests/cuts_SPLIT.jsonl.gz`, writes `cuts_file(...)`, the latter last, so that a killed stage leaves
    nothing that looks whole. The training split gets its speed-perturbed copies beside the original, and lacks what
    cannot be read (listed in `unreadable-SPLIT.tsv`), up to data.max_bad; other splits must not shrink.

    Raises:
        UserError: no such split, an empty one, audio that cannot be read, or at another rate than 16 kHz.
    """
    source = data_dir / "manifests" / f"cuts_{split}.jsonl.gz"
    target = cuts_file(data_dir, cfg, split)
    storage = target.with_name(target.name[len("cuts_") : -len(".jsonl.gz")])
    marker = target.with_name(f".{target.name}.done")
    speeds = copied_speeds(cfg) if split == cfg.data.train else []
    needs = depends({"bins": cfg.features.num_mel_bins, "speeds": speeds, "speaker": cfg.data.speaker}, [source])
    wave = cfg.features.type == "wave"
    stored = [] if wave else [next(storage.glob("feats*"), storage / "feats")]
    if up_to_date(f"features of {storage.name}", marker, needs, [target, *stored]):
        return target
    cuts = select_speaker(load_cuts(source, stage=0), cfg.data.speaker, split)
    for cut in cuts:
        if cut.sampling_rate != SAMPLE_RATE:
            raise UserError(f"cut {cut.id} is at {cut.sampling_rate} Hz, not {SAMPLE_RATE}: run stage 0 again")
    copies = cuts
    for speed in speeds:
        copies = copies + cuts.perturb_speed(speed)
    target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if wave:
        done = copies.to_eager()
    else:
        done, bad = _fbank(copies, storage, cfg.features.num_mel_bins, jobs)
        listing = target.with_name(f"unreadable-{storage.name}.tsv")
        _check_share(bad, len(copies), cfg.data.max_bad if split == cfg.data.train else None, listing)
        done = with_checksums(done)
    with replacing(target) as partial:
        done.to_file(partial)
    mark(marker, needs)
    print(f"features of {storage.name}: {len(done)} cuts, {sum(cut.duration for cut in done) / 3600:.2f} h", flush=True)
    return target


def _check_share(bad: list[tuple[str, Drop]], cuts: int, allowed: float | None, listing: Path) -> None:
    """List the cuts without features; raises UserError where they are more than the allowed share (None: none is)."""
    listing.unlink(missing_ok=True)
    if not bad:
        return
    write_drops(listing, bad)
    count = f"{len(bad)} of {cuts} cuts cannot be read (listed in {listing})"
    if allowed is None:
        raise UserError(f"{bad[0][1].detail}; {count}: run stage 0 again")
    if len(bad) > allowed * cuts:
        raise UserError(f"{bad[0][1].detail}; {count}, more than data.max_bad={allowed:g}: run stage 0 again")
    print(f"{count} and are left out; once mended, remove the list's folder and run stage 1 again", flush=True)


def _fbank(cuts: CutSet, storage: Path, num_mel_bins: int, jobs: int) -> tuple[CutSet, list[tuple[str, Drop]]]:
    """The cuts with their features, which are written into the folder `storage`; and why some have none."""
    shutil.rmtree(storage, ignore_errors=True)
    storage.mkdir(parents=True)
    torch.set_num_threads(1)  # the jobs are processes; lhotse warns that threads beside them may hang
    logging.disable(logging.WARNING)  # lhotse leaves out what it cannot read, with a page of warnings: see below
    try:
        with writing(storage):
            done = cuts.to_eager().compute_and_store_features(
                extractor=fbank(num_mel_bins),
                storage_path=storage.absolute() / "feats",
                num_jobs=min(jobs, len(cuts)),
                storage_type=LilcomChunkyWriter,
                progress_bar=sys.stderr.isatty(),
            )
    except BaseException as error:
        shutil.rmtree(storage, ignore_errors=True)
        if not isinstance(error, BrokenProcessPool):
            raise
        raise UserError(f"{storage}: a process that made features died (out of memory?): try --jobs 1") from None
    finally:
        logging.disable(logging.NOTSET)
    kept = set(done.ids)
    return done, [(cut.id, Drop("unreadable audio", _why(cut))) for cut in cuts if cut.id not in kept]


def _why(cut: Cut) -> str:
    try:
        read_wave(CutSet.from_cuts([cut]))
    except UserError as error:
        return str(error)
    return f"no features could be made of cut {cut.id}"


def select_speaker(cuts: CutSet, speaker: str | None, split: str) -> CutSet:
    """The cuts of one speaker (all when None); raises UserError where none is left."""
    if speaker is None:
        return cuts
    chosen = cuts.filter(lambda cut: any(s.speaker == speaker for s in cut.supervisions)).to_eager()
    if len(chosen) == 0:
        raise UserError(f"no cut of speaker '{speaker}' in split '{split}'")
    return chosen


def lang_of_corpus(data_dir: Path, lang_dir: Path, cfg: LangConfig) -> None:
    """Stage 2: make the lang dir from a split's transcripts; skipped where it is up to date.

    Raises:
        UserError: as `make_lang`, no such split, or no such file.
    """
    source = data_dir / "manifests" / f"cuts_{cfg.text}.jsonl.gz"
    marker = lang_dir.with_name(f".{lang_dir.name}.done")
    lm_text, lm_arpa, lexicon = (Path(name) if name else None for name in (cfg.lm_text, cfg.lm_arpa, cfg.lexicon))
    phones = PhoneOptions(lexicon, cfg.stress, cfg.word_end, cfg.missing) if cfg.unit == "phone" and lexicon else None
    named = {"lm_text": lm_text, "lm_arpa": lm_arpa} if cfg.lm_order else {}
    for key, path in {**named, "lexicon": lexicon if phones else None}.items():
        if path and not path.exists():
            raise UserError(f"lang.{key}={path}: no such file")
    ignored = {"text"} if phones else {"text", *PHONE_KEYS}
    options = {key: value for key, value in dataclasses.asdict(cfg).items() if key not in ignored}
    needs = depends(options, [source, *filter(None, (lm_text, lm_arpa, lexicon if phones else None))])
    outputs = ["tokens.txt", "words.txt", "lexicon.txt"] + ([LM_FILE] if cfg.lm_order else [])
    if up_to_date(lang_dir.name, marker, needs, [lang_dir / name for name in outputs]):
        return
    texts = [s.text for cut in load_cuts(source, stage=0) for s in cut.supervisions if s.text]
    table = make_lang(texts, lang_dir, cfg.unit, cfg.vocab_size, cfg.lm_order, lm_text, cfg.lm_prune, lm_arpa, phones)
    mark(marker, needs)
    print(f"{lang_dir}: {len(table)} tokens ({cfg.unit})")
