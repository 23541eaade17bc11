"""``ctcsd doctor``: what works on this machine, in one table."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from ctcsd.errors import first_line
from ctcsd.k2_env import K2State, K2Status, diagnose, find_k2_python
from ctcsd.train.allocator import KEPT_KERNELS, KERNELS

LOW_DISK = 10.0  # GiB; an environment and a small corpus with its features take about that much
NEWEST_TESTED = (3, 13)
# What the environment may say to OpenMP, and to the allocators and oneDNN.
THREAD_SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MKL_NUM_THREADS")
ALLOCATOR_SETTINGS = ("LD_PRELOAD", "MALLOC_ARENA_MAX", "MALLOC_CONF", "GLIBC_TUNABLES", "PYTORCH_CUDA_ALLOC_CONF")
ONEDNN_SETTINGS = (KERNELS, "ONEDNN_MAX_CPU_ISA")


class Mark(Enum):
    """How one thing stands: ``note`` is for what merely helps, ``fail`` for what ctcsd cannot do without."""

    ok = "ok"
    note = "note"
    fail = "FAIL"


class Row(NamedTuple):
    """One line of the table."""

    name: str
    mark: Mark
    detail: str


def doctor(k2_python: Path | None = None) -> bool:
    """Print the table of what works here, and return whether the essentials do.

    Args:
        k2_python: the interpreter to look for k2 in (default: the one that the k2 decoders would use).
    """
    rows = [_python(), _torch(), *_libraries(), *_k2(k2_python), *_tools(), _revision(), *_machine()]
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{row.mark.value:<4}  {row.name:<{width}}  {row.detail}")
    broken = [row.name for row in rows if row.mark is Mark.fail]
    print(f"does not work: {', '.join(broken)} (tools/setup.sh repairs it)" if broken else "the essentials work")
    return not broken


def _trains_here() -> bool:
    """Python 3.9 is the k2 interpreter's: it searches and never trains, so the training's libraries may be absent."""
    return sys.version_info >= (3, 10)


def _python() -> Row:
    detail = f"{platform.python_version()} at {sys.executable}"
    if not _trains_here():
        return Row("python", Mark.note, f"{detail}: the decoders work, training wants 3.10 or newer")
    if sys.version_info[:2] > NEWEST_TESTED:
        return Row("python", Mark.note, f"{detail}: newer than tested")
    return Row("python", Mark.ok, detail)


def _imported(name: str) -> tuple[object | None, str]:
    """The module and its version, or None and one line on why it cannot be imported."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a library with a broken binary raises OSError or RuntimeError as readily
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        return None, "not installed" if missing else f"does not import: {first_line(error)}"
    return module, str(getattr(module, "__version__", "version unknown"))


def _torch() -> Row:
    module, version = _imported("torch")
    if module is None:
        return Row("torch", Mark.fail, version)
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        devices = f"CUDA {torch.version.cuda}: {', '.join(names)}"
    else:
        devices = f"built for CUDA {torch.version.cuda}, no device" if torch.version.cuda else "CPU build"
    return Row("torch", Mark.ok, f"{version}, {torch.get_num_threads()} CPU threads, {devices}")


def _libraries() -> list[Row]:
    rows = []
    for name, training_only in (("torchaudio", True), ("lightning", True), ("lhotse", False), ("soundfile", False)):
        module, version = _imported(name)
        mark = Mark.ok if module else Mark.fail
        if module is None and training_only and not _trains_here():
            mark, version = Mark.note, f"{version} (only for training)"
        rows.append(Row(name, mark, version))
    module, version = _imported("transformers")
    if module is None:
        version += " (only for model.backbone; .venv/bin/python -m pip install -c tools/constraints.txt transformers)"
    rows.append(Row("transformers", Mark.ok if module else Mark.note, version))
    return rows


def _k2(python: Path | None) -> list[Row]:
    """k2's rows: the interpreter it works in; where that is another one, also why not here."""
    chosen = python or find_k2_python()
    here = Path(sys.executable)
    if chosen is None:
        return [_k2_row(diagnose(here), "here", "; greedy and beam search work without k2")]
    status = diagnose(chosen)
    if chosen == here:
        return [_k2_row(status, "here")]
    rows = [_k2_row(status, f"in {chosen}")]
    own = diagnose(here)
    if own.state not in (K2State.missing, K2State.ok):
        rows.append(_k2_row(own, "here"))
    return rows


def _k2_row(status: K2Status, where: str, after: str = "") -> Row:
    if status.ok:
        return Row("k2", Mark.ok, f"{status.version or 'works'}, {where}")
    remedy = {
        K2State.missing: "tools/setup.sh or tools/install_k2.sh installs it",
        K2State.other_python: "pip uninstall k2 there, then tools/install_k2.sh or tools/setup.sh",
        K2State.other_torch: "tools/install_k2.sh picks the wheel for this torch",
        K2State.broken: "tools/setup.sh makes a fresh one",
    }[status.state]
    return Row("k2", Mark.note, f"{status} ({where}; {remedy}){after}")


def _tools() -> list[Row]:
    return [
        Row(name, Mark.ok, f"{'present' if shutil.which(name) else 'absent'}, not needed") for name in ("sox", "ffmpeg")
    ]


def _revision() -> Row:
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return Row("git", Mark.note, "not a checkout: results will carry no revision")
    try:
        revision = _git(root, "rev-parse", "--short=12", "HEAD")
        dirty = ", with changes" if _git(root, "status", "--porcelain") else ""
    except (OSError, subprocess.SubprocessError):
        return Row("git", Mark.note, "revision cannot be read")
    return Row("git", Mark.ok, revision + dirty)


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def _machine() -> list[Row]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    low = free < LOW_DISK
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [
        _threads(cores),
        Row("allocator", Mark.ok, "; ".join([_allocator(), *_settings(ALLOCATOR_SETTINGS)])),
        Row(
            "oneDNN",
            Mark.ok,
            "; ".join([f"a training has it keep {KEPT_KERNELS:,} kernels", *_settings(ONEDNN_SETTINGS)]),
        ),
        Row("disk", Mark.note if low else Mark.ok, f"{free:.0f} GiB free here" + (", which is little" if low else "")),
        Row("cores", Mark.ok, str(cores)),
        Row("memory", Mark.ok, _memory()),
    ]


def _threads(cores: int) -> Row:
    """Threads of an operation: more than cores wait for each other."""
    torch, _ = _imported("torch")
    if torch is None:
        return Row("threads", Mark.note, "unknown without torch")
    threads: int = torch.get_num_threads()  # type: ignore[attr-defined]
    settings = _settings(THREAD_SETTINGS) or ["none of " + ", ".join(THREAD_SETTINGS) + " is set"]
    detail = "; ".join([f"{threads} for an operation", *settings])
    if threads > cores:
        return Row("threads", Mark.note, f"{detail}: more than the {cores} cores, set train.threads={cores}")
    return Row("threads", Mark.ok, f"{detail}; train.threads sets a training's")


def _allocator() -> str:
    """Whose malloc serves this process, and so a training."""
    try:
        loaded = Path("/proc/self/maps").read_text()
    except OSError:
        return "the system's"
    for name in ("jemalloc", "tcmalloc", "mimalloc"):
        if f"lib{name}" in loaded:
            return f"{name}, preloaded"
    return "glibc, which a training tells to keep freed memory" if platform.libc_ver()[0] == "glibc" else "the system's"


def _settings(names: Sequence[str]) -> list[str]:
    return [f"{name}={os.environ[name]}" for name in names if name in os.environ]


def _memory() -> str:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return "unknown"
    kib = {name: int(rest.split()[0]) for name, rest in (line.split(":", 1) for line in lines)}
    return f"{kib['MemAvailable'] / 2**20:.1f} of {kib['MemTotal'] / 2**20:.1f} GiB free"
