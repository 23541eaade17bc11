"""Packages through the real apt-get and dpkg, from a repository on disk; every failure is one line with its remedy."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile

import pytest

from ctcsd.data.debian import fetch_package, member, unpack
from ctcsd.errors import UserError

PACKAGE = "ctcsd-test-speech"


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def deb(tmp_path):
    """A package with a file and a link."""
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/share/speech").mkdir(parents=True)
    (tree / "usr/share/speech/a.wav").write_bytes(b"sound")
    (tree / "usr/share/speech/link").symlink_to("/etc/passwd")
    (tree / "usr/share/linked").symlink_to("speech")
    control = f"Package: {PACKAGE}\nVersion: 1:2.0-3\nArchitecture: all\nMaintainer: x <x@example>\nDescription: x\n"
    (tree / "DEBIAN/control").write_text(control)
    path = tmp_path / "given.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(tree), str(path)], check=True, capture_output=True)
    return path


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """Sends apt to a repository of its own, with empty lists: `apt(source)` sets the source line."""

    def setup(source):
        for name in ("lists/partial", "cache/archives/partial", "parts"):
            (tmp_path / "apt" / name).mkdir(parents=True)
        (tmp_path / "apt/sources.list").write_text(source + "\n")
        config = tmp_path / "apt/apt.conf"
        config.write_text(
            f'Dir::Etc::sourcelist "{tmp_path}/apt/sources.list"; Dir::Etc::sourceparts "{tmp_path}/apt/parts";\n'
            f'Dir::State::Lists "{tmp_path}/apt/lists"; Dir::Cache "{tmp_path}/apt/cache"; Acquire::Retries "0";\n'
        )
        monkeypatch.setenv("APT_CONFIG", str(config))

    return setup


@pytest.fixture
def repository(tmp_path, deb, apt):
    folder = tmp_path / "repo"
    folder.mkdir()
    shutil.copy(deb, folder / "x.deb")
    fields = subprocess.run(["dpkg-deb", "-f", str(deb)], check=True, capture_output=True, text=True).stdout
    (folder / "Packages").write_text(f"{fields}Filename: ./x.deb\nSize: {deb.stat().st_size}\nSHA256: {sha(deb)}\n\n")
    apt(f"deb [trusted=yes] file:{folder} ./")
    return folder


def test_missing_lists_are_refreshed_privately_and_the_file_is_kept(repository, deb, tmp_path, monkeypatch):
    sums = {"1:2.0-3": sha(deb)}
    found = fetch_package(PACKAGE, sums, tmp_path / "cache")
    assert found == tmp_path / f"cache/{PACKAGE}_1%3a2.0-3.deb" and sha(found) == sha(deb)
    assert not [path for path in (tmp_path / "apt/lists").iterdir() if path.is_file()], "the user's lists were touched"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [found.name]
    monkeypatch.setenv("PATH", "")  # no apt any more: the kept file must do
    assert fetch_package(PACKAGE, sums, tmp_path / "cache") == found


def test_damaged_kept_file_is_fetched_again(repository, deb, tmp_path):
    found = fetch_package(PACKAGE, {"1:2.0-3": sha(deb)}, tmp_path / "cache")
    found.write_bytes(b"half")
    assert sha(fetch_package(PACKAGE, {"1:2.0-3": sha(deb)}, tmp_path / "cache")) == sha(deb)


def test_second_known_version_is_found(repository, deb, tmp_path):
    assert fetch_package(PACKAGE, {"9": "0" * 64, "1:2.0-3": sha(deb)}, tmp_path / "cache").is_file()


def refused(tmp_path, package, sums, deb=None):
    with pytest.raises(UserError) as caught:
        fetch_package(package, sums, tmp_path / "cache", deb)
    message = str(caught.value)
    assert "\n" not in message and "--deb" in message
    assert not list((tmp_path / "cache").iterdir())
    return message


def test_unknown_package(repository, tmp_path):
    message = refused(tmp_path, "ctcsd-no-such-package", {"1": "0" * 64})
    assert message.startswith("the package lists of apt hold no ctcsd-no-such-package")
    assert message.endswith("get ctcsd-no-such-package 1 elsewhere and give it with --deb FILE")


def test_unknown_version(repository, tmp_path):
    assert "none of the versions this recipe knows (7.1)" in refused(tmp_path, PACKAGE, {"7.1": "0" * 64})


def test_other_contents_under_a_known_version(repository, tmp_path):
    message = refused(tmp_path, PACKAGE, {"1:2.0-3": "0" * 64})
    assert "checksum mismatch" in message and f"give an intact {PACKAGE} 1:2.0-3" in message


def test_package_missing_from_the_mirror(repository, deb, tmp_path):
    (repository / "x.deb").unlink()
    assert f"apt cannot download {PACKAGE}" in refused(tmp_path, PACKAGE, {"1:2.0-3": sha(deb)})


def test_no_network(apt, tmp_path):
    apt("deb [trusted=yes] http://127.0.0.1:9/ ./")
    assert "no network" in refused(tmp_path, PACKAGE, {"1": "0" * 64})


def test_no_apt(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert refused(tmp_path, PACKAGE, {"1": "0" * 64}).startswith("apt-get is not on this machine")


def test_given_file(deb, tmp_path, monkeypatch):
    found = fetch_package(PACKAGE, {"1:2.0-3": sha(deb)}, tmp_path / "cache", deb)
    assert fetch_package(PACKAGE, {"1:2.0-3": sha(deb)}, tmp_path / "cache", found) == found
    shutil.rmtree(tmp_path / "cache")
    assert refused(tmp_path, PACKAGE, {"1": "0" * 64}, tmp_path / "none.deb").endswith("none.deb: no such file")
    deb.write_bytes(deb.read_bytes()[:-50])
    assert "checksum mismatch" in refused(tmp_path, PACKAGE, {"1:2.0-3": "0" * 64}, deb)


def test_unpack_and_members(deb, tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    unpack(deb, folder)
    assert member(folder, "usr/share/speech/a.wav").read_bytes() == b"sound"
    for name, problem in (
        ("../given.deb", "not a path inside"),
        ("/etc/passwd", "not a path inside"),
        ("usr/share/speech/link", "not in the package"),
        ("usr/share/linked/a.wav", "not in the package"),
        ("usr/share/speech", "not in the package"),
        ("usr/none", "not in the package"),
    ):
        with pytest.raises(UserError, match=problem):
            member(folder, name)


EVIL = {
    "a name that climbs out": ("../out.txt", tarfile.REGTYPE, ""),
    "an absolute name": ("/{tmp}/out.txt", tarfile.REGTYPE, ""),
    "a link that leads out": ("link", tarfile.SYMTYPE, "{tmp}"),
    "a hard link that leads out": ("link", tarfile.LNKTYPE, "{tmp}/secret"),
    "a device": ("device", tarfile.CHRTYPE, ""),
    "a pipe": ("pipe", tarfile.FIFOTYPE, ""),
}


@pytest.mark.parametrize("trick", EVIL)
def test_a_malicious_package_writes_nowhere_else(trick, tmp_path):
    name, kind, target = (part.format(tmp=str(tmp_path)) if isinstance(part, str) else part for part in EVIL[trick])
    (tmp_path / "secret").write_text("secret")
    entries = [tarfile.TarInfo(name), tarfile.TarInfo(f"{name}/out.txt"), tarfile.TarInfo("good.txt")]
    entries[0].type, entries[0].linkname, entries[0].mode = kind, target, 0o4777
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for entry in entries[:1] + entries[1:] * (kind != tarfile.REGTYPE):
            entry.size = 4 * entry.isreg()
            tar.addfile(entry, io.BytesIO(b"evil"))
    parts = (("debian-binary", b"2.0\n"), ("control.tar.gz", packed.getvalue()), ("data.tar.gz", packed.getvalue()))
    with open(tmp_path / "evil.deb", "wb") as deb:
        deb.write(b"!<arch>\n")
        for part, content in parts:
            deb.write(f"{part:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
            deb.write(content + b"\n" * (len(content) % 2))
    folder = tmp_path / "unpacked"
    folder.mkdir()
    try:
        unpack(tmp_path / "evil.deb", folder)
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and "evil.deb" in str(error)
    else:
        assert kind == tarfile.REGTYPE or (folder / "good.txt").read_bytes() == b"evil"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.deb", "secret", "unpacked"]
    assert (tmp_path / "secret").read_text() == "secret"
    for path in folder.rglob("*"):
        assert not path.is_symlink() and (path.is_file() or path.is_dir())
        assert not path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH)


def test_damaged_package_and_missing_dpkg(deb, tmp_path, monkeypatch):
    deb.write_bytes(deb.read_bytes()[:100])
    with pytest.raises(UserError, match=r"given\.deb cannot be unpacked, it is damaged: [^\n]+$"):
        unpack(deb, tmp_path)
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(UserError, match="dpkg is not on this machine"):
        unpack(deb, tmp_path)
