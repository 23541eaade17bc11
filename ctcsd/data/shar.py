"""Training cuts with their data in numbered shards (Lhotse Shar): two files per shard, read from end to end."""

from __future__ import annotations

import io
import json
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lilcom
import numpy as np
from lhotse import CutSet, fastcopy
from lhotse.cut import Cut
from lhotse.shar import SharWriter
from lhotse.shar.readers.lazy import LazySharIterator
from tqdm import tqdm

from ctcsd.config import Config
from ctcsd.data.features import cuts_file, id_hash, load_cuts
from ctcsd.data.integrity import CHECKSUM, SHARD_SOURCES, SHARD_STORAGES, check_cut, read_features, read_wave
from ctcsd.errors import UserError
from ctcsd.files import read_json, write_text, writing
from ctcsd.stamp import depends, file_hash, mark, up_to_date

INDEX = "index.json"
FIELDS = {"fbank": "features", "wave": "recording"}  # what a shard holds, by features.type
CODECS = {"features": "lilcom", "recording": "flac"}
TICK = -5  # lilcom's quantum is 2^TICK, in stage 1 and in shards: packing again loses nothing for 98 % of the cuts
REMEDY = "make the shards again with 'ctcsd shar'"


@dataclass(frozen=True)
class Shard:
    """A manifest of some cuts, and a tar file of what belongs to them, in the same order."""

    manifest: Path
    data: Path
    cuts: int

    def described(self) -> Iterator[Cut]:
        """The cuts without their data. Raises UserError as `read`."""
        yield from self._checked(self.manifest, CutSet.from_jsonl_lazy(self.manifest))

    def read(self) -> Iterator[Cut]:
        """The cuts, their data still compressed, in memory.

        Raises:
            UserError: files that are missing, damaged or cut off, or that do not belong together.
        """
        field = self.data.name.partition(".")[0]
        for cut in self._checked(self.data, LazySharIterator({"cuts": [self.manifest], field: [self.data]})):
            if field == "features":
                cut.features.storage_path = str(self.data)  # for messages
            yield cut

    def _checked(self, path: Path, cuts: CutSet | LazySharIterator) -> Iterator[Cut]:
        count = 0
        stream = iter(cuts)
        while True:
            try:
                cut = next(stream, None)
            except Exception as error:  # whatever gzip, JSON, tarfile and lhotse raise
                raise UserError(f"{path}: damaged ({str(error) or type(error).__name__}): {REMEDY}") from None
            if cut is None:
                break
            try:
                check_cut(cut, SHARD_SOURCES, SHARD_STORAGES)
            except UserError as error:
                raise UserError(f"{path}: {error}") from None
            count += 1
            yield cut
        if count != self.cuts:
            raise UserError(f"{path}: only {count} of {self.cuts} cuts can be read: {REMEDY}")


def write_shar(data_dir: Path, cfg: Config, folder: Path, shard_size: int) -> None:
    """Write the training cuts, with their features (or audio, for features.type=wave), into shards of so many cuts.

    They lie there in an order of their own, by the hashes of their ids, so that each shard is a sample of them all.
    The folder is made beside its place; where it is up to date, nothing is done.

    Raises:
        UserError: no features yet, or damaged ones; the folder holds something else.
    """
    source = cuts_file(data_dir, cfg, cfg.data.train)
    marker = folder.with_name(f".{folder.name}.done")
    needs = depends({"shard_size": shard_size}, [source])
    if up_to_date(f"shards {folder}", marker, needs, [folder / INDEX]):
        return
    if folder.exists() and any(folder.iterdir()) and not (folder / INDEX).is_file():
        raise UserError(f"{folder} is not empty and holds no shards: give another folder")
    cuts = sorted(load_cuts(source, stage=1), key=id_hash)
    field = FIELDS[cfg.features.type]
    partial = folder.with_name(f".partial.{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed run
    try:
        with writing(folder):
            partial.mkdir(parents=True)
            with SharWriter(partial, {field: CODECS[field]}, shard_size, warn_unused_fields=False) as writer:
                for cut in tqdm(cuts, desc="shards", unit="cut", disable=None):
                    if field == "recording":
                        read_wave(CutSet.from_cuts([cut]))  # says what is wrong with it
                        writer.write(cut.drop_features())
                    else:
                        cut, writer.writers[field].compression = _packed(cut)
                        writer.write(cut)
            _write_index(partial, field, str(source.relative_to(data_dir)), file_hash(source), len(cuts), shard_size)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    mark(marker, needs)
    print(f"{folder}: {len(cuts)} cuts in {-(-len(cuts) // shard_size)} shards", flush=True)


def open_shards(folder: Path, source: str, digest: str | None = None) -> list[Shard]:
    """The shards of a folder.

    Args:
        source: the cut set that they should be of, as it is called below the data folder.
        digest: its `file_hash`; None where it is not on this machine.

    Raises:
        UserError: there are none; they are of another cut set, or of another state of it; a file is missing or not as
            long as it was.
    """
    if not (folder / INDEX).is_file():
        raise UserError(f"no shards at {folder} ({INDEX} is missing): make them with 'ctcsd shar'")
    index = read_json(folder / INDEX)
    shards = []
    try:
        if index["source"] != source:
            raise UserError(f"the shards at {folder} are of {index['source']}, not of {source}: {REMEDY}")
        if digest and index["sha256"] != digest:
            raise UserError(f"the shards at {folder} are of another state of {source}: {REMEDY}")
        for number, (cuts, *sizes) in enumerate(index["shards"]):
            shard = _shard(folder, index["field"], number, int(cuts))
            for path, size in zip((shard.manifest, shard.data), sizes, strict=True):
                if not path.is_file():
                    raise UserError(f"{path} is missing: {REMEDY}")
                if path.stat().st_size != size:
                    raise UserError(f"{path} has {path.stat().st_size} bytes, not {size}: {REMEDY}")
            shards.append(shard)
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{folder / INDEX}: damaged ({type(error).__name__}): {REMEDY}") from None
    return shards


def _packed(cut: Cut) -> tuple[Cut, str]:
    """The cut as it goes into a shard, with the checksum of its packed features; and how they are packed: losslessly.

    Raises:
        UserError: its features are damaged.
    """
    features = read_features(CutSet.from_cuts([cut]))[0][0].numpy()
    codec, packed = "lilcom", lilcom.compress(features.copy(), tick_power=TICK)  # which alters what it is given
    if not np.array_equal(lilcom.decompress(packed), features):
        plain = io.BytesIO()
        np.save(plain, features)
        codec, packed = "numpy", plain.getvalue()
    # Without its recording, a cut is of the one that its features name.
    cut = fastcopy(cut, recording=None, features=fastcopy(cut.features, recording_id=cut.recording_id))
    return cut.with_custom(CHECKSUM, zlib.crc32(packed)), codec


def _shard(folder: Path, field: str, number: int, cuts: int) -> Shard:
    return Shard(folder / f"cuts.{number:06d}.jsonl.gz", folder / f"{field}.{number:06d}.tar", cuts)


def _write_index(folder: Path, field: str, source: str, digest: str, cuts: int, shard_size: int) -> None:
    """What was written: per shard the cuts, and the bytes of its two files."""
    shards = []
    for number, first in enumerate(range(0, cuts, shard_size)):
        shard = _shard(folder, field, number, min(shard_size, cuts - first))
        shards.append([shard.cuts, shard.manifest.stat().st_size, shard.data.stat().st_size])
    content = {"field": field, "source": source, "sha256": digest, "shards": shards}
    write_text(folder / INDEX, json.dumps(content) + "\n")
