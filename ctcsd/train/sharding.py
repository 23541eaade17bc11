"""Weights, gradients and moments dealt out to the processes (FSDP), for encoders that are large beside a GPU's memory.

What ZeRO (1910.02054) calls stage 3, by torch's `fully_shard`: a block of the encoder is whole only while it computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning_utilities import apply_to_collection
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from ctcsd.model import EncoderCtc


class ShardedStrategy(DDPStrategy):
    """DDP in all but where the model lies: losses, checkpoints and the summing of gradients are the same.

    Checkpoints hold whole tensors, so that any number of processes goes on from them, sharded or not.
    """

    def configure_ddp(self) -> None:
        module = self.lightning_module
        assert module is not None
        shard(self._encoder, self.root_device.type, self.world_size)
        # Before an evaluation Lightning copies the first process's tensors to the others; here each has its own.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, list(module.state_dict()))

    @property
    def _encoder(self) -> EncoderCtc:
        assert self.lightning_module is not None
        model = self.lightning_module.model
        assert isinstance(model, EncoderCtc)
        return model

    def teardown(self) -> None:
        # An error within a pass leaves blocks whole, which Lightning's teardown cannot move: its error would hide ours.
        if self.lightning_module is not None:
            for part in self._encoder.modules():
                if isinstance(part, FSDPModule):
                    part.set_reshard_after_forward(True, recurse=False)  # what reshard() goes by in a forward pass
                    part.reshard()
        super().teardown()

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        yield  # each piece of a batch adds to the process's share: held back, all gradients would lie whole in each

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return whole(super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return whole(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        states = [_dealt_moments(opt, state) for opt, state in zip(self.optimizers, checkpoint["optimizer_states"])]
        super().load_optimizer_state_dict({"optimizer_states": states})


def shard(model: EncoderCtc, device: str, processes: int) -> None:
    """Deal an encoder, block by block, and what is outside of them, out to all processes, which call this together."""
    mesh = init_device_mesh(device, (processes,))
    for part in (*model.blocks, model):
        fully_shard(part, mesh=mesh)


def whole(state: dict[str, Any]) -> dict[str, Any]:
    """A state with its sharded tensors gathered on the CPU of the first process, the only one that writes them.

    All processes call this together; in the others these tensors are empty.
    """

    def gathered(tensor: DTensor) -> Tensor:
        full = tensor.full_tensor()
        return full.cpu() if tensor.device_mesh.get_rank() == 0 else full.new_empty(0)

    return apply_to_collection(state, DTensor, gathered)


def load_whole(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load whole tensors, which all processes have, into a model that may be sharded."""
    own = model.state_dict()
    model.load_state_dict({name: _dealt(value, own[name]) for name, value in state.items()})


def _dealt(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, where `like` has such parts."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _dealt_moments(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's whole state as the parameters are dealt out."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    dealt = {
        number: {
            name: _dealt(value, parameter) if value.shape == parameter.shape else value
            for name, value in state["state"][number].items()
        }
        for number, parameter in zip(numbers, parameters)
        if number in state["state"]  # those that never had a gradient are not
    }
    return {**state, "state": dealt}
