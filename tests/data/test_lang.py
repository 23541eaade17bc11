"""Stage 2 over a corpus: skipped where nothing that the lang dir depends on has changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from lhotse import CutSet, MonoCut, SupervisionSegment

from ctcsd.config import LangConfig
from ctcsd.data.features import lang_of_corpus
from ctcsd.errors import UserError


def test_made_again_when_an_option_or_an_input_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["the cat sat", "a cat sat on the mat"]
    supervisions = [SupervisionSegment(f"s{i}", f"r{i}", 0, 1, text=text) for i, text in enumerate(texts)]
    cuts = CutSet.from_cuts(MonoCut(f"c{i}", 0, 1, 0, supervisions=[s]) for i, s in enumerate(supervisions))
    (tmp_path / "manifests").mkdir()
    cuts.to_file(tmp_path / "manifests" / "cuts_train.jsonl.gz")
    further, lang = tmp_path / "further.txt", tmp_path / "lang_char"
    further.write_text("the mat\n")

    def said(**options: object) -> str:
        lang_of_corpus(tmp_path, lang, LangConfig(**options))  # type: ignore[arg-type]
        return capsys.readouterr().out

    assert " 3-grams" in said() and (lang / "lm.arpa").is_file()
    tokens = (lang / "tokens.txt").read_bytes()
    assert said() == "lang_char: up to date\n"
    assert "lm_order was 3, is 2" in said(lm_order=2)
    assert "lm_text was None, is " in said(lm_order=2, lm_text=str(further))
    assert said(lm_order=2, lm_text=str(further)) == "lang_char: up to date\n"
    further.write_text("the mats\n")
    assert "further.txt changed" in said(lm_order=2, lm_text=str(further))
    assert "mats " in (lang / "words.txt").read_text(encoding="utf-8")
    assert "lm_prune was [], is [0, 1]" in said(lm_order=2, lm_text=str(further), lm_prune=[0, 1])
    (tmp_path / "given.arpa").write_bytes(
        (lang / "lm.arpa").read_bytes().replace(b"mats", b"MATE").replace(b"sat", b"Sat")
    )
    assert "lm_arpa was None, is " in said(lm_order=2, lm_arpa=str(tmp_path / "given.arpa"))
    assert (lang / "lm.arpa").read_bytes() == (tmp_path / "given.arpa").read_bytes().lower()
    assert "mate " in (lang / "words.txt").read_text(encoding="utf-8")
    for content, message in (
        ("\\data\\\n", "not a whole ARPA"),
        ("\\1-grams:\n-1\ta\n-1\tA\n\\end\\\n", "their case alone"),
        ("\\1-grams:\n-1\n\\end\\\n", "a 1-gram without a word: '-1'"),
        (
            "\\data\\\nngram 1=3\n\n\\1-grams:\n-1\ta\n-1\tb\n\n\\end\\\n",
            r"line 8: 2 .1-grams: where the header says 3",
        ),
    ):
        (tmp_path / "odd.arpa").write_text(content)
        with pytest.raises(UserError, match=message):
            said(lm_arpa=str(tmp_path / "odd.arpa"))
    for key, options in (("lexicon", {"unit": "phone"}), ("lm_arpa", {}), ("lm_text", {})):
        with pytest.raises(UserError, match=rf"^lang\.{key}=.*/nowhere\.txt: no such file$"):
            said(**{key: str(tmp_path / "nowhere.txt")}, **options)
    said(lm_order=2, lm_text=str(further), lm_prune=[0, 1])
    (lang / "lexicon.txt").unlink()
    assert "lexicon.txt is gone" in said(lm_order=2, lm_text=str(further), lm_prune=[0, 1])
    assert "lm_order was 2, is 0" in said(lm_order=0) and not (lang / "lm.arpa").exists()
    assert said(lm_order=0) == "lang_char: up to date\n"
    assert (lang / "tokens.txt").read_bytes() == tokens, "a training, which depends on these, stays valid"
