"""What the training loop loses against its bare steps, and by what: epochs of a prepared corpus, all of it real.

    .venv/bin/python benchmarks/train_epoch.py --help

Before or after each step of the loop a twin of the model takes the bare step on the same batch: forward, losses,
backward, clipping, AdamW. Medians of the ratios of such pairs are quoted: a drift of the machine's speed cancels out.
Of several epochs the first, which reads the features from the disk, is left out of them.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import SimpleProfiler
from timing import seconds_of, wait

from ctcsd.config import method_config
from ctcsd.data.augment import spec_augment
from ctcsd.data.batches import Batch
from ctcsd.distill.objective import Labels
from ctcsd.score.tables import markdown
from ctcsd.train.bad_steps import clip
from ctcsd.train.fit import build, fit
from ctcsd.train.module import CtcModule
from ctcsd.train.optim import make_optimizer


class Beside(Callback):
    """Takes the bare steps, and the times of everything; its own time counts nowhere.

    Args:
        batches: of an epoch; None: all.
    """

    def __init__(self, batches: int | None) -> None:
        self.batches = batches
        self.profiler = SimpleProfiler()
        self.bare: list[float] = []
        self.augment: list[float] = []
        self.cycle: list[float] = []  # from the end of a step's hooks to the end of the next one's
        self.evaluation = self.total = self.own = 0.0
        self.valid = self.padded = 0
        self.megabytes = 0.0
        self.first = 5  # steps that warm up

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.batches:
            trainer.limit_train_batches = self.batches

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, CtcModule)
        self.model = copy.deepcopy(pl_module.model)
        self.optimizer = make_optimizer(self.model, pl_module.cfg.train, pl_module.total_steps)[0]
        trainer.profiler = self.profiler
        self._begin = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1:
            self.first = len(self.bare)
        self._mark()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if batch_idx % 2:  # neither of the two steps always finds what the other has left in the caches
            self._take(trainer, pl_module, batch)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        wait(pl_module.device.type)
        now, own = time.perf_counter(), self.own
        if not batch_idx % 2:
            self._take(trainer, pl_module, batch)
        self.cycle.append(now - self._at - (own - self._own))
        self._mark()

    def _mark(self) -> None:
        self._at, self._own = time.perf_counter(), self.own

    def _take(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch) -> None:
        assert isinstance(module, CtcModule)
        start, device = time.perf_counter(), module.device.type
        self.valid += int(batch.lengths.sum())
        self.padded += batch.features.shape[0] * batch.features.shape[1]
        augment = module.cfg.augment
        whole = batch.repeated(augment.views)
        self.augment.append(seconds_of(lambda: spec_augment(whole.features, whole.lengths, augment), device))
        with trainer.precision_plugin.forward_context():
            self.bare.append(seconds_of(lambda: self._step(module, whole), device))
        self.own += time.perf_counter() - start

    def _step(self, module: CtcModule, batch: Batch) -> None:
        outputs = self.model(batch.features, batch.lengths)
        teacher = module.accumulate.teacher
        posteriors = teacher(batch.features, batch.lengths, batch.cut_ids, outputs) if teacher else None
        labels = None
        if batch.targets is not None and batch.target_lengths is not None:
            labels = Labels(batch.targets, batch.target_lengths)
        module.objective(outputs, labels, posteriors, module.objective.schedule.base)[0].backward()
        clip(self.model.parameters(), module.cfg.train.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._evaluating = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self.evaluation += time.perf_counter() - self._evaluating

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.total = time.perf_counter() - self._begin - self.own
        self.times = {name: list(spent) for name, spent in self.profiler.recorded_durations.items()}
        self.saved = self.times["save_checkpoint"]
        folder = Path(trainer.default_root_dir) / "checkpoints"
        self.megabytes = (folder / "last.ckpt").stat().st_size / 2**20

    def ratio(self, spent: Sequence[float]) -> float:
        """To the bare steps: the median over the steps that count."""
        return statistics.median(a / b for a, b in list(zip(spent, self.bare))[min(self.first, len(self.bare) - 1) :])

    def spent(self, end: str) -> list[float]:
        """Seconds of each call of what Lightning names with this end."""
        return [seconds for name, spent in self.times.items() if name.endswith(end) for seconds in spent]


def table(seen: Beside) -> list[list[str]]:
    """Rows `what, ms a step, % of the bare step`; what happens once in an epoch is spread over its steps."""
    steps = len(seen.bare)
    bare = statistics.median(seen.bare)
    saved, forward = seen.saved, sum(seen.spent(".validation_step"))
    loading, step = seen.ratio(seen.spent("dataloader_next")), seen.ratio(seen.spent("run_training_batch"))
    augment, cycle = seen.ratio(seen.augment), seen.ratio(seen.cycle)
    whole = steps * statistics.mean(seen.bare)
    ends = seen.total - sum(seen.cycle) - seen.evaluation - sum(saved)
    lost = {
        "loading": loading,
        "SpecAugment": augment,
        "rest of the step: schedule, verdict, log": step - 1.0 - augment,
        "between the steps: guards, logger, Lightning": cycle - step - loading,
        "start and end of an epoch": ends / whole,
        f"checkpoints ({len(saved)})": sum(saved) / whole,
        "evaluation, but for its forward passes": (seen.evaluation - forward) / whole,
    }
    rows = {
        "bare step": 1.0,
        **lost,
        "lost in all": sum(lost.values()),
        "forward passes of evaluation": forward / whole,
    }
    return [[what, f"{1000 * share * bare:.2f}", f"{share:.1%}"] for what, share in rows.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("egs/fotaq/data"), help="prepared data (default egs/fotaq's)")
    parser.add_argument("--lang", type=Path, help="lang dir (default DATA/lang_char)")
    parser.add_argument("--config", type=Path, default=Path("egs/fotaq/conf/corpus.yaml"), help="of the corpus")
    parser.add_argument("--method", default="skd", help="default skd")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batches", type=int, help="of an epoch (default all)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as model.dim=320")
    args = parser.parse_args()
    cfg = method_config(args.method, [args.config], [f"train.epochs={args.epochs}", *args.overrides])
    seen = Beside(args.batches)
    # Beside the data: on the disk of a real run, not in memory.
    with tempfile.TemporaryDirectory(prefix=".train_epoch.", dir=args.data.parent) as folder:
        fit(*build(cfg, args.data, args.lang or args.data / "lang_char"), Path(folder), [seen])
    saved, bare = seen.saved, statistics.median(seen.bare)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {cfg.method}, {len(seen.bare)} steps")
    print(markdown(["what", "ms a step", "of the bare step"], table(seen)))
    save = statistics.median(saved)
    print(f"a checkpoint of {seen.megabytes:.0f} MiB: {1000 * save:.0f} ms, {save / bare:.2f} of a bare step")
    print(f"padding: {1 - seen.valid / seen.padded:.1%} of the frames")


if __name__ == "__main__":
    main()
