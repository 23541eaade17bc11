"""Commands on a corpus: the machine, features, lang dirs, language models; and any script, once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import List, Optional

import typer

from ctcsd.cli.app import CONFIG, DATA, JOBS, OVERRIDES, app, plain_config
from ctcsd.errors import UserError


@app.command()
def doctor() -> None:
    """Say what works on this machine: Python, torch, CUDA, lhotse, k2, disk, cores."""
    from ctcsd.doctor import doctor as check

    raise typer.Exit(0 if check() else 1)


@app.command("check-data")
def check_data(
    paths: List[Path] = typer.Argument(..., help="A data folder (with manifests/), or lhotse manifests, .jsonl[.gz]."),
    out: Optional[Path] = typer.Option(
        None, "--out", help="The complete list.  [default: DATA/check.tsv or ./check.tsv]"
    ),
    jobs: int = JOBS,
) -> None:
    """Say what is wrong with a corpus, recording by recording; exit code 1 where something would stop a run."""
    from ctcsd.data.check_corpus import check_corpus
    from ctcsd.data.report import write_drops

    findings = check_corpus(paths, jobs)
    listing = out or (paths[0] if paths[0].is_dir() else Path()) / "check.tsv"
    write_drops(listing, findings.found)
    print(f"{findings.summary()}\nthe complete list: {listing}")
    raise typer.Exit(1 if findings.stops else 0)


@app.command()
def features(
    data: Path = DATA,
    config: Optional[List[Path]] = CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
    jobs: int = JOBS,
) -> None:
    """Stage 1: log-mel filterbank features of the train and dev split and of the test sets."""
    from ctcsd.data.features import compute_features
    from ctcsd.lock import in_turn

    cfg = plain_config(config, overrides)
    with in_turn(data):
        for split in (cfg.data.train, *cfg.data.decoded):
            compute_features(data, cfg, split, jobs)


@app.command()
def shar(
    data: Path = DATA,
    out: Path = typer.Option(..., "--out", help="Folder of the shards: what data.shar names in a training."),
    shard_size: int = typer.Option(1000, "--shard-size", min=1, help="Cuts in a shard."),
    config: Optional[List[Path]] = CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """Pack the training cuts and their features (stage 1) into shards, for disks that read in order only."""
    from ctcsd.data.shar import write_shar
    from ctcsd.lock import locked

    cfg = plain_config(config, overrides)
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(out.parent / f".{out.name}.lock", f"another process writes {out}", wait=True):
        write_shar(data, cfg, out, shard_size)


@app.command()
def noisy(
    data: Path = DATA,
    noise: Optional[List[str]] = typer.Option(
        None, help="Folder of audio, lhotse manifest, babble or stationary; may be repeated.  [default: the last two]"
    ),
    snr: List[int] = typer.Option([20, 10, 5], help="Speech to noise, dB; may be repeated."),
    split: str = typer.Option("test", "--split", help="The split that is made noisy."),
    train: str = typer.Option("train", "--train", help="The split whose speech babble and stationary are made of."),
    name: str = typer.Option("noise", help="The new splits are SPLIT_NAMEsnr: test_noise20, ..."),
    seed: int = typer.Option(1, help="Of the noise."),
) -> None:
    """Make noisy test sets of a prepared corpus, to be decoded as data.more_tests=[test_noise20,test_noise10,...].

    Babble is six voices at once, stationary noise has the mean spectrum of speech; both are of training speech.
    """
    from ctcsd.data.noise import write_noisy
    from ctcsd.lock import in_turn

    with in_turn(data):
        write_noisy(data, noise or ["babble", "stationary"], snr, split, train, name, seed)


@app.command("hold-out")
def hold_out(
    speaker: str = typer.Argument(..., help="As the supervisions name the speaker."),
    data: Path = DATA,
    out: Path = typer.Option(..., "--out", help="New data folder: the speaker is in its test only, and alone."),
) -> None:
    """Leave a speaker out of a prepared corpus's train and dev, and make a test set of that speaker alone."""
    from ctcsd.data.hold_out import hold_out_speaker

    hold_out_speaker(data, speaker, out)


@app.command()
def lang(
    data: Path = DATA,
    out: Path = typer.Option(..., "--out", help="Lang dir to write."),
    config: Optional[List[Path]] = CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """Stage 2: units (characters, BPE pieces or phones), words, lexicon and n-gram model of the training text."""
    from ctcsd.data.features import lang_of_corpus
    from ctcsd.lock import in_turn

    with in_turn(data):
        lang_of_corpus(data, out, plain_config(config, overrides).lang)


@app.command()
def lm(
    text: List[Path] = typer.Option(..., "--text", help="Sentences, one per line, plain or .gz; may be repeated."),
    out: Path = typer.Option(..., "--out", help="ARPA file to write."),
    order: int = typer.Option(3, help="1 to 5."),
    prune: str = typer.Option("", help='Leave out n-grams that occur as often or less; per order, such as "0 0 1".'),
    vocab: Optional[Path] = typer.Option(
        None, help="Know these words only (the first of each line, so a lexicon.txt will do); others are <unk>."
    ),
    tokens: Optional[Path] = typer.Option(
        None,
        "--tokens",
        help="Lang dir: count its tokens, which spell the text, not words: for decode.token_lm.",
    ),
    dev: Optional[List[Path]] = typer.Option(None, "--dev", help="Text whose perplexity to print; may be repeated."),
) -> None:
    """Estimate an n-gram model of words, or tokens (interpolated modified Kneser-Ney), from text files."""
    from ctcsd.files import lines_of
    from ctcsd.text.arpa import perplexity, read_arpa, write_arpa
    from ctcsd.text.ngram import estimate
    from ctcsd.text.tokenizer import Tokenizer

    if not all(threshold.isdecimal() for threshold in prune.split()):
        raise typer.BadParameter(f"'{prune}' should be whole numbers, such as '0 0 1'", param_hint="--prune")
    if tokens and vocab:
        raise typer.BadParameter("the vocabulary of --tokens is its tokens", param_hint="--vocab")
    vocabulary = [line.split()[0] for line in lines_of(vocab) if line.strip()] if vocab else None
    tokenizer = Tokenizer(tokens) if tokens else None
    if tokenizer:
        vocabulary = tokenizer.table.symbols[1:]

    def sentences(path: Path) -> Iterator[str]:
        unspelled = 0
        for line in lines_of(path):
            try:
                yield tokenizer.spaced(line) if tokenizer else line
            except UserError:
                unspelled += 1
        if unspelled:
            print(f"{path}: {unspelled} lines left out, which the tokens cannot spell", flush=True)

    read = itertools.chain.from_iterable(map(sentences, text))
    model = estimate(read, order, [int(threshold) for threshold in prune.split()], vocabulary)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_arpa(model, out)
    print(f"{out}: {model.describe()}", flush=True)
    del model
    if dev:
        arpa = read_arpa(out)
        for path in dev:
            print(f"{path}: {perplexity(arpa, sentences(path))}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def once(
    context: typer.Context,
    marker: Path = typer.Argument(..., help="Done-marker to read and to write."),
    depends: Optional[List[Path]] = typer.Option(None, help="File or folder whose content the output depends on."),
    output: Optional[List[Path]] = typer.Option(None, help="What the command makes: where it is gone, it is made."),
    jobs: int = JOBS,
) -> None:
    """Run SCRIPT ARGUMENTS... --jobs N (a Python script, after --) unless the marker holds the same words, inputs."""
    from ctcsd.lock import in_turn
    from ctcsd.stamp import run_once

    neutral = ["--jobs", str(jobs)]
    with in_turn(marker.parent):
        status = run_once(marker, list(depends or []), list(output or []), context.args, neutral)
    raise typer.Exit(status)
