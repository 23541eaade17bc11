"""What every encoder with CTC exits is, whatever its layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from ctcsd.config import ModelConfig
from ctcsd.errors import UserError

HEADS = ("heads.", "conditions.")  # names of parameters that are an exit's own


class ExitOutput(NamedTuple):
    """What an exit gives: logits (N, T', V), not normalised, and lengths (N,) in encoder frames."""

    logits: Tensor
    lengths: Tensor


class Flops(NamedTuple):
    """Operations of a forward pass, a multiply-add being two: of what may be frozen at the front, and of all else."""

    front: float
    encoder: float


class EncoderCtc(nn.Module, ABC):
    """An encoder with a CTC head at every exit.

    `cfg.exits` maps an exit's name to its layer, counted from 1 (the output of layer l; what comes before the layers
    is not one). The model holds no layer above its highest exit.

    Attributes:
        input_type: the features.type that it reads: `fbank`, (N, T, F), or `wave`, (N, samples) at 16 kHz.
        frame_shift: seconds between frames of the logits.
        source_keys: fields of cfg in which two encoders must agree for one to start from the other.
        above_layers: what the names of those encoder parameters begin with that act on the output of any layer.

    Raises:
        UserError: no exit, an exit outside 1..layers, or no vocabulary.
    """

    input_type: ClassVar[str]
    source_keys: ClassVar[tuple[str, ...]]
    above_layers: tuple[str, ...] = ()
    frame_shift: float
    heads: nn.ModuleDict

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        if not cfg.exits:
            raise UserError("the model has no exit: set model.exits, for instance {student: 4, teacher: 8}")
        for name, layer in cfg.exits.items():
            if not 1 <= layer <= cfg.layers:
                raise UserError(f"exit '{name}' at layer {layer}, but the encoder has layers 1 to {cfg.layers}")
        if cfg.vocab_size < 2:
            raise UserError(f"model.vocab_size is {cfg.vocab_size}: blank and at least one token are needed")
        self.cfg = cfg
        self.exits: dict[str, int] = dict(sorted(cfg.exits.items(), key=lambda item: item[1]))

    def _new_heads(self, dim: int) -> nn.ModuleDict:
        return nn.ModuleDict({name: nn.Linear(dim, self.cfg.vocab_size) for name in self.exits})

    @abstractmethod
    def forward(self, features: Tensor, lengths: Tensor, exits: Collection[str] | None = None) -> dict[str, ExitOutput]:
        """Features to logits at every exit, or at the named ones; no layer above the highest of them is computed.

        Args:
            features: as `input_type` says, padded with anything.
            lengths: (N,) int64, valid frames or samples of each utterance.
            exits: names of the exits to compute; all when None.

        Returns:
            exit name -> ExitOutput, lowest exit first.
        """

    @property
    @abstractmethod
    def blocks(self) -> Iterable[nn.Module]:
        """The layers, which make most of the parameters, from the lowest on."""

    @abstractmethod
    def frames(self, length: Any) -> Any:
        """Frames of the logits, of input frames or samples: an int or an int64 tensor."""

    @abstractmethod
    def forward_flops(self, seconds: float) -> Flops:
        """Matrix products, convolutions and attention of one utterance through all exits."""

    @abstractmethod
    def activation_bytes(self, seconds: float) -> float:
        """About what so much audio keeps for its backward pass, in 16-bit precision, logits in float32."""

    def _logit_bytes(self, seconds: float) -> float:
        """Logits, their log-softmax and a gradient."""
        return 3 * 4 * self.cfg.vocab_size * len(self.exits) * seconds / self.frame_shift

    @abstractmethod
    def alone(self, exit: str) -> EncoderCtc:
        """A new model of the sizes of this one up to an exit."""

    def truncate(self, exit: str) -> EncoderCtc:
        """The model that ends at `exit`: it shares no memory with this one and holds nothing above that exit.

        A self-conditioned model keeps its lower exits, which feed the layers above them.

        Raises:
            UserError: there is no such exit.
        """
        if exit not in self.exits:
            raise UserError(f"no exit '{exit}' in this model, which has: {', '.join(self.exits)}")
        cut = self.alone(exit)
        wanted = cut.state_dict()
        cut.load_state_dict({key: value for key, value in self.state_dict().items() if key in wanted})
        return cut.to(next(self.parameters()).device).train(self.training)

    def start_from(self, source: EncoderCtc, where: object) -> int:
        """Copy what both encoders have in common from `source`; heads stay new. Returns the layers.

        Raises:
            UserError: an encoder of other sizes; the message names it by `where`.
        """
        for key in self.source_keys:
            theirs, ours = getattr(source.cfg, key), getattr(self.cfg, key)
            if theirs != ours:
                raise UserError(f"the encoder of {where} has model.{key}={theirs}, this one {ours}: no start from it")
        mine = self.encoder_state()
        self.load_state_dict({k: v for k, v in source.encoder_state().items() if k in mine}, strict=False)
        return min(max(self.exits.values()), max(source.exits.values()))

    def encoder_state(self) -> dict[str, Tensor]:
        """The parameters that are not an exit's own."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith(HEADS)}

    def freeze_encoder(self, frozen: bool) -> None:
        """Let only the exits learn, or everything again that is meant to."""
        for name, parameter in self.named_parameters():
            if name.startswith(HEADS) or name in self._always_frozen:
                continue
            parameter.requires_grad_(not frozen)

    @property
    def _always_frozen(self) -> Collection[str]:
        """Names of parameters that never learn."""
        return ()

    def num_parameters(self) -> int:
        """Number of scalars, frozen ones too."""
        return sum(p.numel() for p in self.parameters())

    def save_description(self, run_dir: Path) -> None:
        """Write what `make_model` needs beside cfg to build this model again; nothing, as a rule."""
        return None


def multiply_adds(*modules: nn.Module) -> int:
    """Of the matrices and kernels of some modules, for each frame that they give."""
    layers = [layer for module in modules for layer in module.modules()]
    return sum(layer.weight.numel() for layer in layers if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)))
