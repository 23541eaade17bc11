"""Done-markers: same is skipped, changed runs again and says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctcsd.stamp import changed, depends, mark, run_once, up_to_date


def test_options_and_files_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marker, source = tmp_path / "out.done", tmp_path / "in"
    source.write_text("one")
    needs = depends({"lr": 1, "model": {"layers": 4}}, [source])
    assert not up_to_date("thing", marker, needs)
    mark(marker, needs)
    assert up_to_date("thing", marker, needs)
    assert "thing: up to date" in capsys.readouterr().out
    assert changed(marker, depends({"lr": 1, "model": {"layers": 5}}, [source])) == "model.layers was 4, is 5"
    source.write_text("two")
    again = depends({"lr": 1, "model": {"layers": 4}}, [source])
    assert changed(marker, again) == f"file {source} changed"
    assert not up_to_date("thing", marker, again)
    assert not marker.exists(), "while the output is made again, nothing claims that it is whole"


def test_damaged_marker(tmp_path: Path) -> None:
    marker = tmp_path / "m"
    marker.write_text("{")
    assert "damaged" in str(changed(marker, {}))


def test_run_once(tmp_path: Path) -> None:
    marker, log, source = tmp_path / ".prepared", tmp_path / "log", tmp_path / "local"
    source.mkdir()
    (source / "prepare.py").write_text("x = 1\n")
    command = ["-c", f"open({str(log)!r}, 'a').write('x')"]
    for _ in range(3):
        assert run_once(marker, [source], [], command) == 0
    assert log.read_text() == "x"
    (source / "prepare.py").write_text("x = 2\n")
    assert run_once(marker, [source], [], command) == 0
    assert log.read_text() == "xx"
    (source / "audio.wav").write_bytes(b"1234")
    assert run_once(marker, [source], [], command) == 0
    assert log.read_text() == "xxx", "new audio in a folder counts"
    assert run_once(marker, [source], [], command) == 0
    assert log.read_text() == "xxx"
    output = tmp_path / "made"
    for _ in range(2):
        assert run_once(marker, [source], [output], command, ["-j"]) == 0
    assert log.read_text() == "xxxxx", "where the output is gone, it is made again"
    failing = ["-c", "raise SystemExit(3)"]
    assert run_once(marker, [source], [], failing) == 3
    assert run_once(marker, [source], [], failing) == 3, "a failed command is not done"


def test_a_file_is_its_content_however_its_path_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    mark(Path("marker"), depends({}, [Path("a"), Path("b")]))
    assert changed(Path("marker"), depends({}, [tmp_path / "b", tmp_path / "a"])) is None
    (tmp_path / "a").write_text("two")
    (tmp_path / "b").write_text("one")
    assert changed(Path("marker"), depends({}, [Path("a"), Path("b")])) == "file a changed, file b changed"


def test_a_refused_command_leaves_the_marker_to_its_caller(tmp_path: Path) -> None:
    mark(tmp_path / "m", {"option": 1})
    assert not up_to_date("thing", tmp_path / "m", {"option": 2}, keep=True)
    assert up_to_date("thing", tmp_path / "m", {"option": 1})


def test_run_once_does_not_depend_on_its_own_output(tmp_path: Path) -> None:
    """The data folder lies below the folder of recordings, as with --audio my --data my/data."""
    data, log = tmp_path / "my" / "data", tmp_path / "log"
    (data / "audio").mkdir(parents=True)
    (tmp_path / "my" / "one.wav").write_bytes(b"1")
    script = f"open({str(log)!r}, 'a').write('x'); open({str(data / 'audio' / 'u.flac')!r}, 'w').write('y')"
    for _ in range(2):
        assert run_once(data / ".prepared", [tmp_path / "my"], [], ["-c", script]) == 0
    assert log.read_text() == "x"
    (tmp_path / "my" / "two.wav").write_bytes(b"2")
    assert run_once(data / ".prepared", [tmp_path / "my"], [], ["-c", script]) == 0
    assert log.read_text() == "xx"
