"""Every kind of file that ctcsd reads, in a small world of valid ones, and what reading each has to keep."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from ctcsd.config import METHODS_DIR, Config, load_config, method_config, save_config
from ctcsd.data.batches import CtcDataset, references
from ctcsd.data.check_corpus import check_corpus
from ctcsd.data.features import compute_features, load_cuts
from ctcsd.data.prepare import load_file
from ctcsd.data.shar import open_shards, write_shar
from ctcsd.decode import search
from ctcsd.decode.cost import Cost, read_cost
from ctcsd.decode.hypothesis import Candidate, Hypothesis, read_hypotheses, write_hypotheses, write_nbest
from ctcsd.decode.posterior_input import scaled_log_prior
from ctcsd.errors import UserError
from ctcsd.model import SharedEncoderCtc
from ctcsd.posteriors import PosteriorReader
from ctcsd.run_dir import RunDir
from ctcsd.score.oracle import oracle_figures
from ctcsd.score.paired import compare
from ctcsd.score.report import results_report
from ctcsd.score.run import score_run
from ctcsd.score.utterances import score_utterances
from ctcsd.stamp import changed, mark
from ctcsd.text.arpa import read_arpa
from ctcsd.text.lang import make_lang
from ctcsd.text.lexicon import read_lexicon, read_pronunciations, read_words
from ctcsd.text.reference import Reference
from ctcsd.text.tokenizer import TokenTable
from ctcsd.train.checkpoint import average_checkpoints, load_model, save_model
from ctcsd.train.infer import write_posteriors
from ctcsd.train.method import check
from ctcsd.train.resume import newest_whole

TEXTS = ["the cat sat on the mat", "a dog ran", "the dog sat", "cats and dogs ran on", "no mat no cat"]
WORDS = sorted({word for text in TEXTS for word in text.split()})


@dataclass(frozen=True)
class Kind:
    """A file, how it is read, and what counts as a sound result where that differs from the original's.

    read: the content, as a value that can be compared; raises UserError (or one of `refusals`) where it refuses.
    sound: None: the format carries checksums, so that nothing but the original's value may come out.
    packed: the damage is done to the text inside a .gz.
    mended: what is damaged is made again, and nothing is refused.
    """

    path: Path
    read: Callable[[], Any]
    sound: Callable[[Any], bool] | None = None
    packed: bool = False
    mended: bool = False
    refusals: tuple[type[Exception], ...] = (UserError,)

    @property
    def text(self) -> bool:
        return self.packed or self.path.suffix in (".txt", ".arpa", ".yaml", ".jsonl", ".json", ".done")

    def content(self) -> bytes:
        return gzip.decompress(self.path.read_bytes()) if self.packed else self.path.read_bytes()

    def write(self, content: bytes) -> None:
        self.path.write_bytes(gzip.compress(content, 1) if self.packed else content)


def make_world(root: Path) -> Path:
    """A data dir, a lang dir, a run (its model untrained) with posteriors, hypotheses and markers, and audio files."""
    (root / "audio").mkdir(parents=True)
    (root / "data" / "manifests").mkdir(parents=True)
    noise = np.random.default_rng(1)
    cuts = []
    for i, text in enumerate(TEXTS):
        samples = (0.1 * noise.normal(size=12000 + 1000 * i)).astype(np.float32)
        path = root / "audio" / f"u{i}.flac"
        soundfile.write(path, samples, 16000)
        recording = Recording.from_file(path)
        speech = SupervisionSegment(f"u{i}", f"u{i}", 0.0, recording.duration, text=text, speaker="s")
        cuts.append(MonoCut(f"u{i}", 0.0, recording.duration, 0, supervisions=[speech], recording=recording))
    for name, subtype in (("a.wav", "PCM_16"), ("a.flac", "PCM_16"), ("a.ogg", "VORBIS")):
        soundfile.write(root / name, samples, 16000, subtype=subtype)
    for split in ("train", "dev", "test"):
        CutSet.from_cuts(cuts).to_file(root / "data" / "manifests" / f"cuts_{split}.jsonl.gz")
        compute_features(root / "data", Config(), split, jobs=1)
    write_shar(root / "data", Config(), root / "shards", shard_size=3)
    (root / "dictionary").write_text(";;; phones\n" + "".join(f"{w.upper()}  {' '.join(w.upper())}0\n" for w in WORDS))
    lang, run = root / "lang", RunDir(root / "exp" / "ctc" / "seed1")
    table = make_lang(TEXTS, lang, "char", 0)
    cfg = method_config(
        "ctc", overrides=["model.layers=1", "student_layers=1", "model.dim=16", "model.subsampling_channels=4"]
    )
    cfg.model.vocab_size, cfg.decode.methods = len(table), ["greedy"]
    torch.manual_seed(1)
    model = SharedEncoderCtc(cfg.model).eval()
    run.path.mkdir(parents=True)
    save_config(cfg, run.path / "config.yaml")
    save_model(model, run.path, table.fingerprint)
    record = {"corpus": "x", "method": "ctc", "seed": 1, "parameters": {"student": 1}, "seconds": 1.0}
    (run.path / "train.json").write_text(json.dumps({**record, "peak_memory_mib": 1, "revision": "r"}) + "\n")
    (run.path / "checkpoints").mkdir()
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, run.path / "checkpoints" / "last.ckpt")
    for split in ("dev", "test"):
        cuts_of_split = load_cuts(root / "data" / "fbank80" / f"cuts_{split}.jsonl.gz", stage=1)
        write_posteriors(model, cuts_of_split, {"student": run.archive(split, "student")}, table)
        hypotheses = [Hypothesis(f"u{i}", text, -1.5 * i, [3, 4], [0, i]) for i, text in enumerate(TEXTS)]
        write_hypotheses(run.hypotheses("greedy", split, "student"), hypotheses)
        mark(run.hypotheses_marker("greedy", split, "student"), {"prior_scale": 0.0, "file x": "missing"})
        lists = [dataclasses.replace(h, nbest=[Candidate(h.text, -1.0, -2.0, -2.0)] * 2) for h in hypotheses]
        list(write_nbest(run.nbest("greedy", split, "student"), lists))
        run.search_cost("greedy", split, "student").write_text(json.dumps(Cost().figures(10.0)) + "\n")
    score_run(run, {split: spoken(root, split) for split in ("dev", "test")}, ["greedy"], ["student"])
    list(search(PosteriorReader(run.archive("test", "student")), lang, "wfst", graph="HL"))
    np.save(root / "prior.npy", np.full(len(table), 1 / len(table), dtype=np.float32))
    (root / "method.yaml").write_bytes((METHODS_DIR / "kd_symmetric.yaml").read_bytes())
    return root


def spoken(root: Path, split: str) -> dict[str, Reference]:
    """cut id -> reference of a split of the world."""
    return references(root / "data" / "fbank80" / f"cuts_{split}.jsonl.gz")


def kinds(root: Path) -> dict[str, Kind]:
    """The kinds by name; `root` is what `make_world` made."""
    data, lang, run = root / "data", root / "lang", RunDir(root / "exp" / "ctc" / "seed1")
    cuts, archive = data / "fbank80" / "cuts_test.jsonl.gz", run.archive("test", "student")
    hypotheses = run.hypotheses("greedy", "test", "student")
    marker = run.hypotheses_marker("greedy", "test", "student")
    array = sorted(archive.glob("arrays/*/*.npy"))[0]
    (graph,) = (lang / "graphs").glob("HL-*.fst")

    def cut_set() -> Any:
        return [cut.to_dict() for cut in load_cuts(cuts, 1)], references(cuts)

    def checked() -> Any:
        findings = check_corpus([cuts])
        if findings.stops:
            raise UserError(f"{cuts}: {findings.found[0]}".replace("\n", " "))
        return findings.found

    def batch(read: Callable[[], CutSet] = lambda: load_cuts(cuts, 1)) -> Any:
        found = CtcDataset(lambda text: [1, 2])[read()]
        return found.features.numpy(), found.lengths.tolist(), found.texts, found.cut_ids

    def sharded() -> Any:
        shards = open_shards(root / "shards", "fbank80/cuts_train.jsonl.gz")
        return batch(lambda: CutSet.from_cuts([cut for shard in shards for cut in shard.read()]))

    def posteriors() -> Any:
        return dict(PosteriorReader(archive, lang))

    def found_on_graph() -> Any:
        return [dataclasses.asdict(h) for h in search(PosteriorReader(archive, lang), lang, "wfst", graph="HL")]

    def checkpoint() -> Any:
        found = newest_whole(run.path / "checkpoints")
        if found is None:
            (run.path / "checkpoints" / "last.ckpt.damaged").unlink()
            raise UserError("last.ckpt: refused and moved aside")
        return {name: value.numpy() for name, value in average_checkpoints([found]).items()}

    def model() -> Any:
        loaded, cfg = load_model(run.path, TokenTable.load(lang).fingerprint)
        return {name: value.numpy() for name, value in loaded.state_dict().items()}, dataclasses.asdict(cfg.model)

    def config() -> Any:
        return model(), dataclasses.asdict(load_config([run.path / "config.yaml"]))

    original, samples = model(), load_file(root / "a.flac")[0]

    def method() -> Any:
        cfg = method_config(str(root / "method.yaml"))
        check(cfg)
        return dataclasses.asdict(cfg)

    scored = score_utterances(hypotheses, spoken(root, "test"), str)
    nbest, errors = run.nbest("greedy", "test", "student"), run.utterances("greedy", "test", "student")
    cost = run.search_cost("greedy", "test", "student")

    needs = json.loads(marker.read_text())

    def stamp() -> Any:
        reason = changed(marker, needs)
        if reason is not None:
            raise UserError(f"{marker.name}: {reason}")
        return None

    def sound_arpa(found: Any) -> bool:
        probabilities, backoffs = found
        return all(p <= 0 for p in probabilities.values()) and all(map(math.isfinite, backoffs.values()))

    def sound_hypotheses(found: list[Hypothesis]) -> bool:
        ids = [h.cut_id for h in found]
        return len(set(ids)) == len(ids) and all(
            isinstance(h.text, str) and len(h.tokens) == len(h.frames) for h in found
        )

    return {
        "cuts": Kind(cuts, cut_set),
        "cuts, repacked": Kind(cuts, batch, lambda b: b[0].ndim == 3 and len(b[2]) == len(set(b[3])), packed=True),
        "features": Kind(data / "fbank80" / "test" / "feats.lca", batch),
        "shard": Kind(root / "shards" / "features.000000.tar", sharded),
        "manifest of a shard": Kind(root / "shards" / "cuts.000000.jsonl.gz", sharded),
        "index of shards": Kind(root / "shards" / "index.json", sharded),
        "wav": Kind(root / "a.wav", lambda: load_file(root / "a.wav"), _sound_audio, refusals=(Exception,)),
        "flac": Kind(  # the sampling rate in its header is in no checksum
            root / "a.flac",
            lambda: load_file(root / "a.flac"),
            lambda found: same(found[0], samples) and found[1] > 0,
            refusals=(Exception,),
        ),
        "ogg": Kind(root / "a.ogg", lambda: load_file(root / "a.ogg"), _sound_audio, refusals=(Exception,)),
        "tokens.txt": Kind(lang / "tokens.txt", lambda: TokenTable.load(lang).symbols, _unique_words),
        "tokens.txt of an archive": Kind(archive / "tokens.txt", posteriors),
        "words.txt": Kind(lang / "words.txt", lambda: read_words(lang / "words.txt"), _unique_words),
        "lexicon.txt": Kind(
            lang / "lexicon.txt",
            lambda: read_lexicon(lang / "lexicon.txt", TokenTable.load(lang).ids),
            lambda found: all(map(_unique_words, (found, TokenTable.load(lang).ids))),
        ),
        "dictionary": Kind(
            root / "dictionary",
            lambda: read_pronunciations(root / "dictionary", False),
            lambda found: all(
                phone for variants in found.values() for phones in variants for phone in (phones or [""])
            ),
        ),
        "lm.arpa": Kind(
            lang / "lm.arpa",
            lambda: (lambda arpa: (arpa.probabilities, arpa.backoffs))(read_arpa(lang / "lm.arpa")),
            sound_arpa,
        ),
        "posteriors": Kind(array, posteriors),
        "posteriors' manifest": Kind(archive / "manifest.jsonl.gz", posteriors),
        "posteriors' manifest, repacked": Kind(
            archive / "manifest.jsonl.gz", posteriors, lambda found: all(map(_normal, found.values())), packed=True
        ),
        "prior": Kind(
            root / "prior.npy",
            lambda: scaled_log_prior(root / "prior.npy", 1.0, len(TokenTable.load(lang))),
            lambda found: abs(float(np.exp(found).sum()) - 1) < 2e-3,
        ),
        "graph": Kind(graph, found_on_graph, mended=True),
        "checksum of a graph": Kind(graph.with_name(f"{graph.name}.sha256"), found_on_graph, mended=True),
        "checkpoint": Kind(run.path / "checkpoints" / "last.ckpt", checkpoint),
        "model": Kind(run.path / "model.safetensors", model),
        "config.yaml": Kind(run.path / "config.yaml", config, lambda found: same(found[0], original)),
        "method": Kind(root / "method.yaml", method, lambda cfg: bool(cfg["model"]["exits"])),
        "marker": Kind(marker, stamp),
        "train.json": Kind(run.path / "train.json", lambda: run.train_record(["student"]), _sound_record),
        "hypotheses": Kind(hypotheses, lambda: list(read_hypotheses(hypotheses)), sound_hypotheses),
        "n-best lists": Kind(nbest, lambda: oracle_figures(nbest, scored, str), lambda found: found["oracle_wer"] >= 0),
        "cost": Kind(cost, lambda: read_cost(cost), _finite),
        "results": Kind(run.results, lambda: results_report(root / "exp"), lambda found: "| method" in found[0]),
        "utterances": Kind(errors, lambda: _paired(errors), lambda found: all(math.isfinite(x) for x in found)),
        "checked manifest": Kind(cuts, checked, lambda found: True, packed=True),
    }


def same(a: Any, b: Any) -> bool:
    """Equality that looks into arrays."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def _sound_audio(found: tuple[np.ndarray, int]) -> bool:
    return found[0].ndim == 2 and found[1] > 0


def _sound_record(found: dict[str, Any]) -> bool:
    return isinstance(found["seconds"] + found["seed"] + found["parameters"]["student"], (int, float))


def _finite(found: dict[str, Any]) -> bool:
    return all(math.isfinite(value) for value in found.values())


def _paired(path: Path) -> list[float]:
    return [value.difference for value in compare([path], [path]).values()]


def _unique_words(symbols: Iterable[str]) -> bool:
    ordered = list(symbols)
    return len(set(ordered)) == len(ordered) and all(symbol.split() == [symbol] for symbol in ordered)


def _normal(log_probs: np.ndarray) -> bool:
    return bool(np.allclose(np.exp(log_probs.astype(np.float64)).sum(1), 1, atol=1e-3))
