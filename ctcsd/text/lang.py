"""Stage 2: the lang dir of a corpus."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ctcsd.errors import UserError
from ctcsd.files import lines_of, writing
from ctcsd.text.arpa import copy_arpa, write_arpa
from ctcsd.text.lexicon import lexicon_lines, word_lines
from ctcsd.text.ngram import estimate
from ctcsd.text.phones import PhoneOptions, train_phones
from ctcsd.text.tokenizer import Tokenizer, TokenTable, train_bpe, train_chars

UNITS = ("char", "bpe", "phone")
LM_FILE, UNSPELLED = "lm.arpa", "unspelled.txt"


def make_lang(
    texts: Iterable[str],
    lang_dir: Path,
    unit: str,
    vocab_size: int,
    lm_order: int = 3,
    lm_text: Path | None = None,
    lm_prune: Sequence[int] = (),
    lm_arpa: Path | None = None,
    phones: PhoneOptions | None = None,
) -> TokenTable:
    """Write a lang dir; all or nothing.

    `tokens.txt`, `text` (what the units were made from) and, for BPE, `bpe.model`, for phones the files of
    `train_phones`; `words.txt` and `lexicon.txt` (the words of the texts and of `lm_text`, spelt with the tokens, or
    all their pronunciations); and, unless lm_order is 0, `lm.arpa`, estimated from the texts and the lines of
    `lm_text`, whose words that the tokens cannot spell are <unk>; or copied from `lm_arpa`.

    Raises:
        UserError: an unknown unit, no text, a BPE size that does not fit the text, no dictionary of phones, as
            `train_phones` or `estimate`, or no lm_text.
    """
    if unit not in UNITS:
        raise UserError(f"no unit '{unit}'; known: {', '.join(UNITS)}")
    if unit == "phone" and phones is None:
        raise UserError("lang.unit=phone wants lang.lexicon: a pronunciation dictionary, `WORD PHONE PHONE` per line")
    texts = list(texts)
    partial = lang_dir.with_name(lang_dir.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with writing(lang_dir):
            if unit == "phone" and phones:
                table = train_phones(texts, phones, partial)
            elif unit == "bpe":
                table = train_bpe(texts, vocab_size, partial / "bpe.model")
            else:
                table = train_chars(texts)
            (partial / "tokens.txt").write_text(table.text, encoding="utf-8")
            (partial / "text").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
            _write_words_and_lm(partial, texts, lm_order, lm_text, lm_prune, lm_arpa)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(lang_dir, ignore_errors=True)
    partial.rename(lang_dir)
    return table


def _write_words_and_lm(
    lang_dir: Path,
    texts: list[str],
    lm_order: int,
    lm_text: Path | None,
    lm_prune: Sequence[int],
    lm_arpa: Path | None,
) -> None:
    given = copy_arpa(lm_arpa, lang_dir / LM_FILE) if lm_arpa and lm_order else []

    def sentences() -> Iterator[str]:
        yield from texts
        if lm_text and lm_order:
            yield from lines_of(lm_text)

    words = itertools.chain(given, (word for sentence in sentences() for word in sentence.split()))
    lexicon, missing = Tokenizer(lang_dir).spell(words)
    (lang_dir / "words.txt").write_text(word_lines(lexicon), encoding="utf-8")
    (lang_dir / "lexicon.txt").write_text(lexicon_lines(lexicon), encoding="utf-8")
    said = f"words: {len(lexicon)}"
    if missing:
        (lang_dir / UNSPELLED).write_text("".join(f"{word}\n" for word in missing), encoding="utf-8")
        said += f"; {len(missing)} that the tokens cannot spell, such as '{missing[0]}' (all in {UNSPELLED})"
    print(said, flush=True)
    if given:
        print(f"language model: {lm_arpa}", flush=True)
    elif lm_order:
        model = estimate(sentences(), lm_order, lm_prune, lexicon)
        write_arpa(model, lang_dir / LM_FILE)
        print(f"language model: {model.describe()}", flush=True)
