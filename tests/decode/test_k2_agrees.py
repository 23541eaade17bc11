"""k2's HLG and kaldi-decoder's, each in its own interpreter: the same grammar, the same hypotheses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from brute_force import ARPA, add_words
from fakes import random_log_probs

from ctcsd.config import Config, save_config
from ctcsd.decode.hypothesis import read_hypotheses
from ctcsd.decode.run import search_run
from ctcsd.errors import UserError
from ctcsd.k2_env import find_k2_python
from ctcsd.posteriors import PosteriorWriter
from ctcsd.run_dir import RunDir
from ctcsd.score.sweep import sweep
from ctcsd.text.tokenizer import TokenTable

pytestmark = pytest.mark.k2


def test_same_words_and_scores(lang_dir: Path, table: TokenTable, tmp_path: Path) -> None:
    add_words(lang_dir, arpa=ARPA.replace("-1.4\tx", "-1.45\tx"))  # else x and c are equal at the end of a sentence
    run, cfg, rng = RunDir(tmp_path / "run"), Config(), np.random.default_rng(0)
    for split in ("dev", "test"):
        with PosteriorWriter(run.archive(split, "teacher"), table) as writer:
            for i in range(12):
                writer.write(f"u{i}", random_log_probs(rng, int(rng.integers(1, 30)), 5, (1.0, 3.0)[i % 2]))
        run.archive_marker(split, "teacher").write_text("{}")
    cfg.decode.lm_scale, cfg.decode.search_beam, cfg.decode.rescore_lm = 0.8, 60.0, str(lang_dir / "lm.arpa")
    cfg.decode.num_paths, cfg.model.exits = 20, {"teacher": 1}
    save_config(cfg, run.path / "config.yaml")
    methods = ["wfst", "k2-hlg", "k2-nbest", "k2-rescore"]
    search_run(run.path, lang_dir, cfg, ["teacher"], methods)
    wfst, *others = [list(read_hypotheses(run.hypotheses(method, "dev", "teacher"))) for method in methods]
    assert len(wfst) == 12 and not any(h.fallback or h.failure for h in wfst)
    for found in others:
        assert [(h.cut_id, h.text, h.tokens) for h in found] == [(h.cut_id, h.text, h.tokens) for h in wfst]
        assert [h.score for h in found] == pytest.approx([h.score for h in wfst], abs=5e-3)
    assert len(run.nbest("k2-nbest", "test", "teacher").read_text().splitlines()) == 12


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_sweep_in_the_other_interpreter(
    make_archive, lang_dir: Path, jobs: int, capfd: pytest.CaptureFixture
) -> None:
    add_words(lang_dir, arpa=ARPA.replace("-1.4\tx", "-1.45\tx"))
    rng = np.random.default_rng(1)
    reader = make_archive([(f"u{i}", random_log_probs(rng, 12, 5, 2.0)) for i in range(8)])
    texts = {f"u{i}": "a ba c" for i in range(8)}
    settings = [({"lm_scale": scale}, {"lm_scale": float(scale), "search_beam": 60.0}) for scale in ("0.2", "2", "5")]
    on_graph = [(setting, {**options, "graph": "HLG"}) for setting, options in settings]
    here = sweep(reader.path, lang_dir, "wfst", on_graph, texts, jobs)
    there = sweep(reader.path, lang_dir, "k2-hlg", settings, texts, jobs, python=find_k2_python())
    assert [point[:3] for point in there] == [point[:3] for point in here] and all(point.rtf > 0 for point in there)
    assert len({point.wer for point in there}) > 1
    capfd.readouterr()
    with pytest.raises(UserError, match="^$"):
        sweep(reader.path, lang_dir, "k2-hlg", [({}, {"lm_scale": 0.0})], texts, jobs, python=find_k2_python())
    assert capfd.readouterr().err.startswith("error: decode.lm_scale is above 0 on HLG")
