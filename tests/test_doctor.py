"""The diagnosis of k2, on packages that are broken for real, and the table of ``ctcsd doctor``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from ctcsd.doctor import doctor
from ctcsd.k2_env import K2State, K2Status, diagnose, find_k2_python

# How k2 begins: torch is compared before the binary is loaded.
TORCH_CHECK = 'raise ImportError("k2 was built using PyTorch 1.13.1\\nBut you are using PyTorch 2.14.1 to run it")'
UNDEFINED = (
    'raise ImportError("/site/_k2.so: undefined symbol: _ZN3c106detail14torchCheckFailEPKcS2_jRKSs", name="_k2")'
)
WORKS = "def ctc_topo(max_token):\n    return max_token\n"


def fake_k2(folder: Path, source: str, binary: str = "") -> None:
    """A k2 package in ``folder`` with this ``__init__.py`` and, beside it, an empty binary module of this name."""
    (folder / "k2").mkdir()
    (folder / "k2" / "__init__.py").write_text(source)
    if binary:
        (folder / binary).touch()


def diagnose_with(monkeypatch: pytest.MonkeyPatch, folder: Path) -> K2Status:
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return diagnose(sys.executable)


@pytest.mark.parametrize(
    ("source", "binary", "state", "said"),
    [
        ("import _k2", "", K2State.other_python, "no binary _k2"),
        ("import _k2", "_k2.cpython-27-none.so", K2State.other_python, "_k2.cpython-27-none.so"),
        # What `pip install k2` leaves on a recent Python: k2 blames torch, but no torch would help.
        (TORCH_CHECK, "_k2.cpython-27-none.so", K2State.other_python, "_k2.cpython-27-none.so"),
        (TORCH_CHECK, "_k2.abi3.so", K2State.other_torch, "PyTorch 1.13.1; But you are using"),
        (UNDEFINED, "_k2.abi3.so", K2State.other_torch, "undefined symbol"),
        ("import _k2", "_k2.abi3.so", K2State.broken, "too short"),
        ("raise RuntimeError('boom')", "_k2.abi3.so", K2State.broken, "RuntimeError: boom"),
        ("import os; os.abort()", "_k2.abi3.so", K2State.broken, "ended with code -6"),
        ("", "_k2.abi3.so", K2State.broken, "ctc_topo"),
        (WORKS, "", K2State.ok, ""),
    ],
)
def test_a_broken_k2_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, binary: str, state: K2State, said: str
) -> None:
    fake_k2(tmp_path, source, binary)
    status = diagnose_with(monkeypatch, tmp_path)
    assert status.state is state, status
    assert said in status.detail
    assert "\n" not in str(status)


def test_no_k2_at_all(tmp_path: Path) -> None:
    """Asked of a bare interpreter: the one that runs the tests may have k2."""
    import venv

    venv.create(tmp_path / "bare", with_pip=False)
    status = diagnose(tmp_path / "bare" / "bin" / "python")
    assert status == K2Status(K2State.missing)


def test_an_interpreter_that_does_not_run(tmp_path: Path) -> None:
    assert diagnose(tmp_path / "python").state is K2State.broken


def test_a_k2_folder_in_the_current_directory_is_not_k2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = diagnose(sys.executable)
    fake_k2(tmp_path, "raise RuntimeError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    assert diagnose(sys.executable) == before


@pytest.mark.k2
def test_the_real_k2_works() -> None:
    python = find_k2_python()
    assert python is not None, "tools/setup.sh makes an interpreter with k2"
    status = diagnose(python)
    assert status.ok, status
    assert status.version


@pytest.mark.k2
def test_doctor_finds_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor()
    rows = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    assert {"python", "torch", "torchaudio", "lhotse", "soundfile", "lightning", "k2", "sox", "ffmpeg"} <= set(rows)
    assert {"git", "disk", "cores", "memory", "threads", "allocator", "oneDNN"} <= set(rows)
    assert rows["k2"].startswith("ok"), rows["k2"]
    assert str(find_k2_python()) in rows["k2"] or "here" in rows["k2"]


def test_doctor_says_what_an_essential_library_lacks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)  # an import of it then fails
    assert not doctor(k2_python=tmp_path / "python")
    out = capsys.readouterr().out
    assert "FAIL  soundfile" in out
    assert "does not work: soundfile" in out


def test_transformers_is_missing_but_not_essential(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert doctor(k2_python=tmp_path / "python")
    row = next(line for line in capsys.readouterr().out.splitlines() if line.split()[1] == "transformers")
    assert row.startswith("note") and "not installed (only for model.backbone" in row
    assert ".venv/bin/python -m pip install -c tools/constraints.txt transformers" in row


def test_doctor_gives_the_remedy_for_a_k2_of_another_python(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_k2(tmp_path, TORCH_CHECK, "_k2.cpython-27-none.so")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    doctor(k2_python=Path(sys.executable))
    row = next(line for line in capsys.readouterr().out.splitlines() if line.split()[1] == "k2")
    assert "another Python" in row and "pip uninstall k2" in row


@pytest.mark.parametrize(("threads", "mark"), [(1, "ok"), (4096, "note")])
def test_doctor_shows_the_threads_and_the_allocator_in_force(
    threads: int, mark: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "0")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "3")
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "77")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        doctor(k2_python=tmp_path / "python")
    finally:
        torch.set_num_threads(before)
    rows = {line[6:].split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert rows["threads"].startswith(mark) and "GOMP_SPINCOUNT=0" in rows["threads"]
    assert f"{threads} for an operation" in rows["threads"] and "train.threads" in rows["threads"]
    assert "MALLOC_ARENA_MAX=3" in rows["allocator"]
    assert "ONEDNN_PRIMITIVE_CACHE_CAPACITY=77" in rows["oneDNN"]
