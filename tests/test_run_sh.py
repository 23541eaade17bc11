"""The stage driver: its options, and all six stages on real speech with k2's search."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def run_sh(*arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    command = [str(REPOSITORY / "run.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def test_help_teaches() -> None:
    done = run_sh("--help")
    assert done.returncode == 0
    for word in ("--stop-stage", "--methods", "--recipe", "--exit", "--baseline", "--nj", "Examples:"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "1"], "unknown option '--stages'"),
        (["--stage", "7"], "there is no stage 7"),
        (["--stage", "two"], "takes a whole number"),
        (["--stage"], "--stage needs a value"),
        (["--stage", "4", "--stop_stage", "2"], "comes after"),
        (["--recipe", "egs/nowhere"], "no recipe at 'egs/nowhere'"),
        (["--baseline"], "--baseline needs a value"),
        (["--methods", "ctc skd", "--baseline", "cct"], "no baseline 'cct' among the methods: ctc skd"),
        (["fast"], "neither an option nor KEY=VALUE"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    done = run_sh(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_wrong_configuration_is_found_before_anything_starts() -> None:
    done = run_sh("--quick", "--methods", "skd ctcsd/conf/methods/skd.yaml")
    assert done.returncode == 1 and "two methods are called 'skd'" in done.stderr
    done = run_sh("--quick", "--methods", "ctc skdd")
    assert done.returncode == 1
    assert "no method 'skdd'; did you mean 'skd'" in done.stderr
    assert "stage" not in done.stdout
    for wrong, message in (
        ("distill.frames=symetric:2", "did you mean 'symmetric'"),
        ("student_layers=9", "layers 1 to"),
    ):
        done = run_sh("--quick", wrong)
        assert done.returncode == 1 and message in done.stderr and "stage" not in done.stdout
    done = run_sh("--quick", "--exit", "studnet")
    assert done.returncode == 1 and "none of these methods has an exit 'studnet'" in done.stderr


@pytest.mark.slow
@pytest.mark.k2
def test_quick_does_all_six_stages(tmp_path: Path) -> None:
    """--quick, end to end; a second start skips it all; a changed option runs what depends on it, and only that."""
    exp = tmp_path / "exp"
    first = run_sh("--quick", "--exp", str(exp))
    assert first.returncode == 0, first.stdout + first.stderr
    table = (exp / "RESULTS.md").read_text()
    for word in ("| skd ", "| ctc ", "greedy", "k2-1best", "student", "teacher", "./run.sh --quick"):
        assert word in table
    rows = [json.loads(x) for p in exp.rglob("results.jsonl") for x in p.read_text().splitlines()]
    assert len(rows) == 2 * (1 + 2) * 3, "splits x exits of ctc and skd x decoders"
    assert {row["decoder"]: row["options"] for row in rows}["k2-1best"]["search_beam"] == 4.0
    for row in rows:
        assert 0 <= row["wer_low"] <= row["wer"] <= row["wer_high"]
        assert row["revision"] and row["parameters"] > 0 and row["words"] > 0
    share = float(next(x for x in table.splitlines() if "agree on" in x).split("agree on ")[1].split(" %")[0])
    assert share >= 99.0
    for name in ("recogs", "errs", "wer-summary"):
        assert list((exp / "skd" / "seed1" / "decode" / "k2-1best").glob(f"{name}-*.txt"))

    second = run_sh("--quick", "--exp", str(exp))
    assert second.returncode == 0, second.stderr
    assert "epoch" not in second.stdout and second.stdout.count("up to date") >= 15

    shutil.rmtree(exp / "ctc")
    third = run_sh("--quick", "--exp", str(exp), "--methods", "skd", "--stage", "4", "decode.search_beam=15")
    assert third.returncode == 0, third.stderr
    assert "search_beam was 4.0, is 15.0" in third.stdout
    assert "greedy on mini_dev student: up to date" in third.stdout


@pytest.mark.slow
def test_a_failed_stage_names_its_command_and_log(tmp_path: Path) -> None:
    done = run_sh("--quick", "--exp", str(tmp_path / "exp"), "--data", str(tmp_path / "data"), "--stage", "1")
    assert done.returncode == 1
    assert "run stage 0" in done.stdout + done.stderr
    assert "stage 1 failed: " in done.stderr and "features.log" in done.stderr
