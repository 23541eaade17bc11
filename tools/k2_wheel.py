"""Choose the k2 wheel that fits an interpreter from the k2 project's wheel page (standard library only).

k2 wheels are bound to one Python, one torch and one CUDA, and the k2 package of the package index fits almost none of
them; the project's own page lists a wheel for each combination that was built. :func:`choose` is a pure function over
the text of such a page, so that it is tested without a network.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urljoin

CUDA_PAGE = "https://k2-fsa.github.io/k2/cuda.html"
CPU_PAGE = "https://k2-fsa.github.io/k2/cpu.html"

WHEEL_NAME = re.compile(
    r"k2-(?P<version>[^+-]+)\+(?P<variant>cpu|cuda[\d.]+)\.torch(?P<torch>\d+(?:\.\w+)*)"
    r"-(?P<python>cp\d+)-\w+-(?P<platform>[\w.]+)\.whl"
)

# torch is not imported: its version file says all, and answers in milliseconds even where torch itself is broken.
PROBE = """
import importlib.util, json, runpy, sys, sysconfig
spec = importlib.util.find_spec("torch")
version = runpy.run_path(spec.submodule_search_locations[0] + "/version.py") if spec else {}
print(json.dumps({"python": "cp%d%d" % sys.version_info[:2], "platform": sysconfig.get_platform(),
    "torch": str(version.get("__version__", "")).split("+")[0], "cuda": version.get("cuda") or ""}))
"""


class WheelError(Exception):
    """No wheel can be chosen; the message says why and what to do."""


class Tags(NamedTuple):
    """What a wheel must fit: ``python`` such as cp311, ``torch`` such as 2.6.0, ``cuda`` such as 12.4 (empty: none)."""

    python: str
    torch: str
    cuda: str = ""
    platform: str = "linux-x86_64"


@dataclass(frozen=True)
class Wheel:
    """One wheel of the page; ``variant`` is cpu or cuda with its version."""

    url: str
    version: str
    variant: str
    torch: str
    python: str
    platform: str


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hrefs += [value for name, value in attrs if tag == "a" and name == "href" and value]


def parse_page(text: str, base: str = "") -> list[Wheel]:
    """All k2 wheels that the page links to; links to anything else are passed over."""
    links = _Links()
    links.feed(text)
    wheels = []
    for href in links.hrefs:
        url = urljoin(base, href)
        match = WHEEL_NAME.fullmatch(unquote(url.split("#")[0]).rsplit("/", 1)[-1])
        if match:
            wheels.append(Wheel(url=url, **match.groupdict()))
    return wheels


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _same_platform(wheel: str, machine: str) -> bool:
    """Whether a wheel's platform (manylinux_2_17_x86_64) is the machine's (linux-x86_64), C library aside."""
    system, *_, arch = machine.split("-")
    return system in wheel and wheel.endswith(arch)


def choose(wheels: list[Wheel], tags: Tags, allow_cpu: bool = False) -> Wheel:
    """The newest wheel that fits ``tags`` exactly.

    k2 refuses a torch or a CUDA other than the one it was built with, so nothing less than equal versions will do.
    A CPU wheel does import beside a CUDA torch, but then computes on the CPU: taken where ``allow_cpu`` says so.

    Raises:
        WheelError: none fits; the message names the nearest torch versions that have one.
    """
    here = [wheel for wheel in wheels if wheel.python == tags.python and _same_platform(wheel.platform, tags.platform)]
    variants = [f"cuda{tags.cuda}"] if tags.cuda else ["cpu"]
    if allow_cpu and tags.cuda:
        variants.append("cpu")
    for variant in variants:
        fitting = [wheel for wheel in here if wheel.variant == variant and wheel.torch == tags.torch]
        if fitting:
            return max(fitting, key=lambda wheel: _numbers(wheel.version))
    raise WheelError(_explain(here, tags, len(wheels)))


def _explain(here: list[Wheel], tags: Tags, total: int) -> str:
    wanted = f"Python {tags.python}, torch {tags.torch}, {'CUDA ' + tags.cuda if tags.cuda else 'no CUDA'}"
    if not total:
        return "the page holds no k2 wheel: is it the right one?"
    if not here:
        return f"none of the page's {total} wheels is for {tags.python} on {tags.platform}"
    builds: dict[str, set[str]] = {}
    for wheel in here:
        builds.setdefault(wheel.torch, set()).add(wheel.variant)
    mine = _numbers(tags.torch)

    def distance(torch: str) -> tuple[int, ...]:
        theirs = _numbers(torch)
        return tuple(abs(a - b) for a, b in zip(theirs, mine))

    nearest = sorted(builds, key=distance)[:4]
    listed = "; ".join(f"torch {torch} ({', '.join(sorted(builds[torch]))})" for torch in nearest)
    return f"no wheel for {wanted}; nearest for {tags.python}: {listed}"


def probe(python: str) -> Tags:
    """The tags of an interpreter, asked by running it."""
    try:
        done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WheelError(f"{python} does not run: {error}") from error
    if done.returncode:
        raise WheelError(f"{python} does not run: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    tags = Tags(**json.loads(done.stdout))
    if not tags.torch:
        raise WheelError(f"{python} has no torch: install torch first, k2 is built for one version of it")
    return tags


def read_page(page: str, timeout: float) -> str:
    """The text of a page given as an address or a file; ``timeout`` in seconds bounds the whole attempt."""
    if "://" not in page:
        try:
            return Path(page).read_text(encoding="utf-8")
        except OSError as error:
            raise WheelError(f"cannot read {page}: {error.strerror}") from error
    answer: list[str] = []
    problem = ["no answer"]

    def fetch() -> None:
        try:
            with urllib.request.urlopen(page, timeout=timeout) as response:
                answer.append(response.read().decode("utf-8", "replace"))
        except (OSError, ValueError) as error:
            problem[0] = str(getattr(error, "reason", error))

    # A thread, because the time-out of urlopen does not bound the look-up of the host's name.
    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(timeout)
    if not answer:
        raise WheelError(f"cannot reach {page} within {timeout:g} s ({problem[0]})")
    return answer[0]


def find(python: str, pages: list[str], allow_cpu: bool, timeout: float) -> Wheel:
    """The wheel for ``python`` from ``pages``, or by default from the project's CUDA or CPU page."""
    tags = probe(python)
    if not pages:
        pages = [CUDA_PAGE] if tags.cuda else [CPU_PAGE]
        if allow_cpu and tags.cuda:
            pages.append(CPU_PAGE)
    wheels: list[Wheel] = []
    for page in pages:
        wheels += parse_page(read_page(page, timeout), base=page if "://" in page else Path(page).resolve().as_uri())
    return choose(wheels, tags, allow_cpu)


def main(argv: list[str] | None = None) -> int:
    """Print the address of the wheel; exit code 1 with one line on stderr where none fits."""
    parser = argparse.ArgumentParser(description="Print the address of the k2 wheel that fits an interpreter.")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to fit (default: this one)")
    parser.add_argument("--page", action="append", default=[], help="wheel page, address or file (default: k2's own)")
    parser.add_argument("--allow-cpu", action="store_true", help="beside a CUDA torch, take a CPU wheel if need be")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds to wait for a page (default: 20)")
    options = parser.parse_args(argv)
    try:
        print(find(options.python, options.page, options.allow_cpu, options.timeout).url)
    except WheelError as error:
        print(f"k2 wheel: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
