"""Before the first epoch: the batches that ask most of the memory go through, and leave no trace."""

from __future__ import annotations

import time

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.seed import isolate_rng

from ctcsd.data.datamodule import CorpusDataModule
from ctcsd.train.memory import padded_seconds, peak_memory_mib
from ctcsd.train.module import CtcModule


class Preflight(Callback):
    """Forward and backward of the heaviest batches under all terms of the loss, in each start of a training."""

    def __init__(self, data: CorpusDataModule) -> None:
        self.data = data

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, CtcModule)
        start = time.perf_counter()
        seen = []
        with isolate_rng(), trainer.precision_plugin.forward_context():
            for name, cuts in self.data.heaviest().items():
                batch = self.data.dataset[cuts]
                if not batch.cut_ids:
                    continue
                batch = pl_module.transfer_batch_to_device(batch, pl_module.device, 0)
                # Its own backward: with a plain one, DDP would count every parameter as used in the first step.
                pl_module.accumulate(batch, pl_module.objective.schedule.base, pl_module.manual_backward)
                pl_module.model.zero_grad(set_to_none=True)
                seen.append(f"{name} ({len(cuts)} cuts, {padded_seconds(batch):.0f} s)")
        if trainer.is_global_zero:
            spent = time.perf_counter() - start
            print(f"pre-flight: {', '.join(seen)} fit; {spent:.1f} s, peak memory {peak_memory_mib()} MiB", flush=True)
