"""From audio files straight to text, with a trained or exported model and any search of this interpreter."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from ctcsd.config import Config
from ctcsd.data.audio import BadAudio, load_file
from ctcsd.data.features import SAMPLE_RATE, fbank
from ctcsd.decode.hypothesis import Hypothesis
from ctcsd.decode.run import search_options, with_prior
from ctcsd.decode.search import k2_methods, search, search_name
from ctcsd.errors import UserError
from ctcsd.model import EncoderCtc
from ctcsd.posteriors import PosteriorReader
from ctcsd.run_dir import RunDir
from ctcsd.text.tokenizer import TokenTable
from ctcsd.train.infer import model_of

SHORTEST, LONGEST = 0.025, 600.0  # seconds of a recording: a window of the features; the encoder attends to all at once


def transcribe(
    run: Path, cfg: Config, exit: str, lang_dir: Path, method: str, files: Iterable[Path]
) -> Iterator[Hypothesis]:
    """Recognise recordings of any format, rate and number of channels (their mean), one after another.

    Args:
        run: of a training, or a folder that `export_run` wrote.
        method: a search, or a variant of one, which takes its other options from cfg.

    Returns:
        a hypothesis for each file, whose path is the id; empty, with the reason, for one that cannot be read.

    Raises:
        UserError: at once, a search that needs k2, or as `search_options`, `search` and `load_model`.
    """
    name = search_name(method)
    if k2_methods([method]):
        raise UserError(f"'{method}' runs where k2 is: `ctcsd search` has it; here greedy, beam and wfst work")
    options = with_prior(search_options(method, cfg.decode), RunDir(run), exit)
    heard = Heard(run, exit, files)
    with redirect_stdout(sys.stderr):  # what is said of a graph that is made
        return search(heard, lang_dir, name, **options)


class Heard(PosteriorReader):
    """As an archive, the log-posteriors of audio files, each computed when its turn comes; nothing is kept."""

    def __init__(self, run: Path, exit: str, files: Iterable[Path]) -> None:
        self.path, self.table = run, TokenTable.load(run)
        self.model, self.exit, self.files = model_of(run, self.table), exit, files

    def entries(self) -> Iterator[tuple[str, np.ndarray | UserError]]:
        for path in self.files:
            try:
                yield str(path), self._log_probs(read_audio(path))
            except UserError as error:
                yield str(path), error

    @torch.inference_mode()
    def _log_probs(self, samples: Tensor) -> np.ndarray:
        features = samples if self.model.input_type == "wave" else mel(samples, self.model)
        features = features.to(next(self.model.parameters()).device)
        lengths = torch.tensor([len(features)], device=features.device)
        logits, frames = self.model(features[None], lengths, exits=[self.exit])[self.exit]
        return logits[0, : int(frames)].float().log_softmax(-1).cpu().numpy()


def read_audio(path: Path) -> Tensor:
    """(samples,) float32 at 16 kHz, one channel.

    Raises:
        UserError: no audio that can be read as a whole, less than SHORTEST of it, or more than LONGEST.
    """
    try:
        if path.is_file() and (seconds := soundfile.info(path).duration) > LONGEST:
            raise UserError(f"{seconds / 60:.0f} minutes long: cut it at pauses into parts of at most {LONGEST:g} s")
        samples, rate = load_file(path)
    except BadAudio as bad:
        raise UserError(bad.drop.detail.removeprefix(f"{path}: ")) from None
    except soundfile.SoundFileError:
        raise UserError("not audio that can be read") from None
    if len(samples) < SHORTEST * rate:
        raise UserError(f"no more than {1000 * len(samples) / rate:.0f} ms of audio")
    mono = samples.mean(1)
    return torch.from_numpy(mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE))


def mel(samples: Tensor, model: EncoderCtc) -> Tensor:
    """(samples,) -> (T, F), the features of stage 1."""
    return torch.from_numpy(fbank(model.cfg.num_mel_bins).extract(samples.numpy()[None], SAMPLE_RATE))
