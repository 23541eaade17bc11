"""Downloads from a server on this machine: stopped and resumed, damaged, refused; and archives that are not right."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from subprocess import PIPE, Popen

import pytest

from ctcsd.data import download
from ctcsd.data.download import fetch, unpack
from ctcsd.errors import UserError
from ctcsd.lock import locked

CONTENT = bytes(range(256)) * 4000
SUMS = [hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()]


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT, with ranges or without; the first `cuts` answers end half-way."""

    def __init__(self, log, ranges, cuts, *arguments):
        self.log, self.ranges, self.cuts = log, ranges, cuts
        super().__init__(*arguments)

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.log.append(wanted)
        if self.path != "/corpus.tgz":
            self.send_error(404)
            return
        first = int(wanted[len("bytes=") : -1]) if wanted and self.ranges else 0
        if first and first >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.cuts:
            self.cuts.pop()
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Start a server; returns its address and the list of ranges that it was asked for."""
    monkeypatch.setattr(download, "PAUSE", 0.0)
    servers = []

    def start(ranges=True, cuts=0):
        log = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, log, ranges, [None] * cuts))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/corpus.tgz", log

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("checksum", SUMS, ids=["md5", "sha256"])
def test_download_is_checked_and_kept(serve, tmp_path, checksum):
    url, log = serve()
    for _ in range(2):
        assert fetch(url, tmp_path / "new", checksum).read_bytes() == CONTENT
    assert log == [None] and [path.name for path in (tmp_path / "new").iterdir()] == ["corpus.tgz"]


def test_killed_download_goes_on(serve, tmp_path):
    url, log = serve()
    (tmp_path / "corpus.tgz.partial").write_bytes(CONTENT[:300000])
    assert fetch(url, tmp_path, SUMS[0]).read_bytes() == CONTENT
    assert log == ["bytes=300000-"]


def test_whole_partial_file_is_not_fetched_again(serve, tmp_path):
    url, log = serve()
    (tmp_path / "corpus.tgz.partial").write_bytes(CONTENT)
    assert fetch(url, tmp_path, SUMS[0]).read_bytes() == CONTENT and log == [f"bytes={len(CONTENT)}-"]


def test_broken_connections_are_taken_up_again(serve, tmp_path):
    url, log = serve(cuts=3)
    assert fetch(url, tmp_path, SUMS[0]).read_bytes() == CONTENT
    starts = [int(one[len("bytes=") : -1]) for one in log[1:]]
    assert len(log) == 4 and starts == sorted(starts) and starts[0] == len(CONTENT) // 2


def test_server_without_ranges_begins_anew(serve, tmp_path):
    url, _ = serve(ranges=False)
    (tmp_path / "corpus.tgz.partial").write_bytes(b"x" * 1000)
    assert fetch(url, tmp_path, SUMS[0]).read_bytes() == CONTENT


def test_wrong_checksum_is_one_line_and_leaves_nothing(serve, tmp_path):
    url, _ = serve()
    with pytest.raises(UserError, match=rf"checksum mismatch \({SUMS[0]}, not {'0' * 32}\); deleted: run again"):
        fetch(url, tmp_path, "0" * 32)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "corpus.tgz").write_bytes(b"the user's own, damaged")
    with pytest.raises(UserError, match="corpus.tgz: checksum mismatch .*: delete it and run again"):
        fetch(url, tmp_path, SUMS[0])
    assert (tmp_path / "corpus.tgz").read_bytes() == b"the user's own, damaged"


def test_two_processes_bring_and_unpack_a_corpus_once(serve, tmp_path):
    url, log = serve()
    archive(tmp_path / "a.tgz", {"corpus/a": b"x"})
    work = f"""
from pathlib import Path
from ctcsd.data.download import fetch, unpack
folder = Path({str(tmp_path)!r})
fetch({url!r}, folder, {SUMS[0]!r})
print(unpack(folder / "a.tgz", folder / "out", "corpus"))
"""
    with locked(tmp_path, ""):  # both are under way before either can begin
        both = [Popen([sys.executable, "-c", work], stdout=PIPE, stderr=PIPE, text=True) for _ in range(2)]
        for one in both:
            assert "another process downloads" in one.stdout.readline()
        assert log == []
    said = [one.communicate() for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert log == [None] and sum("unpacking" in out for out, _ in said) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tgz", "corpus.tgz", "out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["corpus"]


def test_no_file_and_no_server_are_one_line(serve, tmp_path):
    url, log = serve()
    with pytest.raises(UserError, match="nothing.tgz cannot be downloaded: 404 .*: run again .* or get nothing.tgz"):
        fetch(url.replace("corpus", "nothing"), tmp_path, SUMS[0])
    assert len(log) == 1
    with pytest.raises(UserError, match="cannot be downloaded: .*refused"):
        fetch("http://127.0.0.1:9/corpus.tgz", tmp_path, SUMS[0])
    with pytest.raises(UserError, match="www.openslr.org/12/corpus.tgz is no address: it begins with neither https://"):
        fetch("www.openslr.org/12/corpus.tgz", tmp_path, SUMS[0])


def archive(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_unpack_nested_archives_once(tmp_path):
    inner = archive(tmp_path / "S1.tar.gz", {"train/S1/a.wav": b"speech"}).read_bytes()
    outer = archive(tmp_path / "outer.tgz", {"data/wav/S1.tar.gz": inner, "data/text": b"a x", "other/b": b""})
    found = unpack(outer, tmp_path / "to", "data", nested="wav/*.tar.gz")
    assert (found / "wav/train/S1/a.wav").read_bytes() == b"speech" and not (found / "wav/S1.tar.gz").exists()
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["data"]
    outer.unlink()
    assert unpack(outer, tmp_path / "to", "data") == found, "what is there needs no archive"


def test_bad_archives_are_one_line_and_leave_nothing(tmp_path):
    whole = archive(tmp_path / "whole.tgz", {"data/a": b"x" * 100000})
    cut = tmp_path / "cut.tgz"
    cut.write_bytes(whole.read_bytes()[:100])
    outside = archive(tmp_path / "outside.tgz", {"data/../../evil": b"x"})
    for path, message in (
        (cut, "cannot be unpacked"),
        (outside, "cannot be unpacked"),
        (whole, "no folder datum in it"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            unpack(path, tmp_path / "to", "datum")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "evil").exists() and list((tmp_path / "to").glob("*")) == []
