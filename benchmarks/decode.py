"""Time every search on one archive of posteriors, beside what one would use instead, with the same language model.

    .venv/bin/python benchmarks/decode.py --run egs/fotaq/exp/default/skd/seed1 --peers

Each contestant decodes in a process of its own, and they take turns. Seconds are those of the processor, on one thread,
with the reading of the archive and without the loading of libraries, graphs and language models; their medians count.
WER stands beside its difference to the first of the group, with the 95 % interval of a paired bootstrap.
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
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from packages import installed

from ctcsd.decode.cost import peak_mib
from ctcsd.decode.search import search
from ctcsd.errors import UserError
from ctcsd.k2_env import find_k2_python
from ctcsd.posteriors import PosteriorReader, PosteriorWriter
from ctcsd.run_dir import RunDir
from ctcsd.score.significance import paired_bootstrap
from ctcsd.score.tables import markdown
from ctcsd.score.wer import total, utterance_errors
from ctcsd.text.arpa import write_arpa
from ctcsd.text.ngram import estimate
from ctcsd.text.tokenizer import BLANK_SYMBOL, SPACE, Tokenizer

FEW = 100  # utterances, of the first measurement of memory
SHORT = 10  # frames of an utterance, while memory is measured: so thousands of them take minutes
LM_SCALE = 0.5
PEERS = ("pyctcdecode", "pygtrie", "kenlm", "flashlight-text")
TOKEN_ORDER = 5
RESCORE_ORDER = 4
Texts = Iterator[tuple[str, str]]  # cut id, text


class Language(NamedTuple):
    """A lang dir, and models that the benchmark makes of its text: n-grams of tokens, and longer ones of words."""

    dir: Path
    token_lm: Path
    rescore_lm: Path


Decode = Callable[[PosteriorReader, Language], Texts]


class First(PosteriorReader):
    """The first `count` utterances of an archive."""

    def __init__(self, path: Path, count: int) -> None:
        super().__init__(path)
        self.count = count

    def entries(self) -> Iterator[tuple[str, np.ndarray | UserError]]:
        return itertools.islice(super().entries(), self.count)


def ours(method: str, token_lm: bool = False, **options: Any) -> Decode:
    """A search of ctcsd."""

    def decode(reader: PosteriorReader, language: Language) -> Texts:
        models = {"token_lm": language.token_lm} if token_lm else {}
        if method == "k2-rescore":
            models["rescore_lm"] = language.rescore_lm
        return ((h.cut_id, h.text) for h in search(reader, language.dir, method, **models, **options))

    return decode


def torch_greedy(reader: PosteriorReader, language: Language) -> Texts:
    """As the GreedyCTCDecoder of torchaudio's tutorials."""
    import torch

    for cut_id, log_probs in reader:
        path = torch.unique_consecutive(torch.from_numpy(log_probs).argmax(-1))
        text = "".join(reader.table.symbols[i] for i in path if i != 0)
        yield cut_id, " ".join(text.replace(SPACE, " ").split())


def torchaudio_beam(lexicon: bool, beam: int, token_lm: bool = False) -> Decode:
    """torchaudio's ctc_decoder as its documentation has it: flashlight's search, KenLM."""

    def decode(reader: PosteriorReader, language: Language) -> Texts:
        import torch
        from torchaudio.models.decoder import ctc_decoder

        model = {"lm_weight": LM_SCALE * math.log(10)}  # KenLM's logarithms have base 10
        if lexicon:
            model["lm"] = str(language.dir / "lm.arpa")
        elif token_lm:
            model["lm"] = str(language.token_lm)
        decoder = ctc_decoder(
            lexicon=str(language.dir / "lexicon.txt") if lexicon else None,
            **(model if "lm" in model else {}),
            tokens=reader.table.symbols,
            beam_size=beam,
            blank_token=BLANK_SYMBOL,
            sil_token=SPACE,
        )
        for cut_id, log_probs in reader:
            best = decoder(torch.from_numpy(log_probs)[None])[0][0]
            yield cut_id, " ".join(best.words) if lexicon else reader.table.text_of(best.tokens[best.tokens != 0])

    return decode


def pyctcdecode_beam(lm: bool, beam: int) -> Decode:
    """pyctcdecode, with KenLM and the words of the language model."""

    def decode(reader: PosteriorReader, language: Language) -> Texts:
        from pyctcdecode import build_ctcdecoder

        labels = ["" if s == BLANK_SYMBOL else s.replace(SPACE, " ") for s in reader.table.symbols]
        model = str(language.dir / "lm.arpa") if lm else None
        decoder = build_ctcdecoder(labels, model, alpha=LM_SCALE, beta=0.0)
        for cut_id, log_probs in reader:
            yield cut_id, decoder.decode(log_probs, beam_width=beam)

    return decode


# Group -> by whom -> how; one of ours comes first, and the others are measured against it.
CONTESTANTS: dict[str, dict[str, Decode]] = {
    "greedy": {"ctcsd": ours("greedy"), "torch": torch_greedy},
    "beam 10": {
        "ctcsd": ours("beam", beam=10),
        "torchaudio": torchaudio_beam(False, 10),
        "pyctcdecode": pyctcdecode_beam(False, 10),
    },
    "n-gram of tokens": {
        "ctcsd": ours("beam", beam=20, token_lm=True, lm_scale=LM_SCALE),
        "torchaudio": torchaudio_beam(False, 20, token_lm=True),
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
    "k2-nbest": {"ctcsd": ours("k2-nbest", lm_scale=LM_SCALE)},
    "k2-rescore": {"ctcsd": ours("k2-rescore", lm_scale=LM_SCALE)},
}


def work(args: argparse.Namespace) -> dict[str, Any]:
    """What a process of its own does: decode the first `args.count` utterances.

    Returns:
        seconds of the processor, texts by cut id, MiB of peak memory after FEW utterances and at the end.
    """
    group, by = args.worker
    decode = CONTESTANTS[group][by]
    language = Language(args.lang, *args.models)
    for count in (1, 0):  # the first loads the libraries
        start = time.process_time()
        list(decode(First(args.archive, count), language))
        loading = time.process_time() - start
    texts: dict[str, str] = {}
    few = 0
    start = time.process_time()
    for number, (cut_id, text) in enumerate(decode(First(args.archive, args.count), language), start=1):
        texts[cut_id] = text
        if number == FEW:
            few = peak_mib()
    seconds = time.process_time() - start - loading
    return {"seconds": seconds, "texts": texts, "few": few or peak_mib(), "many": peak_mib()}


def run_worker(
    args: argparse.Namespace, group: str, by: str, packages: Path, archive: Path, count: int
) -> dict[str, Any] | None:
    """`work` in a new process, k2's searches under the interpreter that has it; None, and said why, where it fails."""
    python = find_k2_python() if group.startswith("k2-") else Path(sys.executable)
    if python is None:
        print(f"{group}: no interpreter here has k2", file=sys.stderr)
        return None
    command = [str(python), __file__, "--worker", group, by, "--archive", str(archive), "--lang", str(args.lang)]
    command += ["--models", *map(str, args.models), "--count", str(count)]
    root = Path(__file__).resolve().parents[1]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": f"{root}{os.pathsep}{packages}"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode != 0:
        print(f"{group}, {by}: left out ({done.stderr.strip().splitlines()[-1]})", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def write_models(args: argparse.Namespace, folder: Path) -> list[Path]:
    """The models of `Language`, of the text of the lang dir."""
    lines = (args.lang / "text").read_text(encoding="utf-8").splitlines()
    tokenizer = Tokenizer(args.lang)
    words = [line.split()[0] for line in (args.lang / "lexicon.txt").read_text(encoding="utf-8").splitlines()]
    found = [folder / "tokens.arpa", folder / "words.arpa"]
    write_arpa(estimate(map(tokenizer.spaced, lines), TOKEN_ORDER, (), tokenizer.table.symbols[1:]), found[0])
    write_arpa(estimate(lines, RESCORE_ORDER, (), words), found[1])
    return found


def write_many(archive: Path, count: int, target: Path) -> None:
    """An archive of `count` short utterances: pieces of those of another one."""
    reader = PosteriorReader(archive)
    if all(len(log_probs) < SHORT for _, log_probs in reader):
        raise UserError(f"{archive}: no utterance has {SHORT} frames, for --memory")
    pieces = (
        log_probs[at : at + SHORT]
        for again in itertools.count()
        for _, log_probs in reader
        for at in range(again % SHORT, len(log_probs) - SHORT + 1, SHORT)
    )
    with PosteriorWriter(target, reader.table, reader.frame_shift) as writer:
        for number, piece in enumerate(itertools.islice(pieces, count)):
            writer.write(f"piece-{number}", piece)


def measure(args: argparse.Namespace, packages: Path, folder: Path) -> list[list[str]]:
    """The lines of the table."""
    from ctcsd.data.batches import references

    args.models = write_models(args, folder)
    many = folder / "many"
    if args.memory:
        write_many(args.archive, args.memory, many)
    frames = [row["array"]["shape"][0] for row in PosteriorReader(args.archive).rows()]
    count = min(args.utterances or len(frames), len(frames))
    audio = sum(frames[:count]) * PosteriorReader(args.archive).frame_shift
    spoken = references(args.data / "manifests" / f"cuts_{args.split}.jsonl.gz")
    names = [(g, by) for g in args.only for by in CONTESTANTS[g] if by.startswith("ctcsd") or not args.no_peers]
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name, found in runs.items():
            found += [one for one in [run_worker(args, *name, packages, args.archive, count)] if one]
    print(f"{count} utterances, {audio / 60:.0f} min of audio, median (range) of {args.rounds} rounds")
    speeds = {name: [audio / one["seconds"] for one in found] for name, found in runs.items() if found}
    stats = {
        name: [utterance_errors(spoken[u].text.split(), text.split()) for u, text in found[0]["texts"].items()]
        for name, found in runs.items()
        if found
    }
    lines = []
    for (group, by), speed in speeds.items():
        own, first = stats[group, by], (group, next(iter(CONTESTANTS[group])))
        reference, beside = speeds.get(first), "-"
        if reference and own is not stats[first]:
            errors = [[one.errors for one in found] for found in (own, stats[first])]
            paired = paired_bootstrap(*errors, [one.words for one in own])
            beside = f"{paired.difference:+.2f} ({paired.low:+.2f} to {paired.high:+.2f})"
        large = run_worker(args, group, by, packages, many, args.memory) if args.memory else None
        lines.append(
            [
                group,
                by,
                f"{statistics.median(speed):,.0f} ({min(speed):,.0f} to {max(speed):,.0f})",
                f"{statistics.median(speed) / statistics.median(reference):.2f}" if reference else "-",
                f"{total(own).rate:.2f}",
                beside,
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
    for name, kind in (("--archive", Path), ("--count", int)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--models", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(args)))
        return
    if args.run is None:
        parser.error("--run is needed: a run with posteriors")
    args.archive = RunDir(args.run).archive(args.split, args.exit)
    with installed(*(PEERS if args.peers else ())) as packages, tempfile.TemporaryDirectory() as folder:
        lines = measure(args, packages, Path(folder))
    memory = f"peak MiB at {FEW}, {args.memory} utterances"
    print(markdown(["search", "by", "x real time", "/ ctcsd", "WER", "to ctcsd's", memory], lines))


if __name__ == "__main__":
    main()
