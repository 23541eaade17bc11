"""Training in several processes, on one machine or many: what Lightning is told, who speaks, and sums over them all."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, ParallelStrategy, Strategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from ctcsd.config import TrainConfig
from ctcsd.errors import UserError
from ctcsd.train.sharding import ShardedStrategy

# What to write in train.precision -> Lightning's name
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

# How gloo and NCCL speak of a process that is gone
PEER = re.compile(r"by peer|remote process exited|Broken pipe|Connection (closed|reset|refused)")


def is_first() -> bool:
    """Whether this process is the one of all that writes: known from torchrun, SLURM or Lightning before they meet."""
    return getattr(rank_zero_only, "rank", 0) == 0


@contextmanager
def one_voice() -> Iterator[None]:
    """Only the first process prints; errors come from whoever meets them."""
    if is_first():
        yield
    else:
        with redirect_stdout(None):
            yield


def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes; the tensor itself where there is one."""
    if not torch.distributed.is_initialized():
        return tensor
    tensor = tensor.clone()
    torch.distributed.all_reduce(tensor)
    return tensor


def unshared(strategy: Strategy) -> AbstractContextManager[Any]:
    """A context in which a backward pass keeps its gradient to this process."""
    return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()


@contextmanager
def ending_together(trainer: L.Trainer) -> Iterator[None]:
    """The processes that this one started end with it, however it ends: they would wait for it.

    Raises:
        UserError: another process was lost.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
            trainer.strategy.launcher.kill(signal.SIGKILL)
        if trainer.world_size > 1 and isinstance(error, RuntimeError) and PEER.search(str(error)):
            raise UserError(
                "another process of the training ended, which may have said why: start it again to go on"
            ) from None
        raise


def check_hardware(cfg: TrainConfig) -> None:
    """Raises UserError where the configuration asks for more devices than there are, or for what they lack."""
    gpus = torch.cuda.device_count()
    if gpus and cfg.devices > gpus:
        raise UserError(f"train.devices={cfg.devices}, but this machine has {gpus} GPU{'s' if gpus > 1 else ''}")
    if cfg.precision == "fp16" and not gpus:
        raise UserError("train.precision=fp16 needs a GPU: take bf16, or auto")


def use_threads(cfg: TrainConfig) -> None:
    """Give an operation of this process train.threads threads of the CPU, where that says how many."""
    if cfg.threads:
        torch.set_num_threads(cfg.threads)


def trainer_options(cfg: TrainConfig, pauses: bool) -> dict[str, Any]:
    """Arguments of Lightning's Trainer: devices, and how they work together.

    Args:
        pauses: some parameters get no gradient in some steps, for which DDP has to look.
    """
    strategy: Any = "auto"
    patience = timedelta(hours=6)  # the others may wait for the first process to make a teacher's archive
    if cfg.strategy == "fsdp":
        strategy = ShardedStrategy(timeout=patience)
    elif cfg.strategy == "ddp" or cfg.devices * cfg.nodes > 1:
        strategy = DDPStrategy(find_unused_parameters=pauses, timeout=patience)
    return {
        "accelerator": "auto",
        "devices": cfg.devices,
        "num_nodes": cfg.nodes,
        "strategy": strategy,
        "precision": _precision(cfg.precision),
        "use_distributed_sampler": False,
        "inference_mode": cfg.strategy != "fsdp",  # evaluation gathers weights into tensors that training uses too
    }


def _precision(wanted: str) -> str:
    """`auto` takes bf16 where the hardware multiplies it faster than fp32."""
    if wanted == "auto":
        if torch.cuda.is_available():  # which emulates it on GPUs before Ampere, far slower than fp32
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = torch.cpu._is_avx512_bf16_supported()
        wanted = "bf16" if fast else "32"
    return PRECISIONS[wanted]
