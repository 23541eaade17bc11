"""Tar archives of others: files and folders inside one folder, and nothing else that an archive may ask for."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path


def extract(tar: tarfile.TarFile, folder: Path, links: bool = False) -> None:
    """Unpack into `folder`: no devices, nothing outside it, no foreign owners, nobody else may write.

    `links`: with those that lead to something inside. Pythons without tarfile's filters (3.10 before 3.10.12 and 3.11
    before 3.11.4, such as Debian 12's) leave links out all the same.

    Raises:
        tarfile.TarError: damaged, or a name, with `links` also a link, that leads out, or a device.
    """
    if hasattr(tarfile, "data_filter"):
        tar.extractall(folder, filter="data" if links else _no_links)
        return
    root = folder.resolve()
    for entry in tar:
        target = (root / entry.name.lstrip("/")).resolve()
        if not target.is_relative_to(root):
            raise tarfile.ExtractError(f"'{entry.name}' would lie outside the folder")
        if entry.isdir():
            target.mkdir(0o755, parents=True, exist_ok=True)
        elif entry.isreg() and (content := tar.extractfile(entry)):
            target.parent.mkdir(0o755, parents=True, exist_ok=True)
            with content, open(target, "wb") as file:
                shutil.copyfileobj(content, file)
            target.chmod(0o644)


def _no_links(entry: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    return tarfile.data_filter(entry, folder) if entry.isreg() or entry.isdir() else None
