"""Frame selection against scipy's morphology and brute force."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import binary_dilation

from ctcsd.distill import select_frames
from ctcsd.errors import UserError


def random_batch(seed: int, n: int = 6, t: int = 40, v: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probs with blanks in the majority, lengths with 0 and T among them, and the non-blank mask by brute force."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((n, t, v), generator=generator) * 2
    logits[..., 0] += 2.5
    lengths = torch.randint(0, t + 1, (n,), generator=generator)
    lengths[0], lengths[-1] = t, 0
    log_probs = logits.log_softmax(-1)
    nonblank = torch.tensor(
        [[i < int(lengths[u]) and int(log_probs[u, i].argmax()) != 0 for i in range(t)] for u in range(n)]
    )
    return log_probs, lengths, nonblank


@pytest.mark.parametrize("k", [0, 1, 2, 6])
def test_symmetric_is_scipys_dilation(k: int) -> None:
    for seed in range(200):
        log_probs, lengths, nonblank = random_batch(seed)
        found = select_frames(log_probs, lengths, f"symmetric:{k}")
        for u, length in enumerate(lengths.tolist()):
            row = nonblank[u, :length].numpy()
            wanted = binary_dilation(row, iterations=k) if k and length else row
            assert found[u, :length].tolist() == wanted.tolist()
            assert not found[u, length:].any()


def test_all_nonblank_trim_and_threshold_by_brute_force() -> None:
    for seed in range(200):
        log_probs, lengths, nonblank = random_batch(seed)
        for u, length in enumerate(lengths.tolist()):
            spikes = [i for i in range(length) if nonblank[u, i]]
            wanted = {
                "all": set(range(length)),
                "nonblank": set(spikes),
                "trim": set(range(spikes[0], spikes[-1] + 1)) if spikes else set(),
                "threshold:0.2": {i for i in range(length) if nonblank[u, i] or 1 - log_probs[u, i, 0].exp() >= 0.2},
            }
            for pattern, frames in wanted.items():
                row = select_frames(log_probs, lengths, pattern)[u]
                assert set(row.nonzero()[:, 0].tolist()) == frames, pattern


@pytest.mark.parametrize("b", [0.0, 0.25, 1.0, 100.0])
def test_random_counts_and_redraws(b: float) -> None:
    log_probs, lengths, nonblank = random_batch(3)
    draws = [select_frames(log_probs, lengths, f"random:{b}", torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]), "the same seed draws the same frames"
    for found in draws:
        assert (found & nonblank).equal(nonblank)
        for u, length in enumerate(lengths.tolist()):
            blanks = length - int(nonblank[u].sum())
            wanted = min(blanks, round(b * int(nonblank[u].sum())))
            assert int((found[u] & ~nonblank[u]).sum()) == wanted
            assert not found[u, length:].any()
    if b == 1.0:
        assert not torch.equal(draws[0], draws[2])
        generator = torch.Generator().manual_seed(1)
        steps = [select_frames(log_probs, lengths, "random:1", generator) for _ in range(2)]
        assert not torch.equal(*steps), "redrawn at every step"


def test_random_is_uniform_over_the_blank_frames() -> None:
    log_probs = torch.full((1, 10, 2), -5.0)
    log_probs[:, :, 0] = -0.01
    log_probs[:, :2] = torch.tensor([-5.0, -0.01])
    generator = torch.Generator().manual_seed(0)
    counts = sum(select_frames(log_probs, torch.tensor([10]), "random:1", generator)[0].long() for _ in range(4000))
    assert counts[:2].tolist() == [4000, 4000]
    assert (counts[2:] - 1000).abs().max() < 120, "each of 8 blank frames is drawn a quarter of the time"


def test_partial_runs_from_all_to_nonblank() -> None:
    log_probs, lengths, nonblank = random_batch(5)
    assert select_frames(log_probs, lengths, "partial:0").equal(select_frames(log_probs, lengths, "all"))
    assert select_frames(log_probs, lengths, "partial:1").equal(nonblank)
    half = select_frames(log_probs, lengths, "partial:0.5")
    for u, length in enumerate(lengths.tolist()):
        blanks = length - int(nonblank[u].sum())
        assert int((half[u] & ~nonblank[u]).sum()) == round(0.5 * blanks)


def test_nonblank_prior() -> None:
    log_probs = torch.tensor([[[0.6, 0.3, 0.1], [0.9, 0.05, 0.05], [0.2, 0.1, 0.7]]]).log()
    lengths = torch.tensor([3])
    assert select_frames(log_probs, lengths, "nonblank_prior:0").tolist() == [[False, False, True]]
    own = select_frames(log_probs, lengths, "nonblank_prior:1")  # with the prior of these frames: 0.57, 0.15, 0.28
    shared = select_frames(log_probs, lengths, "nonblank_prior:1", total=torch.ones_like)  # of a batch: all alike
    assert (own.tolist(), shared.tolist()) == ([[True, False, True]], [[False, False, True]])


@pytest.mark.parametrize("pattern", ["symmetric:2", "trim", "threshold:0.1", "nonblank_prior:0.5"])
def test_batch_composition_and_padding_change_nothing(pattern: str) -> None:
    log_probs, lengths, _ = random_batch(9)

    def shared(own: torch.Tensor) -> torch.Tensor:
        """One prior, whatever is selected from."""
        return torch.tensor([0.6, 0.1, 0.1, 0.1, 0.1])

    together = select_frames(log_probs, lengths, pattern, total=shared)
    for u, length in enumerate(lengths.tolist()):
        alone = select_frames(log_probs[u : u + 1, :length], lengths[u : u + 1], pattern, total=shared)
        assert alone[0].tolist() == together[u, :length].tolist()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("symetric:2", "did you mean 'symmetric'"),
        ("zzz", "known: all, nonblank, symmetric"),
        ("symmetric", "needs a number"),
        ("symmetric:x", "needs a number"),
        ("all:3", "takes no value"),
        ("symmetric:2.5", "k must be a whole number of frames"),
        ("threshold:1.5", "between 0 and 1"),
        ("partial:-1", "between 0 and 1"),
    ],
)
def test_misspelt_patterns(pattern: str, message: str) -> None:
    log_probs, lengths, _ = random_batch(0)
    with pytest.raises(UserError, match=message):
        select_frames(log_probs, lengths, pattern)
