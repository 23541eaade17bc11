"""Archives that ask for more than files in a folder, unpacked by this Python and by one without tarfile's filters."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from ctcsd.data.untar import extract

NEW, OLD = "with filters", "without filters"


@pytest.fixture(params=[NEW, OLD])
def python(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """This Python, and one as of Debian 12, whose tarfile has no filters and whose extractall knows no such option."""
    if request.param == OLD:
        monkeypatch.delattr(tarfile, "data_filter")
        monkeypatch.setattr(tarfile.TarFile, "extractall", lambda tar, path: pytest.fail("extracted all"))
    return request.param


def unpacked(folder: Path, *entries: tuple[str, bytes, str], links: bool = False, stream: bool = False) -> list[str]:
    """What (name, type, name that a link leads to) become in `folder / to`: the files and links there."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, kind, target in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.mode, entry.uid, entry.gid = kind, target, 0o6666, 12345, 12345
            entry.size = 5 * entry.isreg()
            tar.addfile(entry, io.BytesIO(b"bytes"))
    packed.seek(0)
    (folder / "to").mkdir(exist_ok=True)
    with tarfile.open(fileobj=packed, mode="r|gz" if stream else "r:gz") as tar:
        extract(tar, folder / "to", links)
    return sorted(str(path.relative_to(folder / "to")) for path in (folder / "to").rglob("*") if not path.is_dir())


@pytest.mark.parametrize("stream", [False, True])
def test_files_and_folders(python: str, tmp_path: Path, stream: bool) -> None:
    entries = [("a", tarfile.DIRTYPE, ""), ("a/b/c.wav", tarfile.REGTYPE, ""), ("./d", tarfile.REGTYPE, "")]
    assert unpacked(tmp_path, *entries, stream=stream) == ["a/b/c.wav", "d"]
    file = tmp_path / "to/a/b/c.wav"
    assert file.read_bytes() == b"bytes" and file.stat().st_uid == tmp_path.stat().st_uid
    assert file.stat().st_mode & 0o7777 == 0o644
    assert (tmp_path / "to/a").stat().st_mode & 0o7022 == 0


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/../out"])
def test_a_name_that_leads_out_is_an_error(python: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(tarfile.TarError, match="outside"):
        unpacked(tmp_path, (name, tarfile.REGTYPE, ""))
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


def test_an_absolute_name_is_taken_as_a_relative_one(python: str, tmp_path: Path) -> None:
    inside = str(tmp_path / "out").lstrip("/")
    assert unpacked(tmp_path, (f"/{inside}", tarfile.REGTYPE, "")) == [inside] and not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_left_out(python: str, tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "secret").write_text("secret")
    entries = [("good", tarfile.REGTYPE, ""), ("evil", kind, str(tmp_path / "secret")), ("after", tarfile.REGTYPE, "")]
    assert unpacked(tmp_path, *entries) == ["after", "good"]
    assert unpacked(tmp_path, ("evil", kind, "../secret"), ("evil/x", tarfile.REGTYPE, ""))[1] == "evil/x"


def test_a_link_that_is_there_already_is_not_followed_outside(python: str, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to/link").symlink_to(tmp_path)
    with pytest.raises(tarfile.TarError, match="outside"):
        unpacked(tmp_path, ("link/out", tarfile.REGTYPE, ""))
    assert not (tmp_path / "out").exists()


def test_links_inside_where_they_are_wanted(python: str, tmp_path: Path) -> None:
    entries = [("a", tarfile.REGTYPE, ""), ("b", tarfile.SYMTYPE, "a"), ("c", tarfile.LNKTYPE, "a")]
    assert unpacked(tmp_path, *entries, links=True) == (["a", "b", "c"] if python == NEW else ["a"])


def test_an_archive_that_ends_early_is_an_error(python: str, tmp_path: Path) -> None:
    entry, whole = tarfile.TarInfo("a"), io.BytesIO()
    entry.size = 100000
    with tarfile.open(fileobj=whole, mode="w") as tar:
        tar.addfile(entry, io.BytesIO(bytes(entry.size)))
    with tarfile.open(fileobj=io.BytesIO(whole.getvalue()[:5000]), mode="r|") as tar, pytest.raises(tarfile.TarError):
        extract(tar, tmp_path)
