"""Where k2 works, and why not where it does not.

k2 is a compiled module bound to one Python and one torch, so it may have to live in an interpreter of its own
(``.venv-k2``). Every question is answered by running an interpreter, never by importing k2 here: an import that fails
half-way leaves torch in a state that the asking process then has to live with.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

COMPLETE = ".ctcsd-setup"  # what tools/setup.sh leaves in an environment at its end
PROBE_TIMEOUT = 180.0  # seconds; the first import of torch from a cold disk takes a good part of a minute

# Runs under the interpreter in question. The empty path entry goes, lest a k2 checkout in the current folder be taken.
PROBE = """
import glob, importlib.util, json, os, sys
from importlib.machinery import EXTENSION_SUFFIXES
sys.path = [entry for entry in sys.path if entry]
found = {"python": "%d.%d" % sys.version_info[:2], "version": "", "binaries": [], "loadable": False, "error": None}
try:
    spec = importlib.util.find_spec("k2")
except ValueError:
    spec = None
found["installed"] = spec is not None
if spec is not None:
    try:
        from importlib.metadata import version
        found["version"] = version("k2")
    except Exception:
        pass
    folder = (list(spec.submodule_search_locations or []) or [os.path.dirname(spec.origin or "")])[0]
    places = {os.path.dirname(folder), folder, os.path.join(folder, "lib")} | set(sys.path)
    binaries = [path for place in places for path in glob.glob(os.path.join(glob.escape(place), "_k2.*"))]
    found["binaries"] = sorted(os.path.basename(path) for path in binaries)
    found["loadable"] = any(name == "_k2" + suffix for name in found["binaries"] for suffix in EXTENSION_SUFFIXES)
    try:
        import k2
        k2.ctc_topo(2)
    except BaseException as error:
        found["error"] = [type(error).__name__, str(error), getattr(error, "name", None) or ""]
print("k2_env:" + json.dumps(found))
"""

# What the dynamic loader and k2 itself say when torch is not the one that k2 was linked to.
OTHER_TORCH_SIGNS = (
    "k2 was built using",
    "undefined symbol",
    "symbol not found",
    "libtorch",
    "libc10",
    "dll load failed",
)


class K2State(Enum):
    """What became of k2 in an interpreter."""

    ok = "ok"
    missing = "k2 not installed"
    other_python = "k2 installed for another Python"
    other_torch = "k2 built for another torch"
    broken = "k2 broken"


@dataclass(frozen=True)
class K2Status:
    """The diagnosis of one interpreter: ``detail`` is one line for people, ``version`` is empty where unknown."""

    state: K2State
    detail: str = ""
    version: str = ""

    @property
    def ok(self) -> bool:
        return self.state is K2State.ok

    def __str__(self) -> str:
        return ": ".join(part for part in (self.state.value, self.detail) if part)


def diagnose(python: str | Path) -> K2Status:
    """Run ``python``, import k2 there, build a small graph, and say what came of it."""
    try:
        done = subprocess.run(
            [str(python), "-c", PROBE], capture_output=True, text=True, timeout=PROBE_TIMEOUT, stdin=subprocess.DEVNULL
        )
    except OSError as error:
        return K2Status(K2State.broken, f"{python} does not run ({error.strerror})")
    except subprocess.TimeoutExpired:
        return K2Status(K2State.broken, f"import k2 gave no answer within {PROBE_TIMEOUT:.0f} s")
    answers = [line for line in done.stdout.splitlines() if line.startswith("k2_env:")]
    if not answers:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        return K2Status(K2State.broken, f"{python} ended with code {done.returncode} ({last})")
    return _classify(json.loads(answers[-1][len("k2_env:") :]))


def _classify(found: dict) -> K2Status:
    version = found["version"]
    if not found["installed"]:
        return K2Status(K2State.missing)
    if found["error"] is None:
        return K2Status(K2State.ok, version=version)
    kind, message, module = found["error"]
    first = message.strip().splitlines()[0] if message.strip() else kind
    if found["binaries"] and not found["loadable"]:
        # Looked at before the message: k2 compares torch first, and so blames torch for a wheel of another Python.
        names = ", ".join(found["binaries"])
        return K2Status(K2State.other_python, f"holds {names}, this is Python {found['python']}", version)
    if kind == "ModuleNotFoundError" and module == "_k2":
        return K2Status(K2State.other_python, f"it has no binary _k2 for Python {found['python']}", version)
    if any(sign in message.lower() for sign in OTHER_TORCH_SIGNS):
        return K2Status(K2State.other_torch, "; ".join(message.strip().splitlines()[:2]), version)
    return K2Status(K2State.broken, f"{kind}: {first}", version)


def sibling_pythons() -> list[Path]:
    """Interpreters made for k2 by tools/setup.sh: beside this environment, or in the checkout that ctcsd runs from."""
    roots = [Path(sys.prefix).parent, Path(__file__).resolve().parents[1]]
    places = [root / ".venv-k2" / "bin" / "python" for root in roots]
    return [place for place in dict.fromkeys(places) if place.is_file()]


def _works(python: Path) -> bool:
    """Whether tools/setup.sh has seen k2 work there, or it does now."""
    return (python.parents[1] / COMPLETE).is_file() or diagnose(python).ok


def find_k2_python() -> Path | None:
    """The interpreter to run k2 under: this one where k2 works in it, else a sibling where it works, or None."""
    if "k2" in sys.modules:
        return Path(sys.executable)
    if importlib.util.find_spec("k2") is not None and diagnose(sys.executable).ok:
        return Path(sys.executable)
    return next(filter(_works, sibling_pythons()), None)


def main(argv: list[str]) -> int:
    """For scripts: print the path of the k2 interpreter; given a path, the diagnosis of that interpreter."""
    if argv:
        status = diagnose(argv[0])
        print(f"{status.state.value} {status.version}".strip() if status.ok else status)
        return 0 if status.ok else 1
    python = find_k2_python()
    if python is None:
        print("k2: no interpreter has it (tools/setup.sh makes one)", file=sys.stderr)
        return 1
    print(python)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
