"""The choice of a k2 wheel, and the manners of the set-up scripts."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

spec = importlib.util.spec_from_file_location("k2_wheel", ROOT / "tools" / "k2_wheel.py")
assert spec and spec.loader
k2_wheel = importlib.util.module_from_spec(spec)
sys.modules["k2_wheel"] = k2_wheel  # dataclasses look their module up
spec.loader.exec_module(k2_wheel)

LINUX = "manylinux_2_17_x86_64.manylinux2014_x86_64"


def name(variant: str, torch: str, python: str, date: str = "20250307", platform: str = LINUX) -> str:
    return f"k2-1.24.4.dev{date}+{variant}.torch{torch}-{python}-{python}-{platform}.whl"


def page(names: list[str], folder: str = "https://wheels.example/k2/resolve/main/ubuntu-cuda/") -> str:
    """A page in the layout of the real one: a heading, then one anchor a line, `+` written as %2B in the address."""
    links = "".join(f'<a href="{folder}{wheel.replace("+", "%2B")}">{wheel}</a><br/>\n' for wheel in names)
    return f'<h1>Pre-built wheels</h1>\nSee <a href="https://docs.example/k2/">the documentation</a><br/>\n{links}'


NAMES = [
    name("cuda12.4", "2.6.0", "cp311", "20250207"),
    name("cuda12.4", "2.6.0", "cp311", "20250307"),
    name("cuda12.4", "2.6.0", "cp312", "20250307"),
    name("cuda12.1", "2.5.1", "cp311"),
    name("cuda11.8", "2.0.1", "cp311"),
    name("cpu", "2.6.0", "cp311"),
    name("cpu", "2.6.0", "cp311", "20250401", "manylinux_2_17_aarch64.manylinux2014_aarch64"),
    name("cpu", "2.6.0", "cp311", "20250401", "macosx_11_0_arm64"),
    name("cpu", "2.7.0rc1", "cp311"),
]
WHEELS = k2_wheel.parse_page(page(NAMES))


def test_the_page_is_read_whole_and_other_links_are_passed_over() -> None:
    assert len(WHEELS) == len(NAMES)
    assert WHEELS[0].url.startswith(
        "https://wheels.example/k2/resolve/main/ubuntu-cuda/k2-1.24.4.dev20250207%2Bcuda12.4"
    )


@pytest.mark.parametrize(
    ("tags", "allow_cpu", "chosen"),
    [
        (("cp311", "2.6.0", "12.4"), False, NAMES[1]),  # the newer of the two builds
        (("cp312", "2.6.0", "12.4"), False, NAMES[2]),
        (("cp311", "2.6.0", "12.4"), True, NAMES[1]),  # CUDA first even where a CPU wheel would do
        (("cp311", "2.6.0", ""), False, NAMES[5]),
        (("cp311", "2.6.0", "13.0"), True, NAMES[5]),
        (("cp311", "2.6.0", "", "linux-aarch64"), False, NAMES[6]),
        (("cp311", "2.6.0", "", "macosx-11.0-arm64"), False, NAMES[7]),
    ],
)
def test_the_wheel_that_fits(tags: tuple[str, ...], allow_cpu: bool, chosen: str) -> None:
    wheel = k2_wheel.choose(WHEELS, k2_wheel.Tags(*tags), allow_cpu)
    assert wheel.url.endswith(chosen.replace("+", "%2B"))


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        # The nearest first; a CUDA of another minor version, or a torch of another patch, is not good enough.
        (("cp311", "2.6.1", "12.4"), r"nearest for cp311: torch 2\.6\.0 \(cpu, cuda12\.4\); torch 2\.5\.1.*2\.7\.0rc1"),
        (("cp311", "2.5.1", "12.4"), r"torch 2\.5\.1 \(cuda12\.1\)"),
        (("cp311", "2.6.0", "13.0"), r"no wheel for Python cp311, torch 2\.6\.0, CUDA 13\.0"),
        (("cp38", "2.6.0", "12.4"), r"none of the page's 9 wheels is for cp38"),
        (("cp312", "2.6.0", "12.4", "linux-aarch64"), r"for cp312 on linux-aarch64"),
    ],
)
def test_no_wheel_fits(tags: tuple[str, ...], said: str) -> None:
    with pytest.raises(k2_wheel.WheelError, match=said):
        k2_wheel.choose(WHEELS, k2_wheel.Tags(*tags))


def test_a_page_without_wheels_and_one_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(k2_wheel.WheelError, match="no k2 wheel"):
        k2_wheel.choose(k2_wheel.parse_page("<html>404</html>"), k2_wheel.Tags("cp311", "2.6.0"))
    with pytest.raises(k2_wheel.WheelError, match="cannot read"):
        k2_wheel.read_page(str(tmp_path / "none.html"), timeout=1)
    with pytest.raises(k2_wheel.WheelError, match="cannot reach"):
        k2_wheel.read_page("http://127.0.0.1:9/cpu.html", timeout=3)


def run(script: Path, *arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(script), *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )


@pytest.mark.parametrize("script", ["tools/setup.sh", "tools/install_k2.sh", "tools/lint.sh", "tests/run.sh"])
def test_help_from_any_folder(script: str, tmp_path: Path) -> None:
    done = run(ROOT / script, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {script}")


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("tools/setup.sh", ["--nonsense"]),
        ("tools/setup.sh", ["--python"]),
        ("tools/install_k2.sh", ["--nonsense"]),
        ("tools/install_k2.sh", ["--page"]),
        ("tools/lint.sh", ["--nonsense"]),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(script: str, arguments: list[str], tmp_path: Path) -> None:
    done = run(ROOT / script, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert arguments[0] in done.stderr


@pytest.mark.parametrize("answer", ["exit 127", "echo 309"])
def test_setup_runs_a_python_before_it_believes_its_name(answer: str, tmp_path: Path) -> None:
    """A pyenv shim is there and fails when run; a Python 3.9 is too old for the training."""
    checkout = tmp_path / "a checkout"
    shutil.copytree(ROOT / "tools", checkout / "tools")
    shim = tmp_path / "python3.11"
    shim.write_text(f"#!/bin/sh\n{answer}\n")
    shim.chmod(0o755)
    done = run(checkout / "tools" / "setup.sh", "--python", str(shim), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["setup: no Python 3.10 or newer found; give one with --python PATH"]
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--dev"], 1)])
def test_without_k2_all_else_is_set_up(options: list[str], code: int, tmp_path: Path) -> None:
    """.venv is complete, and the Python 3.9 for k2 cannot make an environment: only the tests cannot do without."""
    checkout = tmp_path / "a checkout"
    shutil.copytree(ROOT / "tools", checkout / "tools")
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout / name)
    venv.create(checkout / ".venv", with_pip=False)
    kind = "dev" if options else "base"
    digest = hashlib.sha256(repr((sys.version, [str(checkout), kind])).encode())
    for name in ("tools/constraints.txt", "tools/constraints-k2.txt", "setup.cfg", "pyproject.toml"):
        digest.update((checkout / name).read_bytes())
    (checkout / ".venv" / ".ctcsd-setup").write_text(digest.hexdigest())
    shim = '#!/bin/sh\n[ "$1" = -c ] || exit 1\necho 309\n'
    (checkout / ".venv-k2/lib/python3.9/site-packages/torch").mkdir(parents=True)  # less room is asked for
    for python in (checkout / ".venv-k2" / "bin" / "python", tmp_path / "python3.9"):
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(shim)
        python.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = run(checkout / "tools" / "setup.sh", *options, cwd=tmp_path, PATH=path)
    assert done.returncode == code, done.stderr
    assert "setup: .venv is complete" in done.stdout
    said = re.fullmatch(r"setup: python -m venv failed \(log: (.*)\)\n", done.stderr)
    assert said and Path(said[1]).is_file(), "what it points to is there"
    assert ("no k2, for the reason above; the decoders without k2 work" in done.stdout) == (code == 0)


@pytest.fixture
def borrowed(tmp_path: Path) -> Path:
    """An interpreter of its own that sees this one's packages (torch, pip): a wheel can be installed for real."""
    home = tmp_path / "an environment"
    venv.create(home, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # install_k2.sh wants graphviz, which k2 needs; that it "is there" keeps the test off the network.
    info = site / "graphviz-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: graphviz\nVersion: 1.0\n")
    return home / "bin" / "python"


def build_wheel(folder: Path, filename: str, source: str) -> None:
    version = filename.split("-")[1]
    info = f"k2-{version}.dist-info"
    tag = "-".join(filename[: -len(".whl")].split("-")[2:])
    files = {
        "k2/__init__.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: k2\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: {tag}\n",
    }
    rows = []
    with zipfile.ZipFile(folder / filename, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{path},sha256={digest},{len(text)}\n")
        archive.writestr(f"{info}/RECORD", "".join(rows) + f"{info}/RECORD,,\n")


def fitting_name() -> str:
    tags = k2_wheel.probe(sys.executable)
    variant = f"cuda{tags.cuda}" if tags.cuda else "cpu"
    return name(variant, tags.torch, tags.python, platform=f"linux_{os.uname().machine}")


@pytest.mark.slow
@pytest.mark.parametrize("works", [True, False])
def test_install_k2_from_a_page(works: bool, borrowed: Path, tmp_path: Path) -> None:
    """The whole way with a local page; a wheel that does not work once installed does not stay."""
    source = (
        "def ctc_topo(max_token):\n    return None\n" if works else "raise ImportError('_k2.so: undefined symbol: x')"
    )
    build_wheel(tmp_path, fitting_name(), source)
    (tmp_path / "page.html").write_text(page([*NAMES, fitting_name()], folder=""))
    done = run(
        ROOT / "tools/install_k2.sh", "--python", str(borrowed), "--page", str(tmp_path / "page.html"), cwd=tmp_path
    )
    imported = subprocess.run([borrowed, "-c", "import k2"], capture_output=True, text=True)
    if works:
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "install_k2: k2 ok " + fitting_name().split("-")[1]
        assert imported.returncode == 0
    else:
        assert done.returncode == 1
        assert "built for another torch" in done.stderr
        assert "ModuleNotFoundError" in imported.stderr


def test_install_k2_says_what_to_do_when_no_wheel_fits(tmp_path: Path) -> None:
    tags = k2_wheel.probe(sys.executable)
    (tmp_path / "page.html").write_text(page([name("cuda9.9", "2.6.0", tags.python)]))
    done = run(ROOT / "tools/install_k2.sh", "--python", sys.executable, "--page", str(tmp_path / "page.html"))
    assert done.returncode == 1
    assert f"nearest for {tags.python}: torch 2.6.0 (cuda9.9)" in done.stderr
    assert "go on without k2" in done.stderr
