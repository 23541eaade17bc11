"""Transcripts as people have them: TSV, JSON lines, a Kaldi data folder, lhotse manifests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ctcsd.data.audio import FORMATS, BadAudio, load_file
from ctcsd.data.checks import Drop
from ctcsd.data.prepare import Utterance
from ctcsd.data.splits import is_split
from ctcsd.errors import UserError
from ctcsd.files import lines_of, read_json_lines

# What others call the columns: NeMo, Common Voice, Hugging Face.
NAMES = {
    "audio": ("audio", "path", "file", "audio_filepath", "audio_path", "wav"),
    "text": ("text", "sentence", "transcript", "transcription"),
    "speaker": ("speaker", "client_id", "speaker_id", "spk"),
    "split": ("split",),
    "id": ("id", "utt_id", "segment_id"),
    "offset": ("offset", "start"),
    "duration": ("duration",),
}
COLUMNS = ("audio", "text", "speaker", "split")  # of a TSV file without a header
SPLIT_NAMES = {"training": "train", "validation": "dev", "valid": "dev", "val": "dev", "eval": "test"}
CHANNELS = {"left": 0, "right": 1}
TRIED = 20  # relative names, to find the folder that they are below


@dataclass(frozen=True)
class Row:
    """A transcript and where its audio is: a file, from `start` to `end` (seconds), one channel of it or all."""

    id: str
    text: str
    audio: Path
    speaker: str = "unknown"
    split: str | None = None
    start: float = 0.0
    end: float | None = None
    channel: int | None = None
    drop: Drop | None = None

    def utterance(self, split: str | None, stereo: str) -> Utterance:
        """For the corpus writer."""
        load = partial(load_row, self, stereo)
        return Utterance(self.id, self.text, self.speaker, load, split or self.split, drop=self.drop)


def load_row(row: Row, stereo: str) -> tuple[np.ndarray, int]:
    """The samples of a row and their rate in Hz; `stereo` says what becomes of several channels."""
    samples, rate = load_file(row.audio, row.start, row.end, row.channel)
    if samples.shape[1] > 1 and stereo == "drop":
        raise BadAudio("more than one channel", f"{row.audio}: {samples.shape[1]} channels")
    if samples.shape[1] > 1 and stereo in CHANNELS:
        samples = samples[:, CHANNELS[stereo]][:, None]
    return samples, rate


def read(path: Path, audio: Path | None) -> Iterator[Row]:
    """The rows of a table, whichever kind it is; relative names of files are below `audio`, or else beside the table,
    Kaldi's and lhotse's where `base_of` finds them.

    Raises:
        UserError: none of the known kinds, or a line that is not of its kind.
    """
    if path.is_dir():
        if (path / "wav.scp").is_file():
            return read_kaldi(path, audio)
        if any(path.glob("*recordings*.jsonl*")):
            return read_lhotse(path, audio)
        raise UserError(f"{path} is neither a Kaldi data folder (wav.scp, text) nor one of lhotse manifests")
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder")
    if path.name.endswith((".jsonl", ".jsonl.gz", ".json")):
        return read_lhotse(path, audio) if _is_lhotse(path) else read_jsonl(path, audio or path.parent)
    return read_tsv(path, audio or path.parent)


def base_of(folder: Path, files: Iterable[str]) -> Path:
    """What relative names in a table are relative to: Kaldi and lhotse write them from where somebody once stood.

    The current folder, the table's or the nearest one above it in which there is one of the first names; or else the
    current one.
    """
    names = list(islice((file for file in files if not Path(file).is_absolute()), TRIED))
    bases = (Path(), folder.absolute(), *folder.absolute().parents)
    return next((base for base in bases if any((base / name).is_file() for name in names)), Path())


def read_tsv(path: Path, audio: Path) -> Iterator[Row]:
    """`file<TAB>text[<TAB>speaker[<TAB>split]]`, or any order under a header that names the columns; `#`: a comment."""
    columns: tuple[str, ...] = ()
    for number, line in enumerate(lines_of(path, "utf-8-sig"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = line.split("\t")
        if not columns:
            columns = tuple(cells)
            if _column("text", columns) and _column("audio", columns):
                continue
            columns = COLUMNS
        fewest, wanted = (2, "2 to 4") if columns == COLUMNS else (len(columns), str(len(columns)))
        if not fewest <= len(cells) <= len(columns):
            raise UserError(f"{path}, line {number}: {len(cells)} columns instead of {wanted}")
        yield _row(dict(zip(columns, cells, strict=False)), audio, f"{path}, line {number}")


def read_jsonl(path: Path, audio: Path) -> Iterator[Row]:
    """An object per line with `audio` and `text`, and maybe `speaker`, `split`, `id`, `offset` and `duration`."""
    for number, fields in enumerate(read_json_lines(path), start=1):
        yield _row(fields, audio, f"{path}, line {number}")


def read_kaldi(folder: Path, audio: Path | None) -> Iterator[Row]:
    """wav.scp, text, and maybe utt2spk and segments. Raises UserError for a command in wav.scp: nothing is executed."""
    files = _pairs(folder / "wav.scp")
    for name, file in files.items():
        if file.endswith("|"):
            raise UserError(f"{folder / 'wav.scp'}: {name} is a command; convert the audio first, and name the files")
    base = audio or base_of(folder, files.values())
    texts = _pairs(folder / "text")
    speakers = _pairs(folder / "utt2spk") if (folder / "utt2spk").is_file() else {}
    segments = {name: (name, 0.0, None) for name in files}
    if (folder / "segments").is_file():
        segments = {name: _segment(folder, name, rest) for name, rest in _pairs(folder / "segments").items()}
    for name in sorted(texts.keys() | segments.keys()):
        recording, start, end = segments.get(name, (name, 0.0, None))
        drop = None
        if name not in texts:
            drop = Drop("missing transcript", f"audio only: {recording}")
        elif recording not in files:
            drop = Drop("missing audio", f"a transcript only: {texts[name]}")
        path = base / files.get(recording, recording)
        yield Row(name, texts.get(name, ""), path, speakers.get(name, "unknown"), None, start, end, drop=drop)


def read_lhotse(path: Path, audio: Path | None) -> Iterator[Row]:
    """Cuts, or a folder of recordings and supervisions: a row per supervision.

    lhotse's recipes name the files of a folder `PREFIX_supervisions_PART.jsonl.gz`: a part may be a split.
    """
    from lhotse import CutSet, RecordingSet, SupervisionSet

    splits: dict[str, str | None] = {}
    try:
        if path.is_dir():
            recordings = RecordingSet.from_recordings(one for one, _ in _all(path, "recordings"))
            found = list(_all(path, "supervisions"))
            splits = {one.id: split for one, split in found}
            supervisions = SupervisionSet.from_segments(one for one, _ in found)
            cuts = CutSet.from_manifests(recordings, supervisions)
            orphans = [one for one in supervisions if one.recording_id not in recordings]
        else:
            cuts, orphans = CutSet.from_file(path), []
        files = (source.source for cut in cuts for source in cut.recording.sources if source.type == "file")
        base = audio or base_of(path if path.is_dir() else path.parent, files)
        for cut in cuts:
            file = cut.recording.sources[0]
            if file.type != "file" or cut.recording.transforms or len(cut.recording.sources) > 1:
                raise UserError(f"{path}: {cut.id}: only recordings of one plain file can be prepared")
            if not cut.supervisions:
                drop = Drop("missing transcript", f"audio only: {file.source}")
                yield Row(cut.id, "", base / file.source, drop=drop)
            for one in cut.supervisions:
                start = cut.start + one.start
                channel = one.channel if isinstance(one.channel, int) and cut.recording.num_channels > 1 else None
                speaker = one.speaker or "unknown"
                end = start + one.duration
                text, split = one.text or "", splits.get(one.id)
                yield Row(one.id, text, base / file.source, speaker, split, start, end, channel)
        for one in orphans:
            drop = Drop("missing audio", f"a transcript only, of recording {one.recording_id}: {one.text}")
            yield Row(one.id, one.text or "", Path(one.recording_id), drop=drop)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise UserError(f"{path}: not lhotse manifests, or damaged ({type(error).__name__}: {error})") from None


def unlisted(audio: Path, rows: list[Row], out: Path, expected: bool) -> Iterator[Row]:
    """The audio files below a folder that no row names, but not what was written below `out`.

    `expected`: they are listed, and not held against --max-bad.
    """
    listed = {row.audio.resolve() for row in rows}
    for path in sorted(audio.rglob("*")):
        if path.suffix.lower() not in FORMATS or not path.is_file() or out.resolve() in path.resolve().parents:
            continue
        if path.resolve() not in listed:
            name = str(path.relative_to(audio))
            yield Row(name, "", path, drop=Drop("missing transcript", f"audio only: {path}", expected))


def _row(fields: dict, audio: Path, where: str) -> Row:
    found = {key: fields.get(name) for key in NAMES if (name := _column(key, tuple(fields)))}
    file, text = found.get("audio"), found.get("text")
    if not isinstance(file, str) or not isinstance(text, str) or not file:
        raise UserError(f"{where}: needs a file ({' or '.join(NAMES['audio'][:3])}) and a text, as strings")
    split = str(found.get("split") or "").lower()
    try:
        start = float(found.get("offset") or 0.0)
        end = start + float(found["duration"]) if found.get("duration") and found.get("offset") is not None else None
    except (TypeError, ValueError):
        raise UserError(f"{where}: offset and duration are seconds") from None
    made_up = f"{Path(file).with_suffix('')}" + (f"-{start:.3f}" if end is not None else "")
    return Row(
        id=str(found.get("id") or made_up),
        text=text,
        audio=audio / file,
        speaker=str(found.get("speaker") or "unknown"),
        split=SPLIT_NAMES.get(split, split) or None,
        start=start,
        end=end,
    )


def _column(key: str, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name.strip().lower() in NAMES[key]), None)


def _pairs(path: Path) -> dict[str, str]:
    """`KEY REST` per line."""
    pairs: dict[str, str] = {}
    for number, line in enumerate(lines_of(path), start=1):
        key, rest = [*line.split(maxsplit=1), "", ""][:2]
        if key in pairs:
            raise UserError(f"{path}, line {number}: {key} is there twice")
        if key:
            pairs[key] = rest.strip()
    return pairs


def _segment(folder: Path, name: str, rest: str) -> tuple[str, float, float | None]:
    try:
        recording, start, end = rest.split()[:3]
        return recording, float(start), float(end) if float(end) > 0 else None  # -1: to the end
    except ValueError:
        raise UserError(f"{folder / 'segments'}: {name}: not of the form UTTERANCE RECORDING START END") from None


def _is_lhotse(path: Path) -> bool:
    first = next(read_json_lines(path), {})
    return "recording" in first and "start" in first


def _all(folder: Path, kind: str) -> Iterator[tuple[Any, str | None]]:
    """The items of all files of a kind, each with the split that its file is named by."""
    from lhotse import load_manifest

    for path in sorted(folder.glob(f"*{kind}*.jsonl*")):
        part = path.name.rpartition(kind)[2].partition(".")[0].strip("_-").lower().replace("-", "_")
        split: str | None = "train" if part.startswith("train_") else SPLIT_NAMES.get(part, part)
        if split and not is_split(split):
            print(f"{path.name}: '{part}' is no split's name, so that a hash deals it out", flush=True)
            split = None
        for one in load_manifest(path):
            yield one, split or None
