"""The units of a lang dir: characters, sentencepiece BPE or phones, with tokens.txt in k2's format (blank = 0).

A lang dir holds `tokens.txt` ("symbol id" per line) and, for BPE, `bpe.model`, for phones `dictionary.txt`. Characters
and BPE write the space as U+2581, so that decoding is the same: join the symbols, then turn that mark into a space.
Phones do not spell: what they decode to is the phones, with spaces between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

from ctcsd.errors import UserError
from ctcsd.files import read_symbols, symbol_lines
from ctcsd.text.lexicon import Lexicon, read_lexicon
from ctcsd.text.ngram import UNK

BLANK_SYMBOL = "<blk>"
SPACE = "\u2581"
DICTIONARY = "dictionary.txt"  # `WORD PHONE PHONE`, of any word that may be trained on or aligned


class UnknownWord(UserError):
    """a text holds a word without pronunciation"""


class TokenTable:
    """tokens.txt: symbols by id, and its fingerprint (SHA-256 of the table)."""

    def __init__(self, symbols: Sequence[str]) -> None:
        if len(symbols) < 2 or symbols[0] != BLANK_SYMBOL:
            raise UserError(f"a token table starts with {BLANK_SYMBOL} (id 0) and has at least one more token")
        if len(set(symbols)) != len(symbols):
            raise UserError("a token stands twice in the token table")
        self.symbols = list(symbols)
        self.ids = {symbol: i for i, symbol in enumerate(symbols)}
        self.text = symbol_lines(symbols)
        self.fingerprint = hashlib.sha256(self.text.encode("utf-8")).hexdigest()
        self.spells = any(SPACE in symbol for symbol in symbols)  # phones do not

    @classmethod
    def load(cls, lang_dir: Path) -> TokenTable:
        """Read `lang_dir/tokens.txt`; raises UserError naming the first broken line."""
        path = Path(lang_dir) / "tokens.txt"
        if not path.is_file():
            raise UserError(f"{path}: no such file: run stage 2 to make the lang dir")
        symbols = read_symbols(path)
        try:
            return cls(symbols)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def __len__(self) -> int:
        return len(self.symbols)

    def unlike(self, other: TokenTable) -> str:
        """What differs first from another table, such as `token 5 is 'a', not 'b'`; empty for the same one."""
        for i, (mine, yours) in enumerate(zip_longest(self.symbols, other.symbols)):
            if mine != yours:
                return f"token {i} is {mine!r}, not {yours!r}"
        return ""

    def text_of(self, ids: Iterable[int]) -> str:
        """Token ids (no blanks) -> words, or phones, separated by single spaces."""
        joined = ("" if self.spells else " ").join(self.symbols[i] for i in ids)
        return " ".join(joined.replace(SPACE, " ").split())


class Tokenizer:
    """Text <-> token ids of a lang dir."""

    def __init__(self, lang_dir: Path) -> None:
        self.table = TokenTable.load(lang_dir)
        dictionary = Path(lang_dir) / DICTIONARY
        self.dictionary = None if self.table.spells else read_lexicon(dictionary, self.table.ids)
        self._pieces = None
        model = Path(lang_dir) / "bpe.model"
        if model.is_file():
            import sentencepiece

            try:
                self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
            except Exception:  # sentencepiece raises RuntimeError and OSError of its own
                raise UserError(f"{model}: not a sentencepiece model") from None
            if self._pieces.get_piece_size() != len(self.table):
                raise UserError(f"{model} has {self._pieces.get_piece_size()} pieces, tokens.txt {len(self.table)}")
            for i, symbol in enumerate(self.table.symbols):
                if self._pieces.id_to_piece(i) != symbol:
                    raise UserError(f"{model}: piece {i} is not '{symbol}', as in tokens.txt: run stage 2 again")

    def encode(self, text: str) -> list[int]:
        """Token ids of a text.

        Raises:
            UserError: a character that the lang dir does not know; UnknownWord: a word that has no pronunciation.
        """
        if self.dictionary is not None:
            return [self.table.ids[phone] for word in text.split() for phone in self._pronounce(word)]
        if self._pieces is not None:
            ids = self._pieces.encode(text, out_type=int)
            if self._pieces.unk_id() in ids:
                raise UserError(f"a character of '{text}' is unknown to the sentencepiece model")
            return ids
        ids = []
        for character in " ".join(text.split()):
            index = self.table.ids.get(SPACE if character == " " else character)
            if index is None:
                raise UserError(f"character '{character}' of '{text}' is not in tokens.txt")
            ids.append(index)
        return ids

    def spaced(self, text: str) -> str:
        """The tokens of a text, separated by spaces; raises what `encode` does."""
        return " ".join(self.table.symbols[i] for i in self.encode(text))

    def decode(self, ids: Iterable[int]) -> str:
        """Words, or phones, of token ids without blanks."""
        return self.table.text_of(ids)

    def as_decoded(self, text: str) -> str:
        """What a search without a lexicon should give for a text: itself, or its phones, <unk> for an unknown word."""
        if self.dictionary is None:
            return text
        return " ".join(phone for word in text.split() for phone in self.dictionary.get(word, [[UNK]])[0])

    def spell(self, words: Iterable[str]) -> tuple[Lexicon, list[str]]:
        """The words, sorted, with their pronunciations or the tokens that spell them, and those that have none."""
        spelled = {word: self._spellings(word) for word in sorted(set(words))}
        return {word: found for word, found in spelled.items() if found}, [
            w for w, found in spelled.items() if not found
        ]

    def _pronounce(self, word: str) -> list[str]:
        assert self.dictionary is not None
        if word not in self.dictionary:
            raise UnknownWord(f"'{word}' has no pronunciation")
        return self.dictionary[word][0]

    def _spellings(self, word: str) -> list[list[str]]:
        if self.dictionary is not None:
            return self.dictionary.get(word, [])
        try:
            tokens = self.spaced(word).split(" ")
        except UserError:
            return []
        if not tokens[0].startswith(SPACE):
            tokens.append(SPACE)
        whole = self.table.text_of(map(self.table.ids.__getitem__, tokens)) == word  # else the space mark stands in it
        return [tokens] if whole else []


def train_chars(texts: Iterable[str]) -> TokenTable:
    """The characters of the texts, sorted, after blank and space."""
    characters = {c for text in texts for c in text} - {" "}
    if not characters:
        raise UserError("there is no text to take characters from: is the training set empty?")
    return TokenTable([BLANK_SYMBOL, SPACE, *sorted(characters)])


def train_bpe(texts: Iterable[str], vocab_size: int, model_file: Path) -> TokenTable:
    """Train sentencepiece BPE with blank at 0 and write the model; returns its token table.

    Raises:
        UserError: a size that the text cannot fill (the largest possible is named) or that is too small.
    """
    import sentencepiece

    sentences = [text for text in texts if text]
    if not sentences:
        raise UserError("there is no text to train BPE on: is the training set empty?")
    prefix = model_file.with_suffix("")
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_prefix=str(prefix),
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=1.0,
            normalization_rule_name="identity",
            user_defined_symbols=[BLANK_SYMBOL],
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    except Exception as error:
        raise UserError(_bpe_advice(str(error), vocab_size)) from None
    finally:
        prefix.with_suffix(".vocab").unlink(missing_ok=True)
    model = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    if pieces[0] != BLANK_SYMBOL:  # sentencepiece places unk first when asked to; ids must start with blank
        raise UserError(f"sentencepiece put '{pieces[0]}' at id 0 where blank belongs")
    return TokenTable(pieces)


def _bpe_advice(message: str, vocab_size: int) -> str:
    import re

    largest: re.Match[str] | None = re.search(r"value\s*<=\s*(\d+)", message)
    if largest:
        return f"lang.vocab_size={vocab_size} is too large for this text: the largest possible is {largest[1]}"
    smallest = re.search(r"smaller than required_chars\D*\d+\s*vs\s*(\d+)", message) or re.search(
        r"required_chars_size=?\D*(\d+)", message
    )
    if smallest:
        return f"lang.vocab_size={vocab_size} is too small: the text alone has {smallest[1]} characters and symbols"
    return f"lang.vocab_size={vocab_size}: sentencepiece says: {message.strip().splitlines()[-1]}"
