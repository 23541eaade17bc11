"""A training: what it is made of, and the loop."""

from __future__ import annotations

import functools
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lhotse.cut import Cut
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from ctcsd.config import Config, save_config
from ctcsd.data.batches import by_reason
from ctcsd.data.datamodule import CorpusDataModule
from ctcsd.data.features import cuts_file
from ctcsd.data.report import write_drops
from ctcsd.data.shar import REMEDY
from ctcsd.distill.teacher import Teacher, make_teacher
from ctcsd.files import write_text
from ctcsd.lock import in_turn
from ctcsd.model import EncoderCtc, make_model
from ctcsd.posteriors import PosteriorReader
from ctcsd.revision import revision
from ctcsd.run_dir import RunDir
from ctcsd.text.tokenizer import Tokenizer, TokenTable
from ctcsd.train.allocator import keep_freed_memory, keep_kernels
from ctcsd.train.checkpoint import (
    CONFIG_FILE,
    AtomicCheckpointIO,
    average_checkpoints,
    by_dev_error,
    load_model,
    save_model,
)
from ctcsd.train.guards import StepGuard
from ctcsd.train.infer import posteriors_run
from ctcsd.train.memory import peak_memory_mib
from ctcsd.train.method import check, make_objective
from ctcsd.train.module import LOG_EVERY, CtcModule
from ctcsd.train.preflight import Preflight
from ctcsd.train.processes import check_hardware, ending_together, is_first, trainer_options, use_threads
from ctcsd.train.progress import EpochLine, bars
from ctcsd.train.resume import TimedCheckpoint, newest_whole
from ctcsd.train.sharding import load_whole
from ctcsd.train.unreadable import Unreadable


def build(cfg: Config, data_dir: Path, lang_dir: Path) -> tuple[CtcModule, CorpusDataModule]:
    """Model, objective, teacher and data of a configuration, from its seed.

    Raises:
        UserError: the configuration, the data or the lang dir do not fit together; the message says how.
    """
    _quieten()
    keep_freed_memory()
    keep_kernels()
    check(cfg)
    check_hardware(cfg.train)
    use_threads(cfg.train)
    for split in cfg.data.decoded:
        if not cuts_file(data_dir, cfg, split).is_file():
            print(f"note: no cut set {cuts_file(data_dir, cfg, split)} yet, which stage 4 will want", flush=True)
    L.seed_everything(cfg.seed, verbose=False)
    tokenizer = Tokenizer(lang_dir)
    cfg.model.vocab_size = len(tokenizer.table)
    cfg.model.num_mel_bins = cfg.features.num_mel_bins
    model = make_model(cfg.model)
    if cfg.init_from:
        layers = model.start_from(load_model(Path(cfg.init_from))[0], cfg.init_from)
        print(f"the encoder starts from {cfg.init_from} ({layers} layers)", flush=True)
    objective = make_objective(cfg)
    teacher = _teacher(cfg, model, data_dir, lang_dir)
    data = CorpusDataModule(cfg, data_dir, tokenizer, objective.needs_labels, functools.partial(_frames_of, model))
    module = CtcModule(cfg, model, tokenizer.table, objective, teacher)
    module.total_steps = data.batches_per_epoch() * cfg.passes
    return module, data


def _frames_of(model: EncoderCtc, cut: Cut) -> int:
    """Frames of the logits of a cut."""
    return model.frames(cut.num_samples if model.input_type == "wave" else cut.num_frames)


def _teacher(cfg: Config, model: EncoderCtc, data_dir: Path, lang_dir: Path) -> Teacher | None:
    """The teacher of a method; an archive that is not named is made from the checkpoint's highest exit."""
    distill = cfg.distill
    checkpoint, archive = distill.checkpoint, distill.archive
    fingerprint = TokenTable.load(lang_dir).fingerprint
    if distill.teacher == "archive" and checkpoint and not archive:
        exit = list(load_model(Path(checkpoint), fingerprint)[0].exits)[-1]
        split = cfg.data.train
        with in_turn(Path(checkpoint)):
            posteriors_run(Path(checkpoint), data_dir, lang_dir, cfg, [exit], [split], distill.top_k)
        archive = str(RunDir(Path(checkpoint)).archive(split, exit, distill.top_k))
    return make_teacher(
        distill.teacher,
        model.exits,
        (lambda: load_model(Path(checkpoint), fingerprint)[0]) if checkpoint else None,
        (lambda: PosteriorReader(Path(archive), lang_dir)) if archive else None,
        model.input_type,
        model.frame_shift,
        model.cfg.num_mel_bins,
    )


def fit(module: CtcModule, data: CorpusDataModule, run_dir: Path, watchers: Sequence[Callback] = ()) -> dict[str, Any]:
    """Train, or go on with an interrupted training, and leave the best average of checkpoints in run_dir.

    Writes `config.yaml` (resolved), `left_out.tsv`, `checkpoints/`, `tensorboard/`, `model.safetensors`, `tokens.txt`
    and, last, `train.json`, whose content is returned: dev errors, seconds, peak memory, parameters, revision.

    Args:
        watchers: further callbacks, which come after the training's own.
    """
    cfg, model, table = module.cfg, module.model, module.table
    if is_first():
        save_config(cfg, run_dir / CONFIG_FILE)
        write_text(run_dir / "tokens.txt", table.text)
        write_drops(run_dir / "left_out.tsv", data.dropped)
    folder = run_dir / "checkpoints"
    best = ModelCheckpoint(
        folder,
        filename="epoch{epoch:03d}-cer{dev_cer:.2f}",
        auto_insert_metric_name=False,
        monitor="dev_cer",
        save_top_k=cfg.train.average,
        every_n_epochs=cfg.train.evaluate_every,
        enable_version_counter=False,  # an epoch that is trained again after a kill overwrites its own checkpoint
        save_on_train_epoch_end=True,
    )
    newest = ModelCheckpoint(
        folder, filename="last", save_top_k=1, enable_version_counter=False, save_on_train_epoch_end=True
    )
    line = EpochLine()
    guard = StepGuard(run_dir, cfg.train)
    sizes = {"train": len(data.train_cuts), "dev": len(data.dev_cuts)}
    again = "delete the folder of its features and run stage 1 again"
    if cfg.features.type == "wave":
        again = "run stage 0 again"
    remedies = {"train": REMEDY if cfg.data.shar else again, "dev": again}
    unreadable = Unreadable(run_dir / "unreadable.tsv", sizes, cfg.data.max_bad, remedies)
    trainer = L.Trainer(
        default_root_dir=run_dir,
        **trainer_options(cfg.train, module.objective.schedule.pauses or cfg.model.freeze_steps > 0),
        max_epochs=cfg.passes,
        reload_dataloaders_every_n_epochs=1,
        check_val_every_n_epoch=cfg.train.evaluate_every,
        num_sanity_val_steps=0,
        log_every_n_steps=LOG_EVERY,
        callbacks=[
            *([Preflight(data)] if cfg.train.preflight else []),
            unreadable,
            guard,
            line,
            best,
            newest,
            TimedCheckpoint(folder, cfg.train.save_minutes),
            LearningRateMonitor("step"),
            *bars(),
            *watchers,
        ],
        enable_progress_bar=bool(bars()),
        enable_model_summary=False,
        logger=TensorBoardLogger(run_dir, name="tensorboard", version=""),
        plugins=[AtomicCheckpointIO()],
    )
    _announce(cfg, model, data)
    if not is_first():
        trainer.strategy.setup_environment()  # waits for the first process, which has prepared the folder by then
    begun = newest_whole(folder)
    if begun:
        print(f"going on from {begun}", flush=True)
    with ending_together(trainer):
        trainer.fit(module, data, ckpt_path=begun, weights_only=True)
        dev, state = _keep_best(module, data, trainer, best)
    if is_first():
        save_model(model, run_dir, table.fingerprint, state)
    result = {
        "corpus": cfg.corpus,
        "method": cfg.method,
        "seed": cfg.seed,
        "parameters": {name: model.alone(name).num_parameters() for name in model.exits},
        "dev": dev,
        "seconds": round(line.seconds, 1),
        "peak_memory_mib": peak_memory_mib(),
        "epochs": cfg.passes,
        "init_from": cfg.init_from,
        "train_audio_hours": round(data.train_seconds / 3600, 2),
        "left_out": by_reason(data.dropped),
        "unreadable": unreadable.count,
        "bad_steps": guard.bad_steps.count,
        "revision": revision(),
    }
    if is_first():
        write_text(run_dir / "train.json", json.dumps(result, indent=2) + "\n")
    return result


def _keep_best(
    module: CtcModule, data: CorpusDataModule, trainer: L.Trainer, best: ModelCheckpoint
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Leave in the module the average of the best checkpoints, or the best alone where that has a lower dev error.

    Returns its dev errors and its whole tensors.
    """
    # By the files themselves: Lightning forgets its list where the run's folder was moved between two starts.
    ranked = by_dev_error(Path(str(best.dirpath)).glob("epoch*-cer*.ckpt"))
    ranked = trainer.strategy.broadcast(ranked)  # the first process may be about to delete one
    tried: list[tuple[float, str, dict[str, torch.Tensor], dict[str, float]]] = []
    # A kill may have left one more than is kept.
    for name, paths in (("average", ranked[: module.cfg.train.average]), ("best", ranked[:1])):
        if name == "average" and len(ranked) < 2:
            continue
        state = average_checkpoints(paths)
        load_whole(module.model, state)
        metrics = {k: round(float(v), 3) for k, v in trainer.validate(module, data, verbose=False)[0].items()}
        tried.append((metrics["dev_cer"], f"{name} of {len(paths)}", state, metrics))
    error, name, state, metrics = min(tried, key=lambda row: row[0])
    load_whole(module.model, state)
    unit = "CER" if module.table.spells else "PER"
    print(f"kept: {name}, dev {unit} {error:.2f} (tried: {', '.join(f'{row[1]} {row[0]:.2f}' for row in tried)})")
    return metrics, state


def _announce(cfg: Config, model: EncoderCtc, data: CorpusDataModule) -> None:
    exits = ", ".join(f"{name} at layer {layer}" for name, layer in model.exits.items())
    left_out = "; ".join(f"{count} {reason}" for reason, count in by_reason(data.dropped).items() if count)
    print(
        f"{cfg.method}: {model.num_parameters() / 1e6:.2f} M parameters ({exits}), "
        f"{len(data.train_cuts)} cuts, {data.train_seconds / 3600:.2f} h"
        + (f"; left out: {left_out}" if left_out else ""),
        flush=True,
    )


def _quieten() -> None:
    """Lightning's advertisements and known-harmless warnings; its errors stay."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*number of training batches.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*returned a view tensor.*")  # of FSDP; nothing changes logits in place
    warnings.filterwarnings("ignore", message=".*Grad strides do not match bucket view.*")  # of channels-last kernels
