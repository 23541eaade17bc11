"""`ctcsd align` where tokens are phones: the words of transcripts, and of searches with and without a lexicon."""

from __future__ import annotations

from pathlib import Path

import torch
from console import ctcsd
from kinds import TEXTS, make_world

from ctcsd.config import method_config, save_config
from ctcsd.decode.hypothesis import read_hypotheses
from ctcsd.model import SharedEncoderCtc
from ctcsd.run_dir import RunDir
from ctcsd.text.lang import make_lang
from ctcsd.text.phones import PhoneOptions
from ctcsd.train.checkpoint import save_model

SPOKEN = ["the DH AH", "the DH IY", "a AH", "cat K T", "cats K S", "sat S T", "on N", "mat M T", "dog D G", "dogs D Z"]
SPOKEN += ["ran R N", "and N D", "no N"]


def test_words_of_phones_have_times(tmp_path: Path) -> None:
    world, run = make_world(tmp_path / "world"), RunDir(tmp_path / "run")
    (tmp_path / "dictionary").write_text("\n".join(SPOKEN))
    table = make_lang(TEXTS, tmp_path / "lang", "phone", 0, phones=PhoneOptions(tmp_path / "dictionary"))
    tiny = ["model.layers=1", "student_layers=1", "model.dim=16", "model.subsampling_channels=4"]
    cfg = method_config("ctc", overrides=[*tiny, "lang.unit=phone"])
    cfg.model.vocab_size = len(table)
    torch.manual_seed(1)
    run.path.mkdir()
    save_config(cfg, run.path / "config.yaml")
    save_model(SharedEncoderCtc(cfg.model), run.path, table.fingerprint)

    def call(*command: object) -> None:
        done = ctcsd(*command, "--run", run.path, "--lang", tmp_path / "lang")
        assert done.returncode == 0, done.stderr

    def times(name: str) -> dict[str, list[str]]:
        """cut id -> what is said, in order."""
        found: dict[str, list[str]] = {}
        for line in (run.path / "times" / name).read_text().splitlines():
            cut_id, _, start, seconds, word, _ = line.split()
            assert float(start) >= 0 and float(seconds) > 0
            found.setdefault(cut_id, []).append(word)
        return found

    call("posteriors", "--data", world / "data")
    call("align", "--data", world / "data", "--tokens", "--textgrids", tmp_path / "grids")
    assert times("test-student.ctm") == {f"u{i}": text.split() for i, text in enumerate(TEXTS)}
    assert times("test-student-tokens.ctm")["u1"] == ["AH", "D", "G", "R", "N"]
    grid = (tmp_path / "grids" / "u1.TextGrid").read_text()
    assert 'text = "dog"' in grid and 'text = "G"' in grid and "size = 2" in grid
    for method, options in (("beam", ["decode.lexicon=true", "decode.beam=4"]), ("greedy", [])):
        call("search", "--method", method, *options)
        call("align", "--data", world / "data", "--hypotheses", method)
        said = {h.cut_id: h.text.split() for h in read_hypotheses(run.hypotheses(method, "test", "student"))}
        assert times(f"test-student-{method}.ctm") == {cut_id: words for cut_id, words in said.items() if words}
