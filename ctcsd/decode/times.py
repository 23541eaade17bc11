"""Times and confidences of words: CTM for scoring tools, TextGrid for Praat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from ctcsd.data.splits import safe_id
from ctcsd.decode.align import TokenSpan, align_tokens
from ctcsd.errors import UserError
from ctcsd.posteriors import PosteriorReader
from ctcsd.text.tokenizer import SPACE, TokenTable


class WordSpan(NamedTuple):
    """A word from start to end, in seconds from the start of its cut, and its confidence, 0 to 1."""

    word: str
    start: float
    end: float
    confidence: float


def words_of(spans: Sequence[TokenSpan], table: TokenTable, frame_shift: float) -> list[WordSpan]:
    """Tokens joined to words; a word's confidence is the least of its tokens'.

    A word begins at a token that starts with the mark of the space, or after one that is nothing else. Each phone
    stands for itself.
    """
    words: list[list[TokenSpan]] = [[]]
    for span in spans:
        if not table.spells or table.symbols[span.token].startswith(SPACE):
            words.append([])
        if table.symbols[span.token] != SPACE:
            words[-1].append(span)
    return [
        WordSpan(
            table.text_of(span.token for span in word),
            word[0].start * frame_shift,
            word[-1].end * frame_shift,
            min(span.confidence for span in word),
        )
        for word in words
        if word
    ]


def ctm_lines(cut_id: str, words: Iterable[WordSpan]) -> Iterable[str]:
    """NIST's `file channel start duration word confidence`, in seconds."""
    for w in words:
        yield f"{cut_id} 1 {w.start:.3f} {w.end - w.start:.3f} {w.word} {w.confidence:.3f}\n"


def write_textgrid(path: Path, words: Sequence[WordSpan], seconds: float) -> None:
    """One interval tier `words` over the whole cut, pauses as empty intervals (Praat's long text format)."""
    intervals: list[tuple[float, float, str]] = []
    at = 0.0
    for w in words:
        if w.start > at:
            intervals.append((at, w.start, ""))
        intervals.append((w.start, w.end, w.word))
        at = w.end
    if at < seconds or not intervals:
        intervals.append((at, max(seconds, at), ""))
    end = intervals[-1][1]
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end:.3f}"]
    lines += ["tiers? <exists>", "size = 1", "item []:", "    item [1]:", '        class = "IntervalTier"']
    lines += ['        name = "words"', "        xmin = 0", f"        xmax = {end:.3f}"]
    lines += [f"        intervals: size = {len(intervals)}"]
    for number, (start, stop, word) in enumerate(intervals, start=1):
        quoted = word.replace('"', '""')
        lines += [f"        intervals [{number}]:", f"            xmin = {start:.3f}"]
        lines += [f"            xmax = {stop:.3f}", f'            text = "{quoted}"']
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_times(
    reader: PosteriorReader,
    tokens: Mapping[str, Sequence[int]],
    out: Path,
    textgrids: Path | None = None,
) -> dict[str, str]:
    """Align every cut of an archive; writes the CTM `out` and, where wanted, a TextGrid per cut.

    Args:
        tokens: cut id -> token ids; a cut that has none here is left out.

    Returns:
        cut id -> why it could not be aligned.
    """
    failed: dict[str, str] = {}
    partial = out.with_name(f".{out.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    if textgrids:
        textgrids.mkdir(parents=True, exist_ok=True)
    shift = reader.frame_shift
    with partial.open("w", encoding="utf-8") as ctm:
        for cut_id, log_probs in tqdm(reader, desc="aligning", total=len(reader.index), leave=False, disable=None):
            if cut_id not in tokens:
                continue
            try:
                words = words_of(align_tokens(log_probs, tokens[cut_id]), reader.table, shift)
            except UserError as error:
                failed[cut_id] = str(error)
                continue
            ctm.writelines(ctm_lines(cut_id, words))
            if textgrids:
                write_textgrid(textgrids / f"{safe_id(cut_id)}.TextGrid", words, len(log_probs) * shift)
    partial.replace(out)
    return failed
