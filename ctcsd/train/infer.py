"""Stage 4a: a trained model's log-posteriors, exit by exit."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet
from tqdm import tqdm

from ctcsd.config import Config
from ctcsd.data.batches import CtcDataset, in_order
from ctcsd.data.features import cuts_file, load_cuts
from ctcsd.data.integrity import READERS
from ctcsd.errors import UserError
from ctcsd.files import replacing
from ctcsd.model import EncoderCtc
from ctcsd.posteriors import PosteriorReader, PosteriorWriter
from ctcsd.run_dir import RunDir
from ctcsd.stamp import depends, mark, up_to_date
from ctcsd.text.tokenizer import TokenTable
from ctcsd.train.checkpoint import CONFIG_FILE, MODEL_FILE, load_model

PRIOR_CUTS = 500


def posteriors_run(
    run: Path,
    data_dir: Path,
    lang_dir: Path,
    cfg: Config,
    exits: Sequence[str],
    splits: Sequence[str],
    top_k: int = 0,
) -> None:
    """Write the archives of a run's exits on some splits; those that are up to date are skipped.

    Args:
        top_k: tokens of a frame that are kept; 0: all.

    Raises:
        UserError: the run is not trained, or its token table is not the lang dir's.
    """
    table = TokenTable.load(lang_dir)
    model = None
    for split in splits:
        source = cuts_file(data_dir, cfg, split)
        needs = depends({}, [source, run / MODEL_FILE, run / CONFIG_FILE])
        archives = {name: RunDir(run).archive(split, name, top_k) for name in exits}
        markers = {name: RunDir(run).archive_marker(split, name, top_k) for name in exits}
        missing = {
            name: path
            for name, path in archives.items()
            if not up_to_date(f"posteriors of {split} {name}", markers[name], needs, [path])
        }
        if not missing:
            continue
        model = model or model_of(run, table)
        count = write_posteriors(model, load_cuts(source, stage=1), missing, table, top_k)
        for name in missing:
            mark(markers[name], needs)
        print(f"posteriors of {split}: {count} utterances, exits {', '.join(missing)}", flush=True)


def write_posteriors(
    model: EncoderCtc,
    cuts: CutSet,
    archives: dict[str, Path],
    table: TokenTable,
    top_k: int = 0,
    max_duration: float = 200.0,
) -> int:
    """Write one archive per exit, all from the same pass, which ends at the highest of them.

    Args:
        model: in eval mode; it runs on the device it is on.
        archives: exit name -> folder of its archive.
        top_k: tokens of a frame that are kept; 0: all.
        max_duration: seconds of audio in a batch, padding counted.

    Returns:
        the number of utterances.

    Raises:
        UserError: features that cannot be read, or of other mel bins than the model's.
    """
    device = next(model.parameters()).device
    dataset = CtcDataset(read=READERS[model.input_type])
    with ExitStack() as stack, torch.inference_mode():
        writers = {
            name: stack.enter_context(PosteriorWriter(path, table, model.frame_shift, top_k))
            for name, path in archives.items()
        }
        batches = in_order(cuts, max_duration)
        for batch_cuts in tqdm(batches, desc="posteriors", unit="batch", leave=False, disable=None):
            batch = dataset[batch_cuts]
            if batch.features.ndim == 3 and batch.features.size(2) != model.cfg.num_mel_bins:
                raise UserError(
                    f"the model reads {model.cfg.num_mel_bins} mel bins, but cut {batch.cut_ids[0]} has "
                    f"{batch.features.size(2)}: take the features of its own features.num_mel_bins"
                )
            outputs = model(batch.features.to(device), batch.lengths.to(device), exits=writers)
            for name, output in outputs.items():
                log_probs = output.logits.float().log_softmax(-1).cpu().numpy()
                for cut_id, length, rows in zip(batch.cut_ids, output.lengths.tolist(), log_probs):
                    writers[name].write(cut_id, rows[:length])
    return len(cuts)


def model_of(run: Path, table: TokenTable) -> EncoderCtc:
    """The model of a run, on the accelerator where there is one."""
    return load_model(run, table.fingerprint)[0].to("cuda" if torch.cuda.is_available() else "cpu")


def prior_run(run: Path, data_dir: Path, lang_dir: Path, cfg: Config, exits: Sequence[str]) -> None:
    """Write the token prior of each exit, its mean posterior over PRIOR_CUTS training cuts: (V,) as `prior-EXIT.npy`.

    Raises:
        UserError: as `posteriors_run`.
    """
    source = cuts_file(data_dir, cfg, cfg.data.train)
    needs = depends({"cuts": PRIOR_CUTS}, [source, run / MODEL_FILE])
    markers = {name: run / "posteriors" / f".prior-{name}.done" for name in exits}
    targets = {
        name: target
        for name, target in ((name, RunDir(run).prior(name)) for name in exits)
        if not up_to_date(f"token prior of {name}", markers[name], needs, [target])
    }
    if not targets:
        return
    table = TokenTable.load(lang_dir)
    model = model_of(run, table)
    cuts = load_cuts(source, stage=1, sample=PRIOR_CUTS)
    with tempfile.TemporaryDirectory() as folder:
        archives = {name: Path(folder) / name for name in targets}
        write_posteriors(model, cuts, archives, table)
        for name, target in targets.items():
            total, frames = np.zeros(len(table)), 0
            for _, log_probs in PosteriorReader(archives[name]):
                total += np.exp(log_probs.astype(np.float64)).sum(0)
                frames += len(log_probs)
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as partial:
                np.save(partial, (total / frames).astype(np.float32))
            mark(markers[name], needs)
    print(f"token priors: {', '.join(targets)}, over {len(cuts)} training cuts", flush=True)
