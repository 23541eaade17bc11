"""Corpora from the web: downloads that go on where they stopped, checked, and archives unpacked all or nothing.

lhotse's own downloads know no checksum, and take a connection that ends early for the end of the file.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from contextlib import AbstractContextManager
from pathlib import Path

from tqdm import tqdm

from ctcsd.data.untar import extract
from ctcsd.errors import UserError
from ctcsd.lock import locked

ATTEMPTS = 5  # in a row that bring nothing
PAUSE = 2.0  # seconds, before another attempt
TIMEOUT = 60  # seconds without a byte
BLOCK = 1 << 20


def fetch(url: str, folder: Path, checksum: str) -> Path:
    """The file of `url` in `folder`: the one that lies there, or else downloaded, from where an earlier call stopped.

    `checksum`: MD5 or SHA-256, hexadecimal.

    Raises:
        UserError: no network, no such file, no address, or a wrong checksum.
    """
    target = folder / url.rpartition("/")[2]
    if not target.is_file():
        if "://" not in url:
            raise UserError(f"{url} is no address: it begins with neither https:// nor http://")
        with _alone_in(folder):
            if not target.is_file():  # another process may have brought it meanwhile
                return _download(url, target, checksum)
    if (found := _digest(target, checksum)) != checksum:
        raise UserError(f"{target}: checksum mismatch ({found}, not {checksum}): delete it and run again")
    return target


def _alone_in(folder: Path) -> AbstractContextManager[None]:
    folder.mkdir(parents=True, exist_ok=True)
    return locked(folder, f"another process downloads or unpacks into {folder}", wait=True)


def _download(url: str, target: Path, checksum: str) -> Path:
    partial = target.with_name(target.name + ".partial")
    _transfer(url, partial)
    if (found := _digest(partial, checksum)) != checksum:
        partial.unlink()
        raise UserError(
            f"{url}: checksum mismatch ({found}, not {checksum}); deleted: run again, or put an intact file at {target}"
        )
    partial.replace(target)
    return target


def unpack(archive: Path, folder: Path, inside: str, nested: str = "") -> Path:
    """`folder / inside` out of a tar archive, unless it is there; it appears when it is whole.

    `inside`: a path, or a pattern that fits only that one, such as `*/S0002`. `nested`: a pattern of archives below the
    path `inside`, each unpacked where it lies and then deleted.

    Raises:
        UserError: the archive is damaged, has no `inside`, or would write elsewhere.
    """
    if target := _first(folder, inside):
        return target
    with _alone_in(folder):
        return _first(folder, inside) or _unpack(archive, folder, inside, nested)


def _unpack(archive: Path, folder: Path, inside: str, nested: str) -> Path:
    partial = folder / f".{archive.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _extract(archive, partial)
        for inner in sorted((partial / inside).glob(nested)) if nested else ():
            _extract(inner, inner.parent)
            inner.unlink()
        if not (found := _first(partial, inside)):
            raise UserError(f"{archive}: no folder {inside} in it")
        target = folder / found.relative_to(partial)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(found, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _first(folder: Path, inside: str) -> Path | None:
    return next((path for path in sorted(folder.glob(inside)) if path.is_dir()), None)


def _extract(archive: Path, folder: Path) -> None:
    print(f"unpacking {archive.name}", flush=True)
    try:
        with tarfile.open(archive) as tar:
            extract(tar, folder, links=True)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"{archive} cannot be unpacked: {error}: delete it and run again") from None


def _transfer(url: str, partial: Path) -> None:
    failures, trouble = 0, ""
    while failures < ATTEMPTS:
        before = _size(partial)
        try:
            if _receive(url, partial, before):
                return
            trouble = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and before:
                return  # all of it is there: the checksum tells
            trouble = f"{error.code} {error.reason}"
            if error.code < 500:
                break
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            trouble = str(getattr(error, "reason", error))
        failures = 0 if _size(partial) > before else failures + 1
        time.sleep(PAUSE)
    raise UserError(
        f"{url} cannot be downloaded: {trouble}: run again to go on after {_size(partial) / 1e6:.1f} MB, or get "
        f"{partial.stem} elsewhere and put it into {partial.parent}"
    )


def _receive(url: str, partial: Path, have: int) -> bool:
    """Append to `partial` what is missing; whether all of it came."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if resumed else 0  # a server that knows no ranges begins anew
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        bar = tqdm(desc=partial.stem, total=total, initial=have, unit="B", unit_scale=True, mininterval=0.5)
        with open(partial, "ab" if resumed else "wb") as file, bar:
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
    return total is None or _size(partial) == total


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path, like: str) -> str:
    with open(path, "rb") as file:
        digest = hashlib.md5() if len(like) == 32 else hashlib.sha256()
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
