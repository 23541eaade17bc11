"""Time every search on one archive of posteriors, beside what one would use instead, with the same language model.

    .venv/bin/python benchmarks/decode.py --run egs/fotaq/exp/default/skd/seed1 --peers

Each contestant decodes in a process of its own, and they take turns. Seconds are those of the processor, on one thread,
with the reading of the archive and without the loading of libraries, graphs and language models; their medians count.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from packages import installed

from ctcsd.decode.cost import peak_mib
from ctcsd.decode.search import search
from ctcsd.errors import UserError
from ctcsd.k2_env import find_k2_python
from ctcsd.posteriors import PosteriorReader
from ctcsd.run_dir import RunDir
from ctcsd.score.tables import markdown
from ctcsd.score.wer import wer
from ctcsd.text.tokenizer import BLANK_SYMBOL, SPACE

FEW = 100  # utterances, of the first measurement of memory
SHORT = 10  # frames of an utterance, while memory is measured: so thousands of them take minutes
LM_SCALE = 0.5
PEERS = ("pyctcdecode", "pygtrie", "kenlm", "flashlight-text")
Texts = Iterator[tuple[str, str]]  # cut id, text


class Repeated(PosteriorReader):
    """The first `count` utterances of an archive that is followed by itself again and again; `frames` of each."""

    def __init__(self, path: Path, count: int, frames: int | None = None) -> None:
        super().__init__(path)
        self.count, self.frames = count, frames

    def entries(self) -> Iterator[tuple[str, np.ndarray | UserError]]:
        again = itertools.chain.from_iterable(super(Repeated, self).entries() for _ in itertools.count())
        for cut_id, found in itertools.islice(again, self.count):
            yield cut_id, found if isinstance(found, UserError) else found[: self.frames]


def ours(method: str, **options: Any) -> Callable[[PosteriorReader, Path], Texts]:
    """A search of ctcsd."""

    def decode(reader: PosteriorReader, lang_dir: Path) -> Texts:
        return ((h.cut_id, h.text) for h in search(reader, lang_dir, method, **options))

    return decode


def torch_greedy(reader: PosteriorReader, lang_dir: Path) -> Texts:
    """As the GreedyCTCDecoder of torchaudio's tutorials."""
    import torch

    for cut_id, log_probs in reader:
        path = torch.unique_consecutive(torch.from_numpy(log_probs).argmax(-1))
        text = "".join(reader.table.symbols[i] for i in path if i != 0)
        yield cut_id, " ".join(text.replace(SPACE, " ").split())


def torchaudio_beam(lexicon: bool, beam: int) -> Callable[[PosteriorReader, Path], Texts]:
    """torchaudio's ctc_decoder as its documentation has it: flashlight's search, KenLM."""

    def decode(reader: PosteriorReader, lang_dir: Path) -> Texts:
        import torch
        from torchaudio.models.decoder import ctc_decoder

        words = {
            "lexicon": str(lang_dir / "lexicon.txt"),
            "lm": str(lang_dir / "lm.arpa"),
            "lm_weight": LM_SCALE * math.log(10),  # KenLM's logarithms have base 10
        }
        decoder = ctc_decoder(
            **(words if lexicon else {"lexicon": None}),
            tokens=reader.table.symbols,
            beam_size=beam,
            blank_token=BLANK_SYMBOL,
            sil_token=SPACE,
        )
        for cut_id, log_probs in reader:
            best = decoder(torch.from_numpy(log_probs)[None])[0][0]
            yield cut_id, " ".join(best.words) if lexicon else reader.table.text_of(best.tokens[best.tokens != 0])

    return decode


def pyctcdecode_beam(lm: bool, beam: int) -> Callable[[PosteriorReader, Path], Texts]:
    """pyctcdecode, with KenLM and the words of the language model."""

    def decode(reader: PosteriorReader, lang_dir: Path) -> Texts:
        from pyctcdecode import build_ctcdecoder

        labels = ["" if s == BLANK_SYMBOL else s.replace(SPACE, " ") for s in reader.table.symbols]
        model = str(lang_dir / "lm.arpa") if lm else None
        decoder = build_ctcdecoder(labels, model, alpha=LM_SCALE, beta=0.0)
        for cut_id, log_probs in reader:
            yield cut_id, decoder.decode(log_probs, beam_width=beam)

    return decode


# Group -> by whom -> how; one of ours comes first, and the others are measured against it.
CONTESTANTS: dict[str, dict[str, Callable[[PosteriorReader, Path], Texts]]] = {
    "greedy": {"ctcsd": ours("greedy"), "torch": torch_greedy},
    "beam 10": {
        "ctcsd": ours("beam", beam=10),
        "torchaudio": torchaudio_beam(False, 10),
        "pyctcdecode": pyctcdecode_beam(False, 10),
    },
    "lexicon, n-gram": {
        "ctcsd wfst": ours("wfst", lm_scale=LM_SCALE, search_beam=6.0, max_active=500),
        "ctcsd beam": ours("beam", beam=20, lexicon=True, lm_scale=LM_SCALE),
        "torchaudio": torchaudio_beam(True, 20),
        "pyctcdecode": pyctcdecode_beam(True, 20),
    },
    "wfst HLG": {"ctcsd": ours("wfst", graph="HLG", lm_scale=LM_SCALE)},
    "k2-1best": {"ctcsd": ours("k2-1best")},
    "k2-hlg": {"ctcsd": ours("k2-hlg", lm_scale=LM_SCALE)},
}


def work(args: argparse.Namespace) -> dict[str, Any]:
    """What a process of its own does: decode `args.count` utterances, or the first `args.frames` frames of each.

    Returns:
        seconds of the processor, texts by cut id, MiB of peak memory after FEW utterances and at the end.
    """
    group, by = args.worker
    decode = CONTESTANTS[group][by]
    for count in (1, 0):  # the first loads the libraries
        start = time.process_time()
        list(decode(Repeated(args.archive, count), args.lang))
        loading = time.process_time() - start
    texts: dict[str, str] = {}
    few = 0
    start = time.process_time()
    reader = Repeated(args.archive, args.count, args.frames)
    for number, (cut_id, text) in enumerate(decode(reader, args.lang), start=1):
        texts[cut_id] = text
        if number == FEW:
            few = peak_mib()
    seconds = time.process_time() - start - loading
    return {"seconds": seconds, "texts": texts, "few": few or peak_mib(), "many": peak_mib()}


def run_worker(
    args: argparse.Namespace, group: str, by: str, packages: Path, count: int, frames: int | None = None
) -> dict[str, Any] | None:
    """`work` in a new process, k2's searches under the interpreter that has it; None, and said why, where it fails."""
    python = find_k2_python() if group.startswith("k2-") else Path(sys.executable)
    if python is None:
        print(f"{group}: no interpreter here has k2", file=sys.stderr)
        return None
    command = [str(python), __file__, "--worker", group, by, "--archive", str(args.archive), "--lang", str(args.lang)]
    root = Path(__file__).resolve().parents[1]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": f"{root}{os.pathsep}{packages}"}
    command += ["--count", str(count)] + ([] if frames is None else ["--frames", str(frames)])
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode != 0:
        print(f"{group}, {by}: left out ({done.stderr.strip().splitlines()[-1]})", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def measure(args: argparse.Namespace, packages: Path) -> list[list[str]]:
    """The lines of the table."""
    from ctcsd.data.batches import references

    frames = [row["array"]["shape"][0] for row in PosteriorReader(args.archive).rows()]
    count = min(args.utterances or len(frames), len(frames))
    audio = sum(frames[:count]) * PosteriorReader(args.archive).frame_shift
    spoken = references(args.data / "manifests" / f"cuts_{args.split}.jsonl.gz")
    names = [(g, by) for g in args.only for by in CONTESTANTS[g] if by.startswith("ctcsd") or not args.no_peers]
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name, found in runs.items():
            found += [one for one in [run_worker(args, *name, packages, count)] if one]
    print(f"{count} utterances, {audio / 60:.0f} min of audio, median (range) of {args.rounds} rounds")
    speeds = {name: [audio / one["seconds"] for one in found] for name, found in runs.items() if found}
    lines = []
    for (group, by), speed in speeds.items():
        first = runs[group, by][0]
        errors = wer((spoken[u].text.split(), text.split()) for u, text in first["texts"].items())
        reference = speeds.get((group, next(iter(CONTESTANTS[group]))))
        large = run_worker(args, group, by, packages, args.memory, SHORT) if args.memory else None
        lines.append(
            [
                group,
                by,
                f"{statistics.median(speed):,.0f} ({min(speed):,.0f} to {max(speed):,.0f})",
                f"{statistics.median(speed) / statistics.median(reference):.2f}" if reference else "-",
                f"{errors.rate:.2f}",
                f"{large['few']}, {large['many']}" if large else "-",
            ]
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recipe = Path(__file__).resolve().parents[1] / "egs" / "fotaq"
    parser.add_argument("--run", type=Path, help="folder of a run with posteriors (stage 4)")
    parser.add_argument("--exit", default="student")
    parser.add_argument("--split", default="test")
    parser.add_argument("--data", type=Path, default=recipe / "data", help="of the corpus, for the transcripts")
    parser.add_argument("--lang", type=Path, default=recipe / "data" / "lang_char", help="lexicon.txt and lm.arpa")
    parser.add_argument("--rounds", type=int, default=3, help="times that each decodes the archive (default 3)")
    parser.add_argument("--utterances", type=int, default=0, help="decode only so many (default: the archive)")
    parser.add_argument("--memory", type=int, default=10000, help="utterances to measure memory with (0: do not)")
    parser.add_argument("--only", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS), metavar="SEARCH")
    parser.add_argument("--no-peers", action="store_true", help="only the searches of ctcsd")
    parser.add_argument("--peers", action="store_true", help="install the others' packages, for this once")
    for name, kind in (("--archive", Path), ("--count", int), ("--frames", int)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(args)))
        return
    if args.run is None:
        parser.error("--run is needed: a run with posteriors")
    args.archive = RunDir(args.run).archive(args.split, args.exit)
    with installed(*(PEERS if args.peers else ())) as packages:
        lines = measure(args, packages)
    header = ["search", "by", "x real time", "/ ctcsd", "WER", f"peak MiB at {FEW}, {args.memory} utterances"]
    print(markdown(header, lines))


if __name__ == "__main__":
    main()
