"""What is read back is what was written: features are checked against their checksums, and cuts name files only.

A manifest may come from elsewhere, and lhotse runs what its `command` sources and `kaldiio` keys say: refused here.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lhotse import CutSet, Features, validate
from lhotse.cut import Cut
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ctcsd.data.checks import SAMPLING_RATE
from ctcsd.errors import UserError, first_line

Reader = Callable[[CutSet], tuple[Tensor, Tensor]]
CHECKSUM = "features_crc32"  # a custom field of cuts; those that other tools made have none
STORAGES = ("lilcom_chunky", "lilcom_files", "numpy_files")
SHARD_SOURCES, SHARD_STORAGES = ("shar", "memory"), ("shar", "memory_lilcom", "memory_npy")


def check_cuts(cuts: Iterable[Cut]) -> None:
    """Raises UserError at a cut that stands twice, is not sound by lhotse's rules, or reads more than plain files."""
    seen: set[str] = set()
    for cut in cuts:
        if cut.id in seen:
            raise UserError(f"the cut {cut.id} stands twice")
        seen.add(cut.id)
        check_cut(cut)


def check_cut(cut: Cut, sources: Sequence[str] = ("file",), storages: Sequence[str] = STORAGES) -> None:
    """Raises UserError where a cut is not sound by lhotse's rules, or reads from elsewhere than is allowed."""
    try:
        if cut.has_recording or cut.has_features:
            validate(cut)
        if not all(isinstance(text, (str, type(None))) for text in (cut.id, *(s.text for s in cut.supervisions))):
            raise ValueError("its id or transcript is not text")
        found = {source.type for recording in _parts(cut, "recording") for source in recording.sources} - {*sources}
        found |= {features.storage_type for features in _parts(cut, "features")} - {*storages}
    except Exception as error:  # whatever fields of wrong types lead to
        raise UserError(f"the cut {cut.id} is not sound ({error or type(error).__name__})") from None
    for kind in found:
        raise UserError(f"the cut {cut.id} reads from '{kind}', not from a {sources[0]} ({', '.join(storages)})")


def with_checksums(cuts: CutSet) -> CutSet:
    """The cuts, each with the checksum of its stored features."""
    return CutSet.from_cuts(cut.with_custom(CHECKSUM, zlib.crc32(_stored(cut.features))) for cut in cuts)


def _checked_features(cut: Cut) -> Tensor:
    """The features of a cut, (T, F); raises whatever lilcom, numpy and the system raise at damaged ones."""
    wanted = (getattr(cut, "custom", None) or {}).get(CHECKSUM)
    if wanted is not None and zlib.crc32(_stored(cut.features)) != wanted:
        raise ValueError("wrong checksum")
    features = torch.from_numpy(cut.load_features())
    if len(features) != cut.num_frames:
        raise ValueError(f"{len(features)} frames, not {cut.num_frames}")
    return features


def read_features(cuts: CutSet, features_of: Callable[[Cut], Tensor] = _checked_features) -> tuple[Tensor, Tensor]:
    """The features of a batch, (N, T, F) float32, and lengths (N,) int32.

    Raises:
        UserError: features that are missing or damaged.
    """
    rows = []  # padded here: lhotse's collation makes a mixed cut of each, which costs a third of the reading
    try:
        for cut in cuts:
            rows.append(features_of(cut))
        return pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows], dtype=torch.int32)
    except Exception as error:  # without a checksum lilcom and numpy notice first, and raise many things
        features = _parts(cut, "features")
        where = features[0].storage_path if features else "a cut set without features"
        sharded = features and features[0].storage_type in SHARD_STORAGES
        state = "missing" if isinstance(error, FileNotFoundError) else "damaged"
        remedy = "run 'ctcsd shar' again" if sharded else "delete the folder of that file and run stage 1 again"
        raise UserError(
            f"{where}: the features of cut {cut.id}, or of another in its batch, are {state} "
            f"({error or type(error).__name__}): {remedy}"
        ) from None


class KeptFeatures:
    """Reads features as `read_features` does, and keeps in memory what it has read while there is room.

    Decompressing a batch in every epoch anew takes 4 % of the steps of a small model.
    """

    def __init__(self, mebibytes: float) -> None:
        self._room = mebibytes * 2**20
        self._kept: dict[str, Tensor] = {}  # by the cut's id

    def read(self, cuts: CutSet) -> tuple[Tensor, Tensor]:
        """As `read_features`."""
        return read_features(cuts, self._features_of)

    def _features_of(self, cut: Cut) -> Tensor:
        features = self._kept.get(cut.id)
        if features is None:
            features = _checked_features(cut)
            if features.nbytes <= self._room:
                self._room -= features.nbytes
                self._kept[cut.id] = features
        return features


def read_wave(cuts: CutSet) -> tuple[Tensor, Tensor]:
    """The audio of a batch, (N, samples) float32, and lengths (N,) int64.

    Raises:
        UserError: audio that is missing, damaged, of several channels, or not at 16 kHz.
    """
    rows = []
    for cut in cuts:
        try:
            audio = torch.from_numpy(cut.load_audio())
        except Exception as error:  # soundfile, lhotse and the system raise many things
            raise UserError(f"the audio of cut {cut.id} cannot be read ({first_line(error)})") from None
        if cut.sampling_rate != SAMPLING_RATE:
            raise UserError(f"cut {cut.id} is at {cut.sampling_rate} Hz, not {SAMPLING_RATE}: run stage 0 again")
        if len(audio) != 1:
            raise UserError(f"cut {cut.id} has {len(audio)} channels, not 1: run stage 0 again")
        rows.append(audio[0])
    return pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


READERS: dict[str, Reader] = {"fbank": read_features, "wave": read_wave}  # by features.type


def _parts(cut: Cut, name: str) -> list[Any]:
    """The recordings, or the features, that a cut or the tracks of a mixed one read."""
    cuts = [track.cut for track in cut.tracks] if hasattr(cut, "tracks") else [cut]
    return [part for part in (getattr(one, name, None) for one in cuts) if part is not None]


def _stored(features: Features) -> bytes:
    """The bytes of a cut's features; a lilcom_chunky key is an offset and the lengths of the chunks from there."""
    if features.storage_type in SHARD_STORAGES:
        return features.storage_key
    offset, *lengths = map(int, features.storage_key.split(","))
    with open(features.storage_path, "rb") as file:
        file.seek(offset)
        return file.read(sum(lengths))
