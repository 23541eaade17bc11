"""Files out of a Debian package, with the user's own apt and without root, for corpora that a distribution ships."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ctcsd.data.untar import extract
from ctcsd.errors import UserError
from ctcsd.files import replacing

APT_SECONDS = 1200
ACQUIRE = ("-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=30", "-o", "Acquire::https::Timeout=30")


def fetch_package(package: str, checksums: Mapping[str, str], cache: Path, deb: Path | None = None) -> Path:
    """The verified .deb of `package`, kept in the folder `cache` and reused from there.

    `checksums`: version -> sha256, best version first. `deb`: a file the user already has, instead of a download.
    Raises UserError with the remedy: no apt, no network, unknown package or version, damaged or different file.
    """
    cache.mkdir(parents=True, exist_ok=True)
    if deb is not None:
        if not deb.is_file():
            raise UserError(f"--deb {deb}: no such file")
        return _keep(deb, _verify(deb, package, checksums), package, cache)
    for version, wanted in checksums.items():
        cached = _cached(cache, package, version)
        if cached.is_file() and _sha256(cached) == wanted:
            return cached
    with tempfile.TemporaryDirectory(prefix="ctcsd-apt-") as folder:
        found = _download(package, list(checksums), Path(folder))
        return _keep(found, _verify(found, package, checksums), package, cache)


def unpack(deb: Path, folder: Path) -> None:
    """Unpack a .deb into `folder`: regular files only, no links, no devices, nothing outside.

    Raises UserError where it is damaged, where a name leads out, or where dpkg-deb is missing.
    """
    if shutil.which("dpkg-deb") is None:
        raise UserError(
            "dpkg is not on this machine; it is needed to unpack Debian packages (every Debian and Ubuntu has it)"
        )
    command = ["dpkg-deb", "--fsys-tarfile", str(deb.absolute())]
    with (
        tempfile.TemporaryFile("w+", errors="replace") as said,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, env=_env()) as process,
    ):
        assert process.stdout
        trouble = ""
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                extract(tar, folder)
            while process.stdout.read(1 << 20):  # padding
                pass
        except (tarfile.TarError, EOFError, ValueError) as error:
            trouble = str(error)
            process.kill()
        except OSError as error:
            process.kill()
            raise UserError(f"{deb.name} cannot be unpacked into {folder}: {error.strerror or error}") from None
        if process.wait() != 0:
            said.seek(0)
            lines = [line for line in said if line.strip()]
            trouble = lines[-1].strip() if lines else trouble
        if trouble or process.returncode:
            raise UserError(f"{deb.name} cannot be unpacked, it is damaged: {trouble or 'no reason given'}")


def member(folder: Path, name: str) -> Path:
    """A regular file of an unpacked package. Raises UserError where it is missing or the name leads out."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{name}: not a path inside a package")
    found = folder.joinpath(*path.parts)
    if not found.is_file():
        raise UserError(f"{name}: not in the package")
    return found


def _download(package: str, versions: list[str], folder: Path) -> Path:
    """Fetch with the system's package lists; where that fails, with fresh lists in a private folder (needs no root)."""
    if shutil.which("apt-get") is None:
        raise UserError(
            f"apt-get is not on this machine: get {_named(package, versions)} elsewhere and give it with --deb FILE"
        )
    private = _private(folder)
    trouble = ""
    for options in ([], private):
        if options:
            trouble = _apt([*options, "update"], folder) or trouble
        for version in versions:
            trouble = _apt([*options, "download", f"{package}={version}"], folder)
            if found := sorted(folder.glob(f"{package}_*.deb")):
                return found[0]
    raise UserError(_explain(package, versions, trouble))


def _private(folder: Path) -> list[str]:
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    options = ["-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}"]
    if os.geteuid() == 0:  # root's apt drops to a user that cannot enter a private folder
        options += ["-o", "APT::Sandbox::User=root"]
    return options


def _apt(arguments: list[str], folder: Path) -> str:
    """Run apt-get in `folder`; what it said on stderr where it failed."""
    try:
        done = subprocess.run(
            ["apt-get", "-q", *ACQUIRE, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=APT_SECONDS,
            env=_env(),
        )
    except subprocess.TimeoutExpired:
        return f"Failed to fetch: no answer within {APT_SECONDS} s"
    return done.stderr if done.returncode else ""


def _explain(package: str, versions: list[str], trouble: str) -> str:
    remedy = f"get {_named(package, versions)} elsewhere and give it with --deb FILE"
    if "No space left" in trouble or "enough free space" in trouble:
        return f"the disk is full: {package} cannot be downloaded (TMPDIR chooses another one)"
    if "Unable to locate package" in trouble:
        return f"the package lists of apt hold no {package} (no network, or another distribution?): {remedy}"
    if "was not found" in trouble:
        return f"apt offers {package}, but none of the versions this recipe knows ({', '.join(versions)}): {remedy}"
    return f"apt cannot download {package} (no network?): {_last_line(trouble)}: {remedy}"


def _verify(deb: Path, package: str, checksums: Mapping[str, str]) -> str:
    """The version of a file, by its checksum."""
    found = _sha256(deb)
    for version, wanted in checksums.items():
        if found == wanted:
            return version
    raise UserError(
        f"{deb.name}: checksum mismatch, it is damaged or not the file this recipe knows (sha256 {found[:16]}...): "
        f"give an intact {_named(package, list(checksums))} with --deb FILE"
    )


def _keep(deb: Path, version: str, package: str, cache: Path) -> Path:
    target = _cached(cache, package, version)
    if not (target.exists() and target.samefile(deb)):
        with replacing(target) as partial:
            shutil.copyfile(deb, partial)
    return target


def _cached(cache: Path, package: str, version: str) -> Path:
    return cache / f"{package}_{version.replace(':', '%3a')}.deb"


def _named(package: str, versions: list[str]) -> str:
    return f"{package} {' or '.join(versions)}"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _env() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
