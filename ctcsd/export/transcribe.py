"""From audio files straight to text, with a trained or exported model and any search of this interpreter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from lhotse import Recording
from torch import Tensor
from tqdm import tqdm

from ctcsd.config import Config
from ctcsd.data.features import SAMPLE_RATE, fbank
from ctcsd.decode.hypothesis import Hypothesis
from ctcsd.decode.run import search_options, with_prior
from ctcsd.decode.search import k2_methods, search, search_name
from ctcsd.errors import UserError
from ctcsd.model import EncoderCtc
from ctcsd.posteriors import PosteriorReader, PosteriorWriter
from ctcsd.run_dir import RunDir
from ctcsd.text.tokenizer import TokenTable
from ctcsd.train.infer import model_of

SHORTEST, LONGEST = 0.025, 600.0  # seconds of a recording: a window of the features; the encoder attends to all at once


def transcribe(
    run: Path, cfg: Config, exit: str, lang_dir: Path, method: str, files: Sequence[Path], archive: Path
) -> tuple[Iterator[Hypothesis], list[str]]:
    """Recognise recordings of any format, rate and number of channels; those of several are mixed down.

    Args:
        run: of a training, or a folder that `export_run` wrote.
        method: a search, or a variant of one, which takes its other options from cfg.
        archive: new folder for the posteriors.

    Returns:
        the hypotheses of the files that can be read, whose paths are the ids, and a line for each that cannot.

    Raises:
        UserError: a search that needs k2, or as `search_options`, `search` and `load_model`.
    """
    if k2_methods([method]):
        raise UserError(f"'{method}' runs where k2 is: `ctcsd search` has it; here greedy, beam and wfst work")
    options = with_prior(search_options(method, cfg.decode), RunDir(run), exit)
    table = TokenTable.load(run)
    model = model_of(run, table)
    unreadable: list[str] = []
    with PosteriorWriter(archive, table, model.frame_shift) as writer, torch.inference_mode():
        for path in tqdm(dict.fromkeys(files), desc="transcribe", unit="file", leave=False, disable=None):
            try:
                samples = read_audio(path)
            except UserError as error:
                unreadable.append(str(error))
                continue
            features = samples if model.input_type == "wave" else mel(samples, model)
            features = features.to(next(model.parameters()).device)
            output = model(features[None], torch.tensor([len(features)], device=features.device), exits=[exit])[exit]
            frames = int(output.lengths[0])
            writer.write(str(path), output.logits[0, :frames].float().log_softmax(-1).cpu().numpy())
    return search(PosteriorReader(archive), lang_dir, search_name(method), **options), unreadable


def read_audio(path: Path) -> Tensor:
    """(samples,) float32 at 16 kHz, one channel.

    Raises:
        UserError: no audio that can be read, less than SHORTEST of it, or more than LONGEST.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        recording = Recording.from_file(path, recording_id=str(path))
        if recording.duration <= LONGEST:
            samples = recording.resample(SAMPLE_RATE).load_audio()
    except Exception:  # soundfile, lhotse and the system raise many things
        raise UserError(f"{path}: not audio that can be read") from None
    if recording.duration > LONGEST:
        minutes = recording.duration / 60
        raise UserError(f"{path}: {minutes:.0f} minutes long: cut it at pauses into parts of at most {LONGEST:g} s")
    if samples.shape[1] < SHORTEST * SAMPLE_RATE:
        raise UserError(f"{path}: no more than {1000 * samples.shape[1] / SAMPLE_RATE:.0f} ms of audio")
    return torch.from_numpy(samples.mean(0))


def mel(samples: Tensor, model: EncoderCtc) -> Tensor:
    """(samples,) -> (T, F), the features of stage 1."""
    return torch.from_numpy(fbank(model.cfg.num_mel_bins).extract(samples.numpy()[None], SAMPLE_RATE))
