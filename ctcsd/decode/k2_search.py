"""Search on k2 lattices: posteriors intersected with a CTC topology (Hannun 2017; k2's ctc_topo)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch

from ctcsd.decode.greedy import collapse
from ctcsd.decode.hypothesis import NOTHING, Found
from ctcsd.errors import UserError

try:
    import k2
except ImportError as _error:  # `ctcsd doctor` tells the ways in which k2 can be broken apart
    raise UserError(f"k2 does not work in this interpreter ({_error}): see 'ctcsd doctor'") from None


def k2_one_best(
    utterances: Iterable[tuple[str, np.ndarray]],
    vocab_size: int,
    search_beam: float = 20.0,
    output_beam: float = 8.0,
    max_active: int = 10000,
    batch_frames: int = 20000,
) -> Iterator[tuple[str, Found]]:
    """The best path of each utterance's CTC lattice, by cut id.

    Utterances are searched `batch_frames` frames at a time, in order; beams are in nats.
    """
    topo = k2.ctc_topo(vocab_size - 1, modified=False)
    for batch in _batches(utterances, batch_frames):
        full = [(cut_id, log_probs) for cut_id, log_probs in batch if len(log_probs) > 0]
        paths = iter(_best_paths(topo, [p for _, p in full], search_beam, output_beam, max_active) if full else [])
        for cut_id, log_probs in batch:
            # k2 prunes an utterance of no frames to an empty lattice: its best path is the empty one
            yield cut_id, next(paths) if len(log_probs) > 0 else NOTHING


def _best_paths(
    topo: Any, log_probs: list[np.ndarray], search_beam: float, output_beam: float, max_active: int
) -> list[Found]:
    """Each utterance's best path."""
    lengths = torch.tensor([len(p) for p in log_probs], dtype=torch.int32)
    order = torch.argsort(lengths, descending=True, stable=True)  # DenseFsaVec wants them longest first
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(p) for p in log_probs], batch_first=True)
    segments = torch.stack([order.to(torch.int32), torch.zeros_like(lengths), lengths[order]], dim=1)
    dense = k2.DenseFsaVec(padded.clamp(min=-1e9), segments)
    lattice = k2.intersect_dense_pruned(
        topo,
        dense,
        search_beam=search_beam,
        output_beam=output_beam,
        min_active_states=30,
        max_active_states=max_active,
    )
    best = k2.shortest_path(lattice, use_double_scores=True)
    scores = best.get_tot_scores(use_double_scores=True, log_semiring=False)
    results: dict[int, Found] = {}
    for rank, index in enumerate(order.tolist()):
        labels = best[rank].labels.numpy()
        path = labels[labels >= 0].astype(np.int64)  # the last arc carries -1
        whole = len(path) == len(log_probs[index])
        pruned = NOTHING._replace(failure="no path survives the beam")
        results[index] = Found(*collapse(path), float(scores[rank])) if whole else pruned
    return [results[i] for i in range(len(log_probs))]


def _batches(utterances: Iterable[tuple[str, np.ndarray]], batch_frames: int) -> Iterator[list[tuple[str, np.ndarray]]]:
    """Consecutive utterances whose padded size stays within batch_frames; at least one each."""
    stream = iter(utterances)
    batch: list[tuple[str, np.ndarray]] = list(islice(stream, 1))
    for item in stream:
        longest = max(len(item[1]), max(len(p) for _, p in batch))
        if longest * (len(batch) + 1) > batch_frames:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
