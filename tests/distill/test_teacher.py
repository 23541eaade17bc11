"""Who teaches: the own exit, under the same view or the other, a checkpoint, an archive; and every method's file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import EXITS, IDS, LABELS, features, tiny_model

from ctcsd.config import method_config, method_file
from ctcsd.distill import Objective
from ctcsd.distill.objective import Labels
from ctcsd.distill.teacher import ArchiveTeacher, CheckpointTeacher, make_teacher
from ctcsd.errors import UserError
from ctcsd.model import ExitOutput
from ctcsd.posteriors import PosteriorReader, PosteriorWriter
from ctcsd.text.tokenizer import TokenTable
from ctcsd.train.method import make_objective, with_dependencies

TABLE = TokenTable(["<blk>", "\u2581", "a", "b", "c"])
METHODS = sorted(path.stem for path in method_file("ctc").parent.glob("*.yaml"))


def write(path: Path, rows: dict[str, np.ndarray], **options: float) -> PosteriorReader:
    with PosteriorWriter(path, TABLE, **options) as writer:
        for cut_id, log_probs in rows.items():
            writer.write(cut_id, log_probs)
    return PosteriorReader(path)


def posteriors(output: ExitOutput) -> dict[str, np.ndarray]:
    log_probs = output.logits.detach().log_softmax(-1).numpy()
    return {cut_id: rows[:n] for cut_id, rows, n in zip(IDS, log_probs, output.lengths.tolist())}


def test_checkpoint_teacher_is_frozen_and_cut_to_the_shorter() -> None:
    frozen = tiny_model(1, exits={"teacher": 2})
    teacher = make_teacher("checkpoint", EXITS, lambda: frozen)
    assert isinstance(teacher, CheckpointTeacher) and not frozen.training
    student = tiny_model(0)
    outputs = student(*features())
    posteriors = teacher(*features(), IDS, outputs)
    assert not posteriors.logits.requires_grad
    objective = Objective({"kd": 1.0}, EXITS, reduction="per_frame")
    longer = ExitOutput(torch.cat([posteriors.logits, posteriors.logits[:, -1:]], 1), posteriors.lengths + 1)
    weights = objective.schedule.at(1, 2, 0.0)
    a, _ = objective(outputs, LABELS, posteriors, weights)
    b, _ = objective(outputs, LABELS, longer, weights)
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("kind", "exits", "message"),
    [
        ("self", {"student": 1}, "needs an exit 'teacher'"),
        ("self", {"teacher": 1}, "needs an exit 'student'"),
        ("checkpoint", EXITS, "needs distill.checkpoint"),
        ("archive", EXITS, "needs distill.archive"),
        ("view", {"teacher": 1}, "needs an exit 'student'"),
        ("checkpiont", EXITS, "no teacher 'checkpiont'"),
    ],
)
def test_bad_teachers(kind: str, exits: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_teacher(kind, exits)


def test_a_live_teacher_of_other_mel_bins() -> None:
    """78 and 80 bins are as many after subsampling: it would read them without a word."""
    with pytest.raises(UserError, match="the teacher reads 78 mel bins, the student 80: set features.num_mel_bins=78"):
        make_teacher("checkpoint", EXITS, lambda: tiny_model(num_mel_bins=78))
    assert make_teacher("checkpoint", EXITS, lambda: tiny_model(num_mel_bins=78), num_mel_bins=78)


def test_the_other_view_is_half_a_batch_away() -> None:
    x, lengths = features()
    outputs = tiny_model()(torch.cat([x, x + 1.0]), lengths.repeat(2))
    same, other = (make_teacher(kind, EXITS) for kind in ("self", "self_view"))
    assert same and other
    a, b = (teacher(x, lengths, IDS * 2, outputs) for teacher in (same, other))
    assert not a.logits.requires_grad and not b.logits.requires_grad
    assert torch.equal(b.logits[:3], a.logits[3:]) and torch.equal(b.logits[3:], a.logits[:3])
    assert torch.equal(b.lengths, outputs["teacher"].lengths)


def test_cr_ctc_is_the_papers_formula() -> None:
    x, lengths = features()
    model = tiny_model(layers=1, exits={"student": 1})
    outputs = model(torch.cat([x, x.flip(2)]), lengths.repeat(2))
    cfg = method_config("cr_ctc", overrides=["student_layers=1"])
    labels = Labels(LABELS.targets.repeat(2, 1), LABELS.lengths.repeat(2))
    teacher = make_teacher(cfg.distill.teacher, model.exits)
    assert teacher
    loss, _ = make_objective(cfg)(outputs, labels, teacher(x, lengths, IDS, outputs), {"ctc_student": 1.0, "kd": 0.2})
    logits, frames = outputs["student"]
    log_probs = logits.log_softmax(-1)
    wanted = torch.zeros(())
    for view in (slice(0, 3), slice(3, 6)):
        by_torch = torch.nn.functional.ctc_loss(
            log_probs[view].transpose(0, 1), LABELS.targets, frames[view], LABELS.lengths, reduction="sum"
        )
        wanted = wanted + 0.5 * by_torch
    for n in range(3):
        a, b = (log_probs[n + shift, : int(frames[n])] for shift in (0, 3))
        wanted = wanted + 0.2 * 0.5 * (b.exp() * (b - a) + a.exp() * (a - b)).sum()
    torch.testing.assert_close(loss, wanted / 6)


def test_an_archive_is_the_checkpoint_that_wrote_it(tmp_path: Path) -> None:
    frozen, student = tiny_model(1, exits={"teacher": 2}), tiny_model(0)
    outputs = student(*features())
    live = make_teacher("checkpoint", EXITS, lambda: frozen)
    assert live
    given = live(*features(), IDS, outputs)
    alone = {}  # each cut by itself, as another batch composition of stage 4
    for cut_id, x, length in zip(IDS, *features()):
        output = frozen(x[None, :length], length[None])["teacher"]
        alone[cut_id] = output.logits[0].detach().log_softmax(-1).numpy()
    stored = make_teacher("archive", EXITS, archive=lambda: write(tmp_path / "archive", alone))
    assert stored
    for pattern in ("all", "nonblank", "symmetric:1"):
        objective = Objective({"lambda": 0.25}, ["student"], pattern, "kl", 2.0, "per_frame")
        weights = objective.schedule.at(1, 2, 0.0)
        outputs = {"student": student(*features())["student"]}
        a, _ = objective(outputs, LABELS, given, weights)
        b, _ = objective(outputs, LABELS, stored(*features(), IDS, outputs), weights)
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_top_k_archive_spreads_the_rest_evenly(tmp_path: Path) -> None:
    rows = {"a": np.log(np.array([[0.5, 0.3, 0.1, 0.06, 0.04], [0.0, 0.0, 1.0, 0.0, 0.0]], np.float32) + 1e-9)}
    found = np.exp(write(tmp_path / "top2", rows, top_k=2).read("a"))
    np.testing.assert_allclose(found[0], [0.5, 0.3, 0.2 / 3, 0.2 / 3, 0.2 / 3], atol=1e-6)
    np.testing.assert_allclose(found[1], [0, 0, 1, 0, 0], atol=1e-6)
    full = write(tmp_path / "full", rows, top_k=5)
    np.testing.assert_array_equal(full.read("a"), rows["a"])
    assert dict(full)["a"].shape == (2, 5)


def test_a_teacher_of_half_the_frame_shift_is_averaged(tmp_path: Path) -> None:
    outputs = tiny_model()(*features())
    fine = {}
    for cut_id, rows in posteriors(outputs["teacher"]).items():
        swing = np.stack([rows * 0.0 + np.log(0.2), rows], 1).reshape(-1, 5)
        fine[cut_id] = swing
    given = ArchiveTeacher(write(tmp_path / "fine", fine, frame_shift=0.02))(*features(), IDS, outputs)
    wanted = 0.5 * outputs["teacher"].logits.softmax(-1) + 0.1
    for n, length in enumerate(outputs["teacher"].lengths.tolist()):
        torch.testing.assert_close(given.logits[n, :length].exp(), wanted[n, :length].detach())


def test_archives_that_do_not_fit(tmp_path: Path) -> None:
    outputs = tiny_model()(*features())
    rows = posteriors(outputs["teacher"])
    with pytest.raises(UserError, match="every 30 ms, which does not divide 40 ms"):
        ArchiveTeacher(write(tmp_path / "odd", rows, frame_shift=0.03))
    teacher = ArchiveTeacher(write(tmp_path / "short", {**rows, "b": rows["b"][:2]}))
    with pytest.raises(UserError, match="the cut b has 2 frames, but the student 7"):
        teacher(*features(), IDS, outputs)
    del rows["c"]
    with pytest.raises(UserError, match="lacks the cut c"):
        ArchiveTeacher(write(tmp_path / "less", rows))(*features(), IDS, outputs)
    (tmp_path / "lang").mkdir()
    (tmp_path / "lang" / "tokens.txt").write_text("<blk> 0\na 1\n")
    with pytest.raises(UserError, match="another token table"):
        PosteriorReader(tmp_path / "less", tmp_path / "lang")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_file_makes_a_finite_loss(method: str, tmp_path: Path) -> None:
    base = tmp_path / "corpus.yaml"
    base.write_text("{student_layers: 1, model: {layers: 2}}")
    cfg = method_config(method, [base])
    objective = make_objective(cfg)
    model = tiny_model(exits=cfg.model.exits, layers=cfg.model.layers, self_conditioned=cfg.model.self_conditioned)
    x, lengths = features()
    views = cfg.augment.views
    outputs = model(torch.cat([x + 0.1 * view for view in range(views)]), lengths.repeat(views))
    labels = Labels(LABELS.targets.repeat(views, 1), LABELS.lengths.repeat(views)) if objective.needs_labels else None
    teacher = make_teacher(cfg.distill.teacher, model.exits, lambda: tiny_model(3, exits={"teacher": 2}))
    taught = teacher(x, lengths, IDS, outputs) if teacher else None
    loss, _ = objective(outputs, labels, taught, objective.schedule.at(2, 4, 0.3))
    loss.backward()
    assert math.isfinite(loss.item()) and abs(loss.item()) > 0
    assert all(p.grad is not None for p in model.parameters()), "a parameter that nothing trains"
    assert (labels is None) == (method == "kd_label_free")


def test_methods_come_after_what_they_depend_on(tmp_path: Path) -> None:
    ordered = with_dependencies(["kd_full", "ctc", "layer_prune"], method_config)
    assert list(ordered) == ["ctc_teacher", "kd_full", "ctc", "layer_prune"]
    assert list(with_dependencies(["ctc_teacher", "sfmx_kd"], method_config)) == ["ctc_teacher", "sfmx_kd"]
    variant = "kd_symmetric+distill.frames=symmetric:4+weights.lambda=0.9"
    made = with_dependencies([variant], method_config)[variant]
    assert (made.method, made.distill.frames, made.weights["lambda"]) == (variant, "symmetric:4", 0.9)
    loop = tmp_path / "loop.yaml"
    loop.write_text(f"depends: {loop}\nmodel.exits: {{student: 1}}\nweights: {{ctc_student: 1}}\n")
    with pytest.raises(UserError, match="depend on each other"):
        with_dependencies([str(loop)], method_config)
    own = tmp_path / "ctc.yaml"
    own.write_text("model.exits: {student: 1}\nweights: {ctc_student: 1}\n")
    with pytest.raises(UserError, match="two methods are called 'ctc'"):
        with_dependencies(["ctc", str(own)], method_config)
