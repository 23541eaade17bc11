"""What the screen says while a model trains: a bar on a terminal, and one line per epoch everywhere."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar


class Bar(TQDMProgressBar):
    """A moving bar: losses, dev WER, and the audio-seconds per second of this epoch."""

    def __init__(self) -> None:
        # What it shows is waited for: seldom enough that a GPU does not idle meanwhile.
        super().__init__(refresh_rate=10 if torch.cuda.is_available() else 1, leave=False)
        self._start, self._audio = time.monotonic(), 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self._start, self._audio = time.monotonic(), float(trainer.lightning_module.audio_seconds)  # type: ignore[arg-type]

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        audio = float(pl_module.audio_seconds) - self._audio  # type: ignore[arg-type]
        speed = audio / max(1e-3, time.monotonic() - self._start)
        return {**super().get_metrics(trainer, pl_module), "audio-s/s": f"{speed:.0f}"}


class EpochLine(Callback):
    """One line per epoch: loss, dev WER (or PER) of every exit, audio-seconds per second, and the time left."""

    def __init__(self) -> None:
        self.seconds = 0.0  # of training and evaluation, over all starts of the run
        self._start = time.monotonic()
        self._audio = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds + time.monotonic() - self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = float(state_dict["seconds"])

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = time.monotonic()
        self._audio = float(pl_module.audio_seconds)  # type: ignore[arg-type]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now = time.monotonic()
        spent = now - self._start
        self.seconds += spent
        self._start = now
        if not trainer.is_global_zero:
            return
        metrics = trainer.callback_metrics
        rates = "  ".join(
            f"{name.partition('/')[2]} {float(value):.1f}"
            for name, value in metrics.items()
            if name.startswith("dev_wer/")
        )
        left = (trainer.max_epochs - trainer.current_epoch - 1) * spent  # type: ignore[operator]
        speed = (float(pl_module.audio_seconds) - self._audio) / spent  # type: ignore[arg-type]
        unit = "WER" if pl_module.table.spells else "PER"  # type: ignore[union-attr]
        print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  "
            f"loss {float(metrics.get('loss_epoch', float('nan'))):.3f}  dev {unit} {rates}  "
            f"{speed:.0f} audio-s/s  {left / 60:.1f} min to go",
            flush=True,
        )


def bars() -> list[Callback]:
    """The callbacks of the screen: a moving bar only where there is a terminal to move it on."""
    return [Bar()] if sys.stderr.isatty() else []
