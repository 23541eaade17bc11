"""The shared encoder: exits, truncation, padding and batch composition."""

from __future__ import annotations

import pytest
import torch

from ctcsd.config import ModelConfig
from ctcsd.errors import UserError
from ctcsd.model import SharedEncoderCtc
from ctcsd.model.conformer import Attention, DepthwiseConv, attend, rotary_tables, rotate
from ctcsd.model.subsampling import normalize_utterance, subsampled_length

CFG = ModelConfig(
    layers=4, dim=32, heads=4, conv_kernel=7, subsampling_channels=4, vocab_size=11, exits={"student": 2, "teacher": 4}
)


def model(seed: int = 0, **changes) -> SharedEncoderCtc:
    torch.manual_seed(seed)
    made = SharedEncoderCtc(CFG.replace(**changes)).eval()
    with torch.no_grad():  # as if trained: a fresh encoder's branches are all zero, and would hide what they do
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def test_a_fresh_encoder_starts_as_a_shallow_one() -> None:
    fresh = SharedEncoderCtc(CFG).eval()
    x = torch.randn(2, 9, 32)
    mask, keep = torch.ones(2, 1, 1, 9, dtype=torch.bool), torch.ones(2, 9, 1)
    out = fresh.layers[0](x, mask, keep, rotary_tables(9, 32, 4, x))
    torch.testing.assert_close(out, torch.nn.functional.layer_norm(x, (32,)))


def test_shapes_and_lengths() -> None:
    for frames in (1, 2, 3, 4, 5, 99, 100, 101):
        outputs = model()(torch.randn(1, frames, 80), torch.tensor([frames]))
        assert list(outputs) == ["student", "teacher"]
        for output in outputs.values():
            assert output.logits.shape == (1, subsampled_length(frames), 11)
            assert output.lengths.tolist() == [subsampled_length(frames)] == [-(-frames // 4)]


@pytest.mark.parametrize("exit", ["student", "teacher"])
def test_truncation_is_bit_identical_and_holds_nothing_above(exit: str) -> None:
    full = model()
    x, lengths = torch.randn(3, 90, 80), torch.tensor([90, 41, 7])
    cut = full.truncate(exit)
    assert torch.equal(cut(x, lengths)[exit].logits, full(x, lengths)[exit].logits)
    assert torch.equal(full(x, lengths, exits=[exit])[exit].logits, full(x, lengths)[exit].logits)
    assert len(cut.layers) == CFG.exits[exit]
    assert list(cut.heads) == [exit]
    with torch.no_grad():
        next(full.parameters()).add_(1.0)
    assert not torch.equal(next(full.parameters()), next(cut.parameters())), "a truncated model stands alone"


def test_an_exit_computes_nothing_above_it() -> None:
    full = model()
    for layer in full.layers[2:]:
        layer.forward = None  # calling it would raise
    outputs = full(torch.randn(1, 20, 80), torch.tensor([20]), exits=["student"])
    assert list(outputs) == ["student"]


def test_padding_and_batch_composition_change_nothing() -> None:
    net = model()
    torch.manual_seed(1)
    utterances = [torch.randn(n, 80) * 3 + 5 for n in (1, 6, 37, 90, 91)]
    lengths = torch.tensor([len(u) for u in utterances])
    batch = torch.full((5, 120, 80), float("nan"))
    for row, u in zip(batch, utterances):
        row[: len(u)] = u
    together = net(batch, lengths)
    for i, u in enumerate(utterances):
        alone = net(u[None], lengths[i : i + 1])
        for name, output in alone.items():
            torch.testing.assert_close(
                together[name].logits[i, : output.lengths[0]], output.logits[0], atol=2e-5, rtol=1e-4
            )
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = net(batch[order], lengths[order])
    torch.testing.assert_close(permuted["teacher"].logits, together["teacher"].logits[order], atol=2e-5, rtol=1e-4)


def test_an_empty_utterance_harms_nobody() -> None:
    net = model()
    x = torch.randn(2, 20, 80, requires_grad=True)
    output = net(x, torch.tensor([20, 0]))["teacher"]
    output.logits[0].sum().backward()
    assert output.lengths.tolist() == [5, 0]
    assert torch.isfinite(output.logits).all() and torch.isfinite(x.grad).all()


def test_normalisation_is_per_utterance_and_bin() -> None:
    x = torch.randn(2, 50, 80) * torch.linspace(0.5, 4, 80) + torch.linspace(-9, 3, 80)
    mask = torch.arange(50) < torch.tensor([[50], [20]])
    y = normalize_utterance(x, mask)
    for n, length in enumerate((50, 20)):
        torch.testing.assert_close(y[n, :length].mean(0), torch.zeros(80), atol=1e-4, rtol=0)
        torch.testing.assert_close(y[n, :length].std(0, correction=0), torch.ones(80), atol=5e-3, rtol=0)
    assert y[1, 20:].abs().max() == 0


def test_depthwise_convolution_is_conv1d() -> None:
    torch.manual_seed(0)
    fast, plain = DepthwiseConv(6, 5), torch.nn.Conv1d(6, 6, 5, padding=2, groups=6)
    with torch.no_grad():
        plain.weight.copy_(fast.conv.weight[:, :, 0])
        plain.bias.copy_(fast.conv.bias)
    x = torch.randn(3, 17, 6, requires_grad=True)
    wanted = plain(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(fast(x), wanted, atol=1e-6, rtol=1e-5)
    weights = torch.randn_like(wanted)
    (a,) = torch.autograd.grad((fast(x) * weights).sum(), x)
    (b,) = torch.autograd.grad((wanted * weights).sum(), x)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="odd"):
        DepthwiseConv(6, 4)


def test_depthwise_convolution_on_a_cpu_is_never_in_bf16() -> None:
    """Making oneDNN's bf16 kernel hangs for an odd number of utterances and an even one of frames."""
    conv, seen = DepthwiseConv(6, 5), []
    conv.conv.register_forward_pre_hook(lambda module, given: seen.append((given[0].dtype, module.weight.dtype)))
    x = torch.randn(3, 18, 6, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    y.sum().backward()
    assert seen == [(torch.float32, torch.float32)]
    assert y.dtype == x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(y, conv(x.float()).bfloat16(), atol=0, rtol=0)


def test_rotary_scores_depend_on_the_distance_only() -> None:
    a, b = (torch.randn(1, 1, 8).expand(1, 30, 8) for _ in "ab")  # of one head of width 8: of the query, of the key
    turned = torch.cat(rotate(a, b, rotary_tables(30, 8, 1, a)), dim=-1)[0]
    turned_q, turned_k = turned.unflatten(1, (2, 2, 4)).unbind(2)
    scores = turned_q.flatten(1) @ turned_k.flatten(1).T
    for distance in range(-5, 6):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)


def plain_attention(module: Attention, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Utterance by utterance, head by head, frame by frame turned as complex numbers; (N, T, D), 0 where padded."""
    d, width = x.size(2), x.size(2) // module.heads
    rates = 10000.0 ** (-torch.arange(0, width, 2) / width)
    rows = []
    for features, length in zip(x, lengths.tolist()):
        turns = torch.polar(torch.ones(()), torch.arange(length)[:, None] * rates)
        heads = module.qkv(module.norm(features[:length])).view(length, 3, module.heads, width).unbind(1)
        found = []
        for q, k, v in zip(*(part.unbind(1) for part in heads)):
            q, k = (torch.complex(*part.chunk(2, dim=-1)) * turns for part in (q, k))
            found.append(((q @ k.conj().T).real / width**0.5).softmax(-1) @ v)
        rows.append(torch.nn.functional.pad(module.out(torch.cat(found, dim=-1)), (0, 0, 0, x.size(1) - length)))
    return torch.stack(rows).view(-1, x.size(1), d)


@pytest.mark.parametrize(("bits", "tolerance"), [("fp32", 1e-5), ("bf16", 0.02)])
def test_attention_and_its_gradients_are_those_written_out(
    bits: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module = Attention(24, 4, 0.0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    lengths = torch.tensor([37, 20, 1])
    x = torch.randn(3, 37, 24, requires_grad=True)
    valid = torch.arange(37) < lengths[:, None]
    wanted = plain_attention(module, x, lengths)
    with torch.autocast("cpu", torch.bfloat16, enabled=bits == "bf16"):
        tables = rotary_tables(37, 24, 4, x)
        if bits == "bf16":
            monkeypatch.delattr(torch.nn.functional, "scaled_dot_product_attention")
            tables = tables[0].bfloat16(), tables[1].bfloat16()
        found = module(x, valid[:, None, None], tables).float() * valid[..., None]
    weights = torch.randn_like(wanted)
    inputs = [x, *module.parameters()]
    pairs = [(found, wanted)]
    pairs += zip(*(torch.autograd.grad((y * weights).sum(), inputs) for y in (found, wanted)))
    for a, b in pairs:
        assert (a - b).norm() <= tolerance * b.norm()


@pytest.mark.parametrize("frames", [1, 31, 32, 70])
def test_attention_in_bf16_trains_with_what_it_recognises_with(frames: int) -> None:
    """The products of a training on a CPU against the fused kernel, at any number of keys; padding weighs nothing."""
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, frames, 6, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    exact = [tensor.detach().float().requires_grad_() for tensor in inputs]
    mask = torch.ones(2, 1, 1, frames, dtype=torch.bool)
    mask[1, ..., frames // 2 + 1 :] = False
    found, wanted = attend(*inputs, mask, training=True), attend(*exact, mask, training=True)
    torch.testing.assert_close(found, attend(*inputs, mask, training=False), atol=0.02, rtol=0.02)
    gradients = (torch.autograd.grad(y.float().square().sum(), x) for y, x in ((found, inputs), (wanted, exact)))
    for a, b in zip(*gradients):
        assert (a - b).norm() <= 0.03 * b.norm() + 1e-6
    q, k, v = (tensor.detach().clone() for tensor in inputs)
    v[1, :, frames // 2 + 1 :] = 1e9
    assert torch.equal(attend(q, k, v, mask, training=True), found)


def test_attention_over_a_long_utterance_keeps_no_square(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor) -> torch.Tensor:
        asked.append(k.size(2))
        return v

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused)
    for frames in (1500, 1501):
        q = torch.randn(1, 1, frames, 2, dtype=torch.bfloat16)
        attend(q, q, q, torch.ones(1, 1, 1, frames, dtype=torch.bool), training=True)
    assert asked == [1501]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exits": {}}, "the model has no exit"),
        ({"exits": {"student": 5}}, "layers 1 to 4"),
        ({"exits": {"student": 0}}, "layers 1 to 4"),
        ({"vocab_size": 1}, "at least one token"),
    ],
)
def test_bad_sizes(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model(**changes)


def test_unknown_exit() -> None:
    with pytest.raises(UserError, match="no exit 'studnet' in this model, which has: student, teacher"):
        model().truncate("studnet")
