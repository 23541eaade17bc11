"""The configuration: merging, types, and errors that name the nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ctcsd.cli import app
from ctcsd.cli.app import run_config
from ctcsd.config import load_config, method_config, method_file, save_config
from ctcsd.errors import UserError
from ctcsd.train.method import check


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_order_interpolation_and_dotted_keys(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus.yaml", "student_layers: 3\nmodel: {layers: 6}\ntrain: {lr: 2.0e-3}\n")
    cfg = load_config([corpus, method_file("skd")], ["train.lr=0.5", "data.speaker=joe", "method=skd"])
    assert cfg.model.exits == {"student": 3, "teacher": 6}
    assert cfg.train.lr == 0.5
    assert cfg.data.speaker == "joe"
    assert cfg.weights["ramp"] == 0.5
    assert cfg.distill.teacher == "self"
    alone = load_config([corpus, method_file("ctc")])
    assert alone.model.layers == 3 and alone.model.exits == {"student": 3}
    deeper = load_config([corpus, method_file("skd")], ["student_layers=2", "weights.kd=0.5"])
    assert deeper.model.exits["student"] == 2 and deeper.weights["kd"] == 0.5


def test_saved_configuration_reads_back(tmp_path: Path) -> None:
    cfg = load_config([method_file("interctc")], ["features.speeds=[0.9,1.1]"])
    save_config(cfg, tmp_path / "config.yaml")
    assert load_config([tmp_path / "config.yaml"]) == cfg


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {learning_rate: 1}", "unknown key 'train.learning_rate'"),
        ("trian: {lr: 1}", "unknown key 'trian'; did you mean 'train'"),
        ("train: {epoch: 3}", "did you mean 'train.epochs'"),
        ("lr: 1", "did you mean 'train.lr'"),
        ("train: {lr: fast}", "train.lr: Value 'fast'"),
        ("model.exits: {student: four}", "model.exits"),
        ("- a\n- b", "a configuration is a mapping"),
        ("a: [1", "corpus.yaml: "),
        ("model: {layers: '${nowhere}'}", "nowhere"),
        ("a: !!python/object/apply:os.system [ls]", "corpus.yaml: "),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_config([write(tmp_path / "corpus.yaml", text)])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lrr=1", "the command line: unknown key 'train.lrr'; did you mean 'train.lr'"),
        ("train.lr", "write key=value"),
    ],
)
def test_bad_overrides(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config([], [override])


def test_missing_files_and_methods(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no.yaml: No such file"):
        load_config([tmp_path / "no.yaml"])
    with pytest.raises(UserError, match="no method 'skdd'; did you mean 'skd'.*known: .*ctc_teacher, "):
        method_file("skdd")
    with pytest.raises(UserError, match="no such method file"):
        method_file(str(tmp_path / "mine.yaml"))


def test_a_variant_of_a_method_has_a_name_of_its_own(tmp_path: Path) -> None:
    cfg = method_config("kd_symmetric+distill.frames=symmetric:4+weights={lambda: 0.9}", overrides=["seed=7"])
    assert cfg.method == "kd_symmetric+distill.frames=symmetric:4+weights={lambda: 0.9}"
    assert (cfg.distill.frames, cfg.weights, cfg.seed) == ("symmetric:4", {"lambda": 0.9}, 7)
    own = tmp_path / "mine.yaml"
    own.write_text("weights: {ctc_student: 1.0}")
    assert method_config(f"{own}+train.lr=2").method == "mine+train.lr=2"


@pytest.mark.parametrize("change", ["seed=3", "decode.prior_scale=0.3", "score.normalize=none"])
def test_a_variant_of_a_method_changes_its_training(change: str) -> None:
    with pytest.raises(UserError, match=f"'{change}' makes no other method"):
        method_config(f"skd+{change}")


@pytest.mark.parametrize(
    "override",
    [
        "model.conv_kernel=16",
        "model.heads=5",
        "model.vocab_size=500",
        "model.dropout=1.5",
        "train.lr=0",
        "train.warmup=2",
        "augment.time_masks=-1",
        "augment.time_fraction=2",
        "train.final_lr=-3",
        "train.layer_decay=-1",
        "train.weight_decay=-1",
        "data.max_duration=0",
        "features.speeds=[0]",
        "distill.teacher=selff",
        "decode.methods=[greedy+beem=3]",
        "decode.methods=[greedy+beam=3]",
        "decode.per_method.k2-hlg.graph=HL",
        "decode.methods=[wfst+graph=HL+lm_scale=0.5]",
    ],
)
def test_a_plan_finds_what_would_fail_later(override: str) -> None:
    state = torch.get_rng_state()
    with pytest.raises(UserError):
        check(method_config("skd", overrides=[override]))
    check(method_config("skd", overrides=["decode.methods=[beam,beam+lexicon=true+lm_scale=1.2]"]))
    assert torch.get_rng_state().equal(state)


def test_a_plan_asks_for_k2_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ctcsd.decode.run.find_k2_python", lambda: None)
    command = ["plan", "-m", "ctc", "decode.methods=[greedy,k2-1best]"]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    with pytest.raises(UserError, match="k2-1best: no interpreter here has a working k2"):
        CliRunner().invoke(app, [*command, "--decodes"], catch_exceptions=False)
    (tmp_path / "corpus.yaml").write_text("decode: {methods: [greedy, k2-1best, wfst]}\n")
    of_recipe = ["plan", "-m", "ctc", "--config", str(tmp_path / "corpus.yaml"), "--decodes"]
    done = CliRunner().invoke(app, of_recipe, catch_exceptions=False)
    assert done.stdout.splitlines()[0] == "lang_char decode.methods=[greedy,wfst]"
    assert "note: left out: k2-1best: no interpreter" in done.stderr
    with pytest.raises(UserError, match="wfst wants a language model, and lang.lm_order=0 makes none"):
        CliRunner().invoke(app, [*of_recipe, "lang.lm_order=0"], catch_exceptions=False)


def test_test_sets_and_searches_follow_the_files_given(tmp_path: Path) -> None:
    save_config(method_config("ctc", overrides=["data.test=tset", "train.lr=0.5"]), tmp_path / "config.yaml")
    (tmp_path / "corpus.yaml").write_text("data: {more_tests: [test_noise10]}\ndecode: {beam: 7}\n")
    assert run_config(tmp_path, None, None).data.decoded == ["dev", "tset"]
    cfg = run_config(tmp_path, [tmp_path / "corpus.yaml"], ["score.normalize=none"])
    assert cfg.data.decoded == ["dev", "test", "test_noise10"]
    assert (cfg.train.lr, cfg.decode.beam) == (0.5, 7)
