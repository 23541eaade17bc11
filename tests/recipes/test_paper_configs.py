"""The papers' configurations with shrunken sizes, on a stand-in of LibriSpeech: model, one batch through loss and
backward, greedy decoding."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from backbones import write_backbone
from console import REPOSITORY, ctcsd
from lhotse import CutSet, MonoCut, SupervisionSegment
from speech import clips
from stand_ins import librispeech_part, recipe_module

from ctcsd.config import Config, load_config, method_config
from ctcsd.data.batches import Batch, CtcDataset
from ctcsd.data.features import compute_features, lang_of_corpus, load_cuts
from ctcsd.data.integrity import READERS
from ctcsd.decode import search
from ctcsd.decode.greedy import collapse
from ctcsd.decode.run import search_options
from ctcsd.distill.objective import Labels
from ctcsd.distill.teacher import Teacher, make_teacher
from ctcsd.model import EncoderCtc, make_model
from ctcsd.posteriors import PosteriorReader, PosteriorWriter
from ctcsd.text.tokenizer import Tokenizer, TokenTable
from ctcsd.train.estimate import estimate, sizes
from ctcsd.train.method import check, make_objective

CONF = REPOSITORY / "egs" / "librispeech" / "conf"
A, B = CONF / "paper_a", CONF / "paper_b"
TABLE = TokenTable(["<blk>", "\u2581", "a", "b", "c"])
SMALL = ["model.dim=16", "model.heads=2", "model.conv_kernel=3", "model.subsampling_channels=2"]
PATTERNS = ["all", "nonblank", *(f"symmetric:{k}" for k in range(1, 7)), "trim", "nonblank_prior:0.5"]
PATTERNS += [f"threshold:{th}" for th in (0.05, 0.1, 0.2, 0.3)] + [f"random:{b}" for b in (0.25, 0.5, 0.75, 1, 2)]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny checkpoint of as many layers as the one that each configuration names."""
    folder = tmp_path_factory.mktemp("hub")
    layers = {"hubert": 12, "wavlm": 12, "hubert-large": 24}
    return {kind: write_backbone(folder / kind, kind, count) for kind, count in layers.items()}


class StandIn(NamedTuple):
    """Two utterances of real speech as stages 0 to 2 leave them, with and without features, and their characters."""

    cuts: CutSet
    tokenizer: Tokenizer

    def batch(self, input_type: str) -> Batch:
        return CtcDataset(self.tokenizer.encode, read=READERS[input_type])[self.cuts]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    folder, recipe, speech = tmp_path_factory.mktemp("corpus"), recipe_module("librispeech"), clips(6)
    for first, part in zip((0, 2, 4), ("train-clean-5", "dev-clean-2", "test-clean")):
        librispeech_part(folder / "LibriSpeech" / part, 84 + first, speech[first : first + 2])
    (folder / "LibriSpeech/SPEAKERS.TXT").write_text(";ID  |SEX| SUBSET\n")
    data, lang = folder / "data", folder / "lang"
    recipe.main(size=recipe.Size["mini"], dl_dir=folder, out=data, incomplete=True, jobs=1)
    cfg = load_config([CONF / "corpus.yaml"], ["lang.unit=char", "lang.lm_order=0", "features.speeds=[]"])
    cuts = load_cuts(compute_features(data, cfg, "train", 1), 1)
    lang_of_corpus(data, lang, cfg.lang)
    return StandIn(cuts, Tokenizer(lang))


def configuration(file: Path, method: str, *overrides: str) -> Config:
    cfg = method_config(method, [CONF / "corpus.yaml", file], overrides)
    check(cfg)
    assert cfg.data.decoded == ["dev", "test", "test_other"]
    cfg.model.vocab_size = len(TABLE)
    return cfg


def step(stand_in: StandIn, cfg: Config, teacher: Teacher | None = None, model: EncoderCtc | None = None) -> EncoderCtc:
    """Forward, loss, backward and decoding of one batch."""
    table = stand_in.tokenizer.table
    cfg.model.vocab_size = len(table)
    model = (model or make_model(cfg.model)).train()
    model.zero_grad()
    teacher = teacher or make_teacher(cfg.distill.teacher, model.exits)
    objective, batch = make_objective(cfg), stand_in.batch(model.input_type)
    outputs = model(batch.features, batch.lengths)
    posteriors = teacher(batch.features, batch.lengths, batch.cut_ids, outputs) if teacher else None
    weights = objective.schedule.at(1, cfg.passes, 0.0)
    labels = Labels(batch.targets, batch.target_lengths) if objective.needs_labels else None
    loss, parts = objective(outputs, labels, posteriors, weights)
    loss.backward()
    assert math.isfinite(float(loss.detach())) and float(loss.detach()) != 0.0
    assert ("kd" in parts) == (objective.schedule.base["kd"] > 0)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients) and any(g.any() for g in gradients)
    for output in model.eval()(batch.features, batch.lengths).values():
        for path, length in zip(output.logits.argmax(-1).numpy(), output.lengths.tolist()):
            assert set(table.text_of(collapse(path[:length])[0])) <= {" ", *table.symbols[2:]}
    return model


@pytest.mark.parametrize("backbone", ["hubert", "wavlm"])
def test_table_of_paper_a(backbones: dict[str, str], stand_in: StandIn, backbone: str) -> None:
    file, folder = A / f"{backbone}.yaml", f"model.backbone={backbones[backbone]}"
    top = step(stand_in, configuration(file, "ctc_teacher", folder))
    with torch.no_grad():
        for parameter in top.parameters():
            parameter.mul_(1.01)  # as if trained: no longer the checkpoint's
    methods = ("ctc", "layer_prune", "guide_ctc", "sfmx_kd", str(A / "skd.yaml"), str(A / "skd_masked.yaml"))
    models: dict[str, EncoderCtc] = {}  # of the same exits
    for method, layers in product(methods, (4, 6, 8, 10)):
        cfg = configuration(file, method, folder, f"student_layers={layers}")
        exits = cfg.model.exits
        assert exits == {"student": layers, **({"teacher": 12} if "skd" in method else {})}
        assert cfg.model.freeze_steps == 0.125
        separate = cfg.distill.teacher == "checkpoint"
        assert (cfg.depends == "ctc_teacher") == (separate or method == "layer_prune")
        teacher = None
        if separate:
            teacher = make_teacher("checkpoint", exits, lambda: top, None, top.input_type, top.frame_shift)
        model = models.get(str(exits)) or make_model(cfg.model.replace(vocab_size=top.cfg.vocab_size))
        if method == "layer_prune":
            assert model.start_from(top, "the teacher") == layers
            theirs = top.state_dict()
            assert all(torch.equal(value, theirs[name]) for name, value in model.encoder_state().items())
        models[str(exits)] = step(stand_in, cfg, teacher, model)
        assert len(model.backbone.encoder.layers) == max(exits.values())
    assert len(models) == 8


def test_grid_of_paper_b(backbones: dict[str, str], stand_in: StandIn, tmp_path: Path) -> None:
    large = f"model.backbone={backbones['hubert-large']}"
    teacher = step(stand_in, configuration(B / "teacher.yaml", "ctc_teacher", large))
    assert teacher.frame_shift == 0.04 and teacher.exits == {"teacher": 24}
    # A teacher that says something: blank on most frames, then a spike.
    table = stand_in.tokenizer.table
    with PosteriorWriter(tmp_path / "archive", table, teacher.frame_shift, top_k=3) as writer:
        for cut in stand_in.cuts:
            scores = np.full((teacher.frames(cut.num_samples), len(table)), -4.0, dtype=np.float32)
            scores[:, 0] = 0.0
            scores[5:9, 2] = 1.0
            log_probs = torch.tensor(scores).log_softmax(-1).numpy()
            writer.write(cut.id, log_probs)
    student = step(stand_in, configuration(B / "student.yaml", "ctc", *SMALL))
    assert len(student.layers) == 12
    archive = make_teacher("archive", student.exits, None, lambda: PosteriorReader(tmp_path / "archive"))
    for share, pattern in product((0.25, 0.9, 1.0), PATTERNS):
        method = f"{B / 'kd.yaml'}+weights.lambda={share}+distill.frames={pattern}"
        cfg = configuration(B / "student.yaml", method, *SMALL)
        assert cfg.distill.teacher == "archive" and cfg.distill.checkpoint and cfg.depends is None
        assert cfg.distill.top_k > 0
        step(stand_in, cfg, archive, student)


ARPA = """\\data\\
ngram 1=5
ngram 2=2
ngram 3=2
ngram 4=1

\\1-grams:
-99 <s> -0.3
-1 </s>
-1 CAT -0.3
-1 AT -0.3
-2 TAT

\\2-grams:
-0.1 <s> CAT -0.1
-0.1 CAT AT -0.1

\\3-grams:
-0.1 <s> CAT AT -0.1
-0.1 CAT AT </s>

\\4-grams:
-0.1 <s> CAT AT </s>

\\end\\
"""


def test_search_of_paper_b(tmp_path: Path) -> None:
    """Stage 2 and the search as student.yaml has them, from a lexicon and a 4-gram in the official files' layout."""
    (tmp_path / "lexicon.txt").write_text("CAT K AE1 T\nAT AE1 T\nTAT T AE1 T\n")
    (tmp_path / "4-gram.arpa").write_text(ARPA)
    (tmp_path / "manifests").mkdir()
    text = SupervisionSegment("x", "x", 0.0, 1.0, text="tat cat at")
    CutSet.from_cuts([MonoCut("x", 0.0, 1.0, 0, [text])]).to_file(tmp_path / "manifests" / "cuts_train.jsonl.gz")
    files = [f"lang.lexicon={tmp_path / 'lexicon.txt'}", f"lang.lm_arpa={tmp_path / '4-gram.arpa'}"]
    cfg = configuration(B / "student.yaml", "ctc", *SMALL, *files)
    lang_of_corpus(tmp_path, tmp_path / "lang", cfg.lang)
    table = TokenTable.load(tmp_path / "lang")
    assert table.symbols == ["<blk>", "AE", "K", "T", "T#"]
    scores = np.full((10, 5), -9.0, dtype=np.float32)
    for frame, tokens in enumerate(([0], [2, 3], [0], [1], [4], [0], [1], [0], [4], [0])):
        scores[frame, tokens] = 0.0
    scores[1, 3] = 0.5  # T rather than K, for the model alone
    with PosteriorWriter(tmp_path / "archive", table) as writer:
        writer.write("x", torch.tensor(scores).log_softmax(-1).numpy())
    np.save(tmp_path / "prior.npy", np.full(5, 0.2, dtype=np.float32))
    assert cfg.decode.methods == ["beam"]
    options = {**search_options("beam", cfg.decode), "prior": str(tmp_path / "prior.npy")}
    assert (options["lexicon"], options["lm_scale"], options["prior_scale"]) == (True, 0.5, 0.3)
    for lm_scale, words in ((options["lm_scale"], "cat at"), (0.0, "tat at")):
        reader = PosteriorReader(tmp_path / "archive", tmp_path / "lang")
        (found,) = search(reader, tmp_path / "lang", "beam", **{**options, "lm_scale": lm_scale})
        assert found.text == words


def test_the_costs_of_a_table(backbones: dict[str, str]) -> None:
    files = ["--config", CONF / "corpus.yaml", "--config", A / "hubert.yaml"]
    done = ctcsd("estimate", *files, "-m", "ctc", "-m", "guide_ctc", f"model.backbone={backbones['hubert']}")
    assert done.returncode == 0, done.stderr
    rows = {cells[1].strip(): cells[2:] for line in done.stdout.splitlines() if len(cells := line.split("|")) > 5}
    assert list(rows) == ["method", "---", "ctc", "ctc_teacher", "guide_ctc"]
    alone, teacher, distilled = (float(rows[name][1].replace(",", "")) for name in ("ctc", "ctc_teacher", "guide_ctc"))
    assert alone < distilled < alone + teacher
    cfg = configuration(A / "hubert.yaml", "ctc", f"model.backbone={backbones['hubert']}")
    made = make_model(cfg.model)
    assert sizes(cfg).num_parameters() == made.num_parameters()


def test_costs_follow_speeds_and_tokens(tmp_path: Path) -> None:
    cfg = configuration(B / "student.yaml", "ctc", *SMALL, "features.speeds=[]")
    copied = configuration(B / "student.yaml", "ctc", *SMALL, "features.speeds=[0.9,1.0,1.1]")
    plain, more = (estimate(each, lambda name: cfg, 960, 312, 0.3) for each in (cfg, copied))
    assert more.gflop_per_hour == plain.gflop_per_hour and more.memory_gib == plain.memory_gib
    for hours in ("gpu_hours", "forward_hours"):
        assert getattr(more, hours) == pytest.approx(getattr(plain, hours) * (1 / 0.9 + 1 + 1 / 1.1))
    assert plain.gpu_hours == pytest.approx(3 * cfg.train.epochs * plain.forward_hours)
    shares = (["devices=2"], ["nodes=2"], ["accumulate=2"], ["devices=2", "nodes=2", "accumulate=4"])
    of = [configuration(B / "student.yaml", "ctc", *SMALL, *(f"train.{key}" for key in keys)) for keys in shares]
    less = [plain.memory_gib - estimate(each, lambda name: cfg, 960, 312, 0.3).memory_gib for each in of]
    per_second = 2 * less[0] / cfg.data.max_duration
    assert per_second > 0 and less[1] == less[2] == less[0]
    assert less[3] == pytest.approx((cfg.data.max_duration - cfg.data.max_seconds) * per_second)
    eight = ("train.devices=8", "train.strategy=ddp"), ("train.devices=8", "train.strategy=fsdp")
    of = [configuration(B / "student.yaml", "ctc", *SMALL, *keys) for keys in eight]
    whole, dealt = (estimate(each, lambda name: cfg, 960, 312, 0.3).memory_gib * 2**30 for each in of)
    named = {name: parameter.numel() for name, parameter in sizes(cfg).named_parameters()}
    layer = sum(size for name, size in named.items() if name.startswith("layers.0."))
    outside = sum(size for name, size in named.items() if not name.startswith("layers."))
    assert whole - dealt == pytest.approx(sum(named.values()) * 16 * 7 / 8 - 8 * (outside + 2 * layer))
    symbols = ["<blk>", *(chr(0x4E00 + number) for number in range(4199))]
    (tmp_path / "tokens.txt").write_text(TokenTable(symbols).text, encoding="utf-8")
    corpus = ["--config", REPOSITORY / "egs" / "aishell" / "conf" / "corpus.yaml", "-m", "ctc", "--hours", 0.5]
    rows = []
    for places in ([], ["--lang", tmp_path]):
        done = ctcsd("estimate", *corpus, *places)
        assert done.returncode == 0, done.stderr
        rows.append([cell.strip() for cell in done.stdout.splitlines()[2].split("|")[1:-1]])
        assert all(float(cell) > 0 for cell in rows[-1][3:]), "half an hour of audio has a cost to be seen"
    few, many = (float(row[1].removeprefix("student ")) for row in rows)
    assert many - few == pytest.approx((4200 - 32) * (256 + 1) / 1e6, abs=0.06)
    assert float(rows[1][2].replace(",", "")) > float(rows[0][2].replace(",", ""))
