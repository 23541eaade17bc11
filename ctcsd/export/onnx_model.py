"""One exit as an ONNX model in the layout of icefall's CTC models, which sherpa-onnx runs on phones and servers.

Inputs `x` (N, T, F) float32 features and `x_lens` (N,) int64; outputs `log_probs` (N, T', V) and `log_probs_len` (N,).
Any N and T will do, and padded frames change nothing. The features are lhotse's and Kaldi's: 25 ms every 10 ms,
samples within -1 and 1, no dither, 20 Hz to 7,600 Hz.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ctcsd.errors import UserError
from ctcsd.files import replacing
from ctcsd.model import EncoderCtc

ONNX_FILE, INT8_FILE = "model.onnx", "model.int8.onnx"
TOLERANCE = 1e-3  # nats between PyTorch's log-probs and ONNX Runtime's
FOLDED = 1 << 30  # elements of a constant that may be computed from others


class LogProbs(nn.Module):
    """The log-probs of one exit and their lengths."""

    def __init__(self, model: EncoderCtc, exit: str) -> None:
        super().__init__()
        self.model, self.exit = model, exit

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        logits, lengths = self.model(x, x_lens, exits=[self.exit])[self.exit]
        return logits.log_softmax(-1), lengths


def export_onnx(model: EncoderCtc, exit: str, target: Path, metadata: dict[str, str]) -> float:
    """Write the model up to an exit as ONNX, and check it: ONNX Runtime gives what PyTorch gives.

    Args:
        model: in eval mode, over filterbank features.
        metadata: what the file says of itself.

    Returns:
        the largest difference between their log-probs, in nats, on noise of several lengths.

    Raises:
        UserError: as `check_exportable`, or log-probs more than TOLERANCE apart.
    """
    check_exportable(model)
    from onnxscript import optimizer

    alone = LogProbs(model, exit).eval()
    example = torch.zeros(2, 200, model.cfg.num_mel_bins), torch.tensor([200, 150])
    batch, frames = torch.export.Dim("N"), torch.export.Dim("T")
    with silence(), torch.no_grad():
        program = torch.onnx.export(
            alone,
            example,
            input_names=["x", "x_lens"],
            output_names=["log_probs", "log_probs_len"],
            dynamic_shapes={"x": {0: batch, 1: frames}, "x_lens": {0: batch}},
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        # What only puts weights in another order is done here, whatever their size: else each run would do it again,
        # and `quantize` would not know them for weights.
        optimizer.optimize(program.model, input_size_limit=FOLDED, output_size_limit=FOLDED)
    program.model.metadata_props.update(metadata)
    with replacing(target) as partial:
        program.save(str(partial))
        worst = difference(alone, partial)
        if not worst <= TOLERANCE:
            raise UserError(f"{target}: ONNX Runtime's log-probs are {worst:.2g} nats from PyTorch's: not written")
    return worst


def quantize(source: Path, target: Path) -> None:
    """Write an ONNX model again with the weights of its matrix products in 8 bits, the rest as they are."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with silence(), replacing(target) as partial:
        quantize_dynamic(source, partial, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)


def difference(model: LogProbs, path: Path) -> float:
    """The largest difference between the log-probs of both on valid frames of noise; inf where lengths differ."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator, worst = torch.Generator().manual_seed(0), 0.0
    for lengths in ([1], [57], [400, 123, 8]):
        x = torch.randn(len(lengths), max(lengths), model.model.cfg.num_mel_bins, generator=generator)
        theirs, their_lengths = session.run(None, {"x": x.numpy(), "x_lens": np.array(lengths)})
        with torch.inference_mode():
            ours, our_lengths = model(x, torch.tensor(lengths))
        if their_lengths.tolist() != our_lengths.tolist():
            return float("inf")
        for row, other, length in zip(ours.numpy(), theirs, our_lengths.tolist()):
            worst = max(worst, float(np.abs(row[:length] - other[:length]).max()))
    return worst


def check_exportable(model: EncoderCtc) -> None:
    """Raises UserError for a model over waveforms, or where a library for the export is missing."""
    if model.input_type != "fbank":
        raise UserError(
            f"an encoder over the {model.input_type} has no ONNX export: sherpa-onnx's CTC models read features"
        )
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"an ONNX export does not work here ({error}): pip install 'ctcsd[export]'") from None


@contextmanager
def silence() -> Iterator[None]:
    """Without the exporters' remarks, which are for their developers."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
