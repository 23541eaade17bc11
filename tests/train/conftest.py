"""A tiny corpus of real speech: sixty utterances of fotaq's main speaker, with features and a lang dir."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from console import REPOSITORY
from lhotse import CutSet

from ctcsd.config import Config, LangConfig
from ctcsd.data.features import compute_features, lang_of_corpus, load_cuts


@pytest.fixture(scope="session")
def fotaq() -> Path:
    """The prepared corpus (stage 0 of egs/fotaq, made where it is not there yet)."""
    recipe = REPOSITORY / "egs" / "fotaq"
    subprocess.run(
        [REPOSITORY / "run.sh", "--stage", "0", "--stop-stage", "0", "--quick"], check=True, cwd=REPOSITORY, timeout=900
    )
    return recipe / "data"


@pytest.fixture(scope="session")
def small_corpus(fotaq: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data dir with splits `train` (60 utterances of 1.5 to 3 seconds), `dev` (the same) and `test` (20 of them)."""
    data = tmp_path_factory.mktemp("small") / "data"
    (data / "manifests").mkdir(parents=True)
    cuts = load_cuts(fotaq / "manifests" / "cuts_train.jsonl.gz", stage=0)
    chosen = [c for c in cuts if c.supervisions[0].speaker == "joe" and 1.5 < c.duration < 3.0][:60]
    assert len(chosen) == 60
    for split, part in (("train", chosen), ("dev", chosen), ("test", chosen[:20])):
        CutSet.from_cuts(part).to_file(data / "manifests" / f"cuts_{split}.jsonl.gz")
        compute_features(data, Config(), split, jobs=1)
    lang_of_corpus(data, data / "lang_char", LangConfig())
    return data
