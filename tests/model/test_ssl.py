"""Pretrained encoders against transformers itself: states, truncation, padding, masks, freezing, bad checkpoints."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from backbones import KINDS, write_backbone
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from ctcsd.config import ModelConfig, TrainConfig
from ctcsd.errors import UserError
from ctcsd.model import EncoderCtc, make_model
from ctcsd.model.ssl import SslCtc
from ctcsd.train.checkpoint import load_model, save_model
from ctcsd.train.optim import make_optimizer

EXITS = {"student": 2, "teacher": 3}
LENGTHS = (12345, 20000, 390, 7000)  # 390 samples are less than one frame


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("hub")
    return {kind: write_backbone(folder / kind, kind) for kind in KINDS}


def config(backbone: str, **changes) -> ModelConfig:
    return ModelConfig(backbone=backbone, layers=3, vocab_size=7, exits=EXITS).replace(**changes)


def build(backbone: str, **changes) -> SslCtc:
    torch.manual_seed(1)
    made = make_model(config(backbone, **changes)).eval()
    assert isinstance(made, SslCtc)
    return made


def waves() -> tuple[Tensor, Tensor]:
    """A batch with padding that is not to be looked at."""
    torch.manual_seed(2)
    batch = torch.full((len(LENGTHS), max(LENGTHS) + 500), float("nan"))
    for row, length in zip(batch, LENGTHS):
        row[:length] = torch.randn(length).cumsum(0) * 0.01 + 0.3
    return batch, torch.tensor(LENGTHS)


@pytest.mark.parametrize("kind", KINDS)
def test_an_exit_is_the_last_state_of_a_checkpoint_of_so_many_layers(checkpoints: dict[str, str], kind: str) -> None:
    model, (batch, lengths) = build(checkpoints[kind]), waves()
    wave = batch[0, : LENGTHS[0]]
    normalized = (wave - wave.mean()) / torch.sqrt(wave.var(correction=0) + 1e-7)
    whole = transformers.AutoModel.from_pretrained(checkpoints[kind]).eval()
    for name, layer in EXITS.items():
        theirs = transformers.AutoModel.from_pretrained(checkpoints[kind], num_hidden_layers=layer).eval()
        with torch.inference_mode():
            state = theirs(normalized[None]).last_hidden_state
            if not model.final_norm:
                assert torch.equal(state, whole(normalized[None], output_hidden_states=True).hidden_states[layer])
            wanted = model.heads[name](state)
            given = model(batch, lengths)[name]
        assert given.lengths[0] == wanted.size(1)
        torch.testing.assert_close(given.logits[:1, : wanted.size(1)], wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_batch_composition_change_nothing(checkpoints: dict[str, str], kind: str) -> None:
    model, (batch, lengths) = build(checkpoints[kind]), waves()
    together = model(batch, lengths)
    for i, length in enumerate(LENGTHS):
        alone = model(batch[i : i + 1, :length], lengths[i : i + 1])
        for name, output in alone.items():
            frames = int(output.lengths[0])
            assert frames == int(together[name].lengths[i]) == model.frames(length)
            torch.testing.assert_close(
                together[name].logits[i, :frames], output.logits[0, :frames], atol=2e-5, rtol=1e-4
            )
    assert int(together["student"].lengths[2]) == 0
    sum(output.logits.sum() for output in together.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exit", EXITS)
def test_truncation_is_bit_identical_and_holds_nothing_above(checkpoints: dict[str, str], kind: str, exit: str) -> None:
    full, (batch, lengths) = build(checkpoints[kind]), waves()
    cut = full.truncate(exit)
    assert torch.equal(cut(batch, lengths)[exit].logits, full(batch, lengths)[exit].logits)
    assert torch.equal(full(batch, lengths, [exit])[exit].logits, full(batch, lengths)[exit].logits)
    assert list(cut.heads) == [exit] and len(cut.backbone.encoder.layers) == EXITS[exit]
    assert cut.num_parameters() < full.num_parameters()
    assert not any(f"encoder.layers.{EXITS[exit]}." in key for key in cut.state_dict())


def test_an_exit_computes_nothing_above_it(checkpoints: dict[str, str]) -> None:
    full, (batch, lengths) = build(checkpoints["wavlm-large"]), waves()
    full.backbone.encoder.layers[2].forward = None  # calling it would raise
    assert list(full(batch, lengths, ["student"])) == ["student"]


def test_a_folder_is_all_that_a_saved_model_needs(checkpoints: dict[str, str], tmp_path: Path) -> None:
    source = shutil.copytree(checkpoints["hubert"], tmp_path / "hub")
    model = build(str(source))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(
        f"model: {{backbone: {source}, layers: 3, vocab_size: 7, exits: {{student: 2, teacher: 3}}}}"
    )
    save_model(model, run, "tokens")
    shutil.rmtree(source)
    loaded, _ = load_model(run, "tokens")
    batch, lengths = waves()
    assert torch.equal(loaded(batch, lengths)["teacher"].logits, model(batch, lengths)["teacher"].logits)
    assert not any(path.suffix in (".safetensors", ".bin") for path in (run / "backbone").iterdir())
    assert set(load_file(run / "model.safetensors")) == set(model.state_dict())


@settings(deadline=None, max_examples=60)
@given(length=st.integers(0, 100_000), pool=st.integers(1, 3))
def test_frames_of_samples_are_those_of_the_convolutions(length: int, pool: int) -> None:
    model = object.__new__(SslCtc)
    torch.nn.Module.__init__(model)
    model.cfg = ModelConfig(pool=pool)
    model.backbone = torch.nn.Module()
    model.backbone.config = transformers.HubertConfig()
    frames = length
    for kernel, stride in zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)):
        frames = len(range(0, frames - kernel + 1, stride))
    assert model.frames(length) == frames // pool
    assert model.frames(torch.tensor([length])).tolist() == [frames // pool]
    assert model.frames(model._shortest) == 1 and model.frames(model._shortest - 1) == 0


def test_pooled_frames_are_means_of_states(checkpoints: dict[str, str]) -> None:
    plain, pooled = build(checkpoints["hubert"]), build(checkpoints["hubert"], pool=2)
    batch, lengths = waves()
    assert (plain.frame_shift, pooled.frame_shift) == (0.02, 0.04)
    fine, coarse = plain(batch, lengths)["teacher"], pooled(batch, lengths)["teacher"]
    assert coarse.lengths.tolist() == [n // 2 for n in fine.lengths.tolist()]
    whole = 2 * coarse.logits.size(1)  # the heads are affine, so that means of states are means of logits
    torch.testing.assert_close(coarse.logits, fine.logits[:, :whole].unflatten(1, (-1, 2)).mean(2))


def test_masks_are_drawn_in_training_only_and_at_their_rate(checkpoints: dict[str, str]) -> None:
    model = build(checkpoints["hubert"], mask_prob=0.2, mask_width=5)
    torch.manual_seed(0)
    frames = torch.tensor([2000, 1500] * 20)
    spans = model._spans(frames, 2000)
    assert not spans[1, 1500:].any()
    share = spans.sum() / frames.sum()
    assert share == pytest.approx(1 - (1 - 0.2 / 5) ** 5, abs=0.01)  # of starts in each of the 5 frames up to here
    runs = re.findall("1+", "".join(map(str, spans[0].int().tolist())))
    assert min(map(len, runs[:-1])) == 5
    batch, lengths = waves()
    assert torch.equal(model(batch, lengths)["student"].logits, model(batch, lengths)["student"].logits)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.backbone.config.attention_dropout = 0.0
    masked = model.train()(batch, lengths)["student"].logits
    assert not torch.equal(masked, model.eval()(batch, lengths)["student"].logits)


def test_the_mask_is_the_checkpoints_embedding(checkpoints: dict[str, str]) -> None:
    model = build(checkpoints["hubert"], mask_prob=0.99, mask_width=1).train()
    batch, lengths = waves()
    model(batch, lengths)["student"].logits.sum().backward()
    stored = load_file(Path(checkpoints["hubert"]) / "model.safetensors")["masked_spec_embed"]
    assert torch.equal(model.backbone.masked_spec_embed.detach(), stored)
    assert model.backbone.masked_spec_embed.grad.abs().sum() > 0


def learning(model: EncoderCtc) -> set[str]:
    """Names of the parameters that get a gradient."""
    model.zero_grad()
    batch, lengths = waves()
    sum(output.logits.sum() for output in model(batch, lengths).values()).backward()
    return {name for name, p in model.named_parameters() if p.grad is not None}


def test_freezing_changes_what_it_says(checkpoints: dict[str, str]) -> None:
    model = build(checkpoints["hubert"]).train()
    names = {name for name, _ in model.named_parameters()}
    heads = {name for name in names if name.startswith("heads.")}
    front = {name for name in names if name.startswith("backbone.feature_extractor.")}
    assert front and learning(model) == names - front
    model.freeze_encoder(True)
    assert learning(model) == heads
    model.freeze_encoder(False)
    assert learning(model) == names - front
    model = build(checkpoints["hubert"], freeze_feature_encoder=False).train()
    assert learning(model) == names


def test_learning_rates_fall_with_the_depth(checkpoints: dict[str, str]) -> None:
    model = build(checkpoints["data2vec-audio"])
    optimizer, _ = make_optimizer(model, TrainConfig(lr=1.0, layer_decay=0.5, warmup=0.0, weight_decay=0.1), 10)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: g["initial_lr"] for g in optimizer.param_groups for p in g["params"]}
    decays = {names[id(p)]: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert set(rates) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert rates["heads.student.weight"] == rates["heads.teacher.bias"] == 1.0
    for layer, rate in enumerate((0.125, 0.25, 0.5)):
        assert rates[f"backbone.encoder.layers.{layer}.attention.q_proj.weight"] == rate
    assert rates["backbone.encoder.pos_conv_embed.layers.0.conv.weight"] == 0.0625
    assert rates["backbone.feature_projection.projection.weight"] == 0.0625
    assert decays["heads.student.weight"] == 0.1 and decays["heads.student.bias"] == 0.0


@pytest.mark.parametrize(("kind", "rate"), [("hubert-large", 1.0), ("hubert", 0.0625)])
def test_a_norm_behind_the_layers_learns_as_the_heads_do(checkpoints: dict[str, str], kind: str, rate: float) -> None:
    """In the base models, the norm of that name stands before the layers."""
    model = build(checkpoints[kind])
    optimizer, _ = make_optimizer(model, TrainConfig(lr=1.0, layer_decay=0.5, warmup=0.0), 10)
    norm = model.backbone.encoder.layer_norm.weight
    assert [g["initial_lr"] for g in optimizer.param_groups if any(p is norm for p in g["params"])] == [rate]


def test_gradient_checkpointing_gives_the_same_gradient(checkpoints: dict[str, str]) -> None:
    gradients = []
    for wanted in (False, True):
        model = build(checkpoints["wavlm"], gradient_checkpointing=wanted).train()
        torch.manual_seed(3)
        learning(model)
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_a_start_from_another_run(checkpoints: dict[str, str]) -> None:
    source, model = build(checkpoints["hubert"]), build(checkpoints["hubert"], layers=2, exits={"student": 2})
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1.0)
    assert model.start_from(source, "there") == 2
    for key, value in model.encoder_state().items():
        assert torch.equal(value, source.state_dict()[key])
    assert not torch.equal(model.heads["student"].weight, source.heads["student"].weight)
    with pytest.raises(UserError, match="the encoder of there has model.backbone="):
        build(checkpoints["wavlm"]).start_from(source, "there")


def test_what_is_no_checkpoint_is_one_line(checkpoints: dict[str, str], tmp_path: Path) -> None:
    def refused(backbone: str, message: str, **changes) -> None:
        with pytest.raises(UserError, match=message) as error:
            make_model(config(backbone, **changes))
        assert "\n" not in str(error.value)

    refused(checkpoints["hubert"], "model.layers=4, but .* has 3 layers", layers=4)
    refused(checkpoints["hubert"], "exit 'student' at layer 9", exits={"student": 9})
    refused(checkpoints["hubert"], "self_conditioned is for the conformer", self_conditioned=True)
    refused(str(tmp_path), "no checkpoint can be read")
    bare = shutil.copytree(checkpoints["hubert"], tmp_path / "bare")
    (bare / "model.safetensors").write_bytes((bare / "model.safetensors").read_bytes()[:5000])
    refused(str(bare), "no weights can be read")
    (bare / "model.safetensors").unlink()
    refused(str(bare), "no weights can be read")
    shutil.copy(Path(checkpoints["wav2vec2-large"]) / "model.safetensors", bare)
    assert make_model(config(checkpoints["hubert-large"]))
    other = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps({**other, "num_hidden_layers": 4}))
    refused(str(bare), "lacks weights, such as encoder.layers.3", layers=4, exits={"student": 4})
    (bare / "config.json").write_text(json.dumps({**other, "model_type": "bert"}))
    refused(str(bare), "is a bert; known: hubert, wavlm, wav2vec2, data2vec-audio")
    fast = write_backbone(tmp_path / "fast", "hubert", sampling_rate=8000)
    refused(fast, "wants audio at 8000 Hz, but all audio here is at 16000 Hz")
    (Path(fast) / "preprocessor_config.json").write_text("[]")
    refused(fast, "preprocessor_config.json: no JSON object")


@pytest.mark.parametrize("kind", ["hubert", "wavlm-large"])
def test_a_checkpoint_that_wants_no_normalisation_gets_none(tmp_path: Path, kind: str) -> None:
    model, (batch, lengths) = build(write_backbone(tmp_path, kind, do_normalize=False, sampling_rate=None)), waves()
    whole = transformers.AutoModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        wanted = model.heads["teacher"](whole(batch[:1, : LENGTHS[0]]).last_hidden_state)
        given = model(batch, lengths)["teacher"].logits[:1, : wanted.size(1)]
    torch.testing.assert_close(given, wanted, atol=2e-5, rtol=1e-4)


def test_a_fine_tuned_checkpoint_loses_its_head_with_a_line(
    checkpoints: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = transformers.HubertForCTC.from_pretrained(checkpoints["hubert"], vocab_size=9)
    tuned.save_pretrained(tmp_path)
    capsys.readouterr()
    model = make_model(config(str(tmp_path)))
    said = f"{tmp_path} was fine-tuned with CTC: its head (lm_head) is left out, the heads here are new\n"
    assert capsys.readouterr().out == said
    key = "encoder.layers.1.attention.q_proj.weight"
    assert torch.equal(model.backbone.get_parameter(key), tuned.hubert.get_parameter(key))
    make_model(config(checkpoints["hubert"]))
    assert not capsys.readouterr().out


def test_transformers_is_missing(checkpoints: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # an import of it then fails
    with pytest.raises(UserError, match=r"needs transformers: \S+ -m pip install -c \S+ transformers$"):
        make_model(ModelConfig(backbone=checkpoints["hubert"], layers=2, vocab_size=7))
