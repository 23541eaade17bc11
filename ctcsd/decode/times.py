"""Times and confidences of words and tokens: CTM for scoring tools, TextGrid for Praat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from ctcsd.data.splits import safe_id
from ctcsd.decode.align import TokenSpan, align_tokens
from ctcsd.errors import UserError
from ctcsd.files import replacing, write_text
from ctcsd.posteriors import PosteriorReader
from ctcsd.text.lexicon import Pronunciations
from ctcsd.text.tokenizer import SPACE, Tokenizer, TokenTable

Part = tuple[str, int]  # a word, and how many tokens it has


class WordSpan(NamedTuple):
    """A word (or token) from start to end, in seconds from the start of its cut, and its confidence, 0 to 1."""

    word: str
    start: float
    end: float
    confidence: float


def words_of(
    spans: Sequence[TokenSpan], table: TokenTable, frame_shift: float, parts: Sequence[Part] | None = None
) -> list[WordSpan]:
    """Tokens joined to words; a word's confidence is the least of its tokens'.

    A word begins at a token that starts with the mark of the space, or after one that is nothing else. Each phone
    stands for itself, unless `parts` say which words they make.
    """
    if parts is not None:
        ends = list(accumulate(count for _, count in parts))
        spoken = [(word, spans[end - count : end]) for (word, count), end in zip(parts, ends)]
        return [_joined(word, of_word, frame_shift) for word, of_word in spoken]
    words: list[list[TokenSpan]] = [[]]
    for span in spans:
        if not table.spells or table.symbols[span.token].startswith(SPACE):
            words.append([])
        if table.symbols[span.token] != SPACE:
            words[-1].append(span)
    return [_joined(table.text_of(span.token for span in word), word, frame_shift) for word in words if word]


def tokens_of(spans: Sequence[TokenSpan], table: TokenTable, frame_shift: float) -> list[WordSpan]:
    """Each token by itself."""
    return [_joined(table.symbols[span.token], [span], frame_shift) for span in spans]


def parts_of(phones: Sequence[str], words: Sequence[str], dictionary: Pronunciations) -> list[Part]:
    """Which words the phones make.

    Raises:
        UserError: the words have no such pronunciation.
    """
    ends: list[dict[int, int]] = [{0: 0}]  # behind each word: where it may end -> how many phones it then has
    for word in words:
        found = {}
        for start in ends[-1]:
            for variant in dictionary.get(word, ()):
                if [*phones[start : start + len(variant)]] == [*variant]:
                    found[start + len(variant)] = len(variant)
        ends.append(found)
    at, counts = len(phones), []
    for found in reversed(ends):
        if at not in found:
            raise UserError("its phones are no pronunciation of its words")
        counts.append(found[at])
        at -= found[at]
    return list(zip(words, counts[-2::-1]))


def _joined(name: str, spans: Sequence[TokenSpan], frame_shift: float) -> WordSpan:
    confidence = min(span.confidence for span in spans)
    return WordSpan(name, spans[0].start * frame_shift, spans[-1].end * frame_shift, confidence)


def ctm_lines(cut_id: str, words: Iterable[WordSpan]) -> Iterable[str]:
    """NIST's `file channel start duration word confidence`, in seconds."""
    for w in words:
        yield f"{cut_id} 1 {w.start:.3f} {w.end - w.start:.3f} {w.word} {w.confidence:.3f}\n"


def write_textgrid(path: Path, tiers: Mapping[str, Sequence[WordSpan]], seconds: float) -> None:
    """Interval tiers by name, each over the whole cut, pauses as empty intervals (Praat's long text format)."""
    end = max([seconds, *(spans[-1].end for spans in tiers.values() if spans)])
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end:.3f}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for tier, (name, spans) in enumerate(tiers.items(), start=1):
        intervals = _intervals(spans, end)
        lines += [f"    item [{tier}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {end:.3f}", f"        intervals: size = {len(intervals)}"]
        for number, (start, stop, word) in enumerate(intervals, start=1):
            quoted = word.replace('"', '""')
            lines += [f"        intervals [{number}]:", f"            xmin = {start:.3f}"]
            lines += [f"            xmax = {stop:.3f}", f'            text = "{quoted}"']
    write_text(path, "\n".join(lines) + "\n")


def _intervals(spans: Sequence[WordSpan], end: float) -> list[tuple[float, float, str]]:
    """(start, end, text) without gaps."""
    intervals: list[tuple[float, float, str]] = []
    at = 0.0
    for w in spans:
        if w.start > at:
            intervals.append((at, w.start, ""))
        intervals.append((w.start, w.end, w.word))
        at = w.end
    if at < end or not intervals:
        intervals.append((at, end, ""))
    return intervals


def words_of_phones(
    tokens: Mapping[str, Sequence[int]], texts: Mapping[str, str], tokenizer: Tokenizer, first_only: bool
) -> tuple[dict[str, list[Part]], dict[str, str]]:
    """Which words the phones of each cut make, where its text has words; and why not, where there is no telling.

    Args:
        tokens, texts: by cut id; nothing is found where the tokens are no phones, or the text is these themselves.
        first_only: a word has its first pronunciation, as in transcripts; else any that the dictionary has.
    """
    parts: dict[str, list[Part]] = {}
    failed: dict[str, str] = {}
    dictionary = tokenizer.dictionary
    if dictionary is None:
        return parts, failed
    if first_only:
        dictionary = {word: found[:1] for word, found in dictionary.items()}
    for cut_id, text in texts.items():
        if text == tokenizer.decode(tokens[cut_id]):
            continue
        try:
            phones = [tokenizer.table.symbols[token] for token in tokens[cut_id]]
            parts[cut_id] = parts_of(phones, text.split(), dictionary)
        except UserError as error:
            failed[cut_id] = str(error)
    return parts, failed


def write_times(
    reader: PosteriorReader,
    tokens: Mapping[str, Sequence[int]],
    out: Path,
    textgrids: Path | None = None,
    tokens_out: Path | None = None,
    parts: Mapping[str, Sequence[Part]] | None = None,
) -> dict[str, str]:
    """Align every cut of an archive; writes the CTM `out` and, where wanted, one of tokens and a TextGrid per cut.

    Args:
        tokens: cut id -> token ids; a cut that has none here is left out.
        tokens_out: the CTM of tokens.
        parts: cut id -> the words that its phones make.

    Returns:
        cut id -> why it could not be aligned.
    """
    failed: dict[str, str] = {}
    token_lines: list[str] = []
    out.parent.mkdir(parents=True, exist_ok=True)
    if textgrids:
        textgrids.mkdir(parents=True, exist_ok=True)
    shift = reader.frame_shift
    with replacing(out) as partial, partial.open("w", encoding="utf-8") as ctm:
        for cut_id, log_probs in tqdm(
            reader.entries(), desc="aligning", total=len(reader.index), leave=False, disable=None
        ):
            if cut_id not in tokens:
                continue
            try:
                if isinstance(log_probs, UserError):
                    raise log_probs
                spans = align_tokens(log_probs, tokens[cut_id])
            except UserError as error:
                failed[cut_id] = str(error)
                continue
            words = words_of(spans, reader.table, shift, (parts or {}).get(cut_id))
            each = tokens_of(spans, reader.table, shift)
            ctm.writelines(ctm_lines(cut_id, words))
            if tokens_out:
                token_lines += ctm_lines(cut_id, each)
            if textgrids:
                tiers = {"words": words, "tokens": each}
                write_textgrid(textgrids / f"{safe_id(cut_id)}.TextGrid", tiers, len(log_probs) * shift)
    if tokens_out:
        write_text(tokens_out, "".join(token_lines))
    return failed
