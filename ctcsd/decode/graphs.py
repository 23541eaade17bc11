"""What graphs for a search are made of: the words of a lang dir as text that OpenFst and k2 read, and the cache.

Labels are those of the lang dir: token ids on the input side (0, the blank, is epsilon), word ids on the output side.
Disambiguation symbols follow the tokens: #0, the backoff arcs of G, is V; #1 and so on tell words apart (Mohri, Pereira
and Riley 2002), so that L and L o G can be determinized.
"""

from __future__ import annotations

import hashlib
import importlib.util
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ctcsd.errors import UserError
from ctcsd.files import replacing, write_text, writing
from ctcsd.lock import in_turn
from ctcsd.stamp import file_hash
from ctcsd.text.arpa import read_arpa
from ctcsd.text.lexicon import BACKOFF, RESERVED, read_lexicon, read_words
from ctcsd.text.tokenizer import BLANK_SYMBOL, SPACE, TokenTable

LEXICON, LM = "lexicon.txt", "lm.arpa"
# graph -> the files of the lang dir that it is made of
GRAPHS = {
    "H": ("tokens.txt",),
    "HL": ("tokens.txt", "words.txt", LEXICON),
    "HLG": ("tokens.txt", "words.txt", LEXICON, LM),
}
TOPOLOGIES = ("standard", "modified")  # of CTC, in k2
DEFAULT_LM_SCALE = 0.5
VERSION = 1  # counted up when graphs of the same files come out differently
BYTES_PER_ARC = 100
SPARE_BYTES = 1 << 28


class Pronunciation(NamedTuple):
    """A word's tokens, without the space that ends it; it may be missing at the end of an utterance only."""

    word: str
    tokens: list[int]
    space: bool


def pronunciations(lang_dir: Path, table: TokenTable) -> list[Pronunciation]:
    """The lexicon of a lang dir.

    Raises:
        UserError: there is none, or it has the blank or tokens that are not the table's.
    """
    path = Path(lang_dir) / LEXICON
    found = []
    for word, variants in read_lexicon(path, table.ids.keys() - {BLANK_SYMBOL}).items():
        for spelling in variants:
            space = len(spelling) > 1 and spelling[-1] == SPACE
            tokens = [table.ids[token] for token in (spelling[:-1] if space else spelling)]
            found.append(Pronunciation(word, tokens, space))
    return found


def disambiguation(lexicon: Sequence[Pronunciation]) -> list[int]:
    """For each pronunciation, k of the symbol #k that ends it: 0 (none), unless others sound like it or begin so."""
    spelled = [(*p.tokens, -1) if p.space else tuple(p.tokens) for p in lexicon]
    beginnings = {tokens[:n] for tokens in spelled for n in range(1, len(tokens))}
    copies = Counter(spelled)
    used: Counter[tuple[int, ...]] = Counter()
    symbols = []
    for tokens in spelled:
        needed = copies[tokens] > 1 or tokens in beginnings
        used[tokens] += needed
        symbols.append(used[tokens] if needed else 0)
    return symbols


def lexicon_fst(lang_dir: Path, table: TokenTable, backoff: bool) -> tuple[str, list[int]]:
    """L in OpenFst's text format: any sequence of words, tokens in and words out; and its disambiguation symbols.

    Args:
        backoff: whether #0 passes between words, as a G with backoff arcs wants it.
    """
    lexicon = pronunciations(lang_dir, table)
    marks = disambiguation(lexicon)
    words = {word: i for i, word in enumerate(read_words(Path(lang_dir) / "words.txt"))}
    loop, after_word, end = 0, 1, 2  # #0 loops where words meet; after a word comes the space, or the end
    lines = [f"{loop}"]
    if any(p.space for p in lexicon):
        lines += [f"{after_word} {loop} {table.ids[SPACE]} 0", f"{after_word} {end} 0 0", f"{end}"]
    first = len(table)
    if backoff:
        lines += [f"{state} {state} {first} {words[BACKOFF]}" for state in (loop, end)]
    state = end
    for pronunciation, mark in zip(lexicon, marks):
        if pronunciation.word not in words:
            raise UserError(f"{lang_dir}: '{pronunciation.word}' is in {LEXICON}, but not in words.txt")
        tokens = [*pronunciation.tokens, *([first + mark] if mark else [])]
        last = after_word if pronunciation.space else loop
        path = [loop, *range(state + 1, state + len(tokens)), last]
        outputs = [words[pronunciation.word], *[0] * (len(tokens) - 1)]
        lines += [f"{a} {b} {token} {word}" for a, b, token, word in zip(path, path[1:], tokens, outputs)]
        state += len(tokens) - 1
    silent = sorted({*words} - {p.word for p in lexicon} - RESERVED)
    if silent:
        print(f"{lang_dir}: {len(silent)} words of words.txt are not in {LEXICON}, such as '{silent[0]}'", flush=True)
    return "\n".join(lines) + "\n", list(range(first, first + max(marks) + 1))


def grammar_fst(words: Path, arpa: Path) -> str:
    """G in OpenFst's text format: an n-gram model as kaldilm makes it, #0 going in on backoff arcs.

    Args:
        words: words.txt; n-grams of other words are left out.
        arpa: a model that `read_arpa` takes: kaldilm forgives wrong counts and probabilities.

    Raises:
        UserError: kaldilm is not there, or cannot read the model.
    """
    if importlib.util.find_spec("kaldilm") is None:
        raise UserError("G cannot be made here (No module named 'kaldilm'): pip install kaldilm")
    options = ["--disambig-symbol", BACKOFF, "--read-symbol-table", str(words)]
    # A process of its own: kaldilm aborts where a file is wrong, and logs each word that the lexicon lacks.
    command = [sys.executable, "-m", "kaldilm", *options, "--max-arpa-warnings", "0", str(arpa)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"{arpa}: kaldilm cannot read it ({last})")
    return done.stdout.strip() + "\n"


def topology(vocab_size: int, symbols: Sequence[int] = ()) -> Iterator[str]:
    """Lines of H, CTC's topology: frame labels (token id + 1) in, tokens out; `symbols` pass through unseen."""
    for state in range(vocab_size):
        yield f"{state}"
        for token in range(vocab_size):
            yield f"{state} {token} {token + 1} {0 if token == state else token}"
        for symbol in symbols:
            yield f"{state} {state} 0 {symbol}"


def graph_scale(graph: str, lm_scale: float | None) -> float:
    """The scale of G in a graph; 1 where it has none.

    Raises:
        UserError: a scale that the graph cannot have.
    """
    if graph != "HLG":
        if lm_scale:
            raise UserError(f"decode.lm_scale={lm_scale} wants decode.graph=HLG: {graph} has no language model")
        return 1.0
    if lm_scale is not None and lm_scale <= 0:
        raise UserError("decode.lm_scale is above 0 on HLG; without the language model: decode.graph=HL")
    return DEFAULT_LM_SCALE if lm_scale is None else lm_scale


def check_beams(search_beam: float, min_active: int, max_active: int) -> None:
    """Raises UserError for a beam or a number of states of a frame that no search on graphs can have."""
    if search_beam <= 0 or max_active < 2:
        raise UserError("decode.search_beam is above 0, and decode.max_active above 1")
    if not 0 <= min_active < max_active:
        raise UserError(f"decode.min_active is 0 or more, and below decode.max_active={max_active}")


def too_large(what: str, max_arcs: int) -> UserError:
    """A graph that would fill the memory, and what to do about it."""
    return UserError(
        f"{what}, decode.max_arcs is {max_arcs}: prune the language model (lang.lm_prune, a lower lang.lm_order), "
        "use fewer words, or raise decode.max_arcs where memory allows (about 100 bytes an arc)"
    )


@contextmanager
def bounded_memory(graph: str, max_arcs: int) -> Iterator[None]:
    """An allocation that would give this process more than BYTES_PER_ARC for each of max_arcs is refused (Linux).

    Raises:
        UserError: there was one, of what makes the graph.
    """
    most = BYTES_PER_ARC * max_arcs + SPARE_BYTES
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        allowed = soft
    else:
        allowed = size + most if soft == resource.RLIM_INFINITY else min(soft, size + most)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):
            raise
        raise too_large(f"{graph} fills {BYTES_PER_ARC} bytes an arc", max_arcs) from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def graph_files(graph: str) -> tuple[str, ...]:
    """The files of a lang dir that a graph is made of; raises UserError for an unknown graph."""
    if graph not in GRAPHS:
        raise UserError(f"no graph '{graph}'; known: {', '.join(GRAPHS)}")
    return GRAPHS[graph]


def cached(
    lang_dir: Path, graph: str, suffix: str, build: Callable[[Path], str], files: Sequence[Path] | None = None
) -> Path:
    """The file of a graph in `lang_dir/graphs`, built unless one of the same files is there, whole.

    A second process that wants to build one waits, and finds it built. OpenFst and k2 crash at damaged graphs; so a
    graph has its SHA-256 beside it, and is built again where it does not fit.

    Args:
        suffix: of the file's name; each kind of file has its own.
        files: what the graph is made of, a language model last; None: its files of the lang dir.
        build: writes the graph to the path that it is given, and returns what is said of it.

    Raises:
        UserError: an unknown graph, a file that it needs is missing, a damaged language model, or the system refuses to
            write.
    """
    files = [Path(lang_dir) / name for name in graph_files(graph)] if files is None else files
    for file in files:
        if not file.is_file():
            raise UserError(f"{file.parent} has no {file.name}, which a search on {graph} needs: stage 2 makes it")
    key = "".join(f"{file.name} {file_hash(file)}\n" for file in files)
    digest = hashlib.sha256(f"{VERSION} {graph}\n{key}".encode()).hexdigest()[:12]
    path = Path(lang_dir) / "graphs" / f"{graph}-{digest}{suffix}"
    if not _whole(path):
        with writing(path), in_turn(path.parent):
            if not _whole(path):
                again = ", made again: what was there does not fit its checksum" if path.is_file() else ""
                if "G" in graph:
                    read_arpa(files[-1])  # kaldilm forgives what this refuses
                with replacing(path) as partial:
                    print(f"{graph}: {build(partial)}{again}", flush=True)
                write_text(_sum(path), f"{file_hash(path)}  {path.name}\n")
    return path


def _sum(path: Path) -> Path:
    """What `sha256sum --check` reads."""
    return path.with_name(f"{path.name}.sha256")


def _whole(path: Path) -> bool:
    if not (path.is_file() and _sum(path).is_file()):
        return False
    return _sum(path).read_bytes() == f"{file_hash(path)}  {path.name}\n".encode()
