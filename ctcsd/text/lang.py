"""Stage 2: the lang dir of a corpus."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from ctcsd.errors import UserError
from ctcsd.text.tokenizer import TokenTable, train_bpe, train_chars

UNITS = ("char", "bpe")


def make_lang(texts: Iterable[str], lang_dir: Path, unit: str, vocab_size: int) -> TokenTable:
    """Write `tokens.txt`, `text` (what the units were made from) and, for BPE, `bpe.model`; all or nothing.

    Raises:
        UserError: an unknown unit, no text, or a BPE size that does not fit the text.
    """
    if unit not in UNITS:
        raise UserError(f"no unit '{unit}'; known: {', '.join(UNITS)}")
    texts = list(texts)
    partial = lang_dir.with_name(lang_dir.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        table = train_chars(texts) if unit == "char" else train_bpe(texts, vocab_size, partial / "bpe.model")
        (partial / "tokens.txt").write_text(table.text, encoding="utf-8")
        (partial / "text").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(lang_dir, ignore_errors=True)
    partial.rename(lang_dir)
    return table
