"""What a store is asked, and asked again; copies of its files here, and folders that are left of killed processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from s3_server import S3Server

from segment.errors import ImageUnreadable, MissingExtra, StoreRefuses, StoreUnreachable
from segment.images.contents.hashes import content_of
from segment.images.find import Source
from segment.stores import copies, requests
from segment.stores.copies import Copies, here
from segment.stores.ranges import BLOCK, RangedFile
from segment.stores.scratch import LOCK, PREFIX, remove_scratch, scratch_folder

FOLDER = Path("s3://bucket/folder")


def put(folder: Path, **files: bytes) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    requests.put([(folder / name, FOLDER / name) for name in files])


def test_what_was_put_is_listed_read_and_taken_away(server: S3Server, tmp_path: Path) -> None:
    put(tmp_path, a=b"one", b=b"two")
    versions = requests.files_below(FOLDER)
    assert list(versions) == [FOLDER / "a", FOLDER / "b"]
    assert versions[FOLDER / "a"] == requests.version_of(FOLDER / "a") != versions[FOLDER / "b"]
    put(tmp_path, a=b"six")  # of the same size
    assert requests.version_of(FOLDER / "a") not in ("", versions[FOLDER / "a"])
    assert (requests.is_file_there(FOLDER / "a"), requests.is_file_there(FOLDER)) == (True, False)
    assert requests.matching(FOLDER / "[b-z]") == [FOLDER / "b"]
    requests.remove([FOLDER / "a", FOLDER / "was never there", tmp_path / "b", tmp_path / "was never here"])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (requests.version_of(FOLDER / "a"), list(requests.files_below(FOLDER))) == ("", [FOLDER / "b"])
    assert requests.files_below(Path("s3://bucket/nothing")) == {}


def test_keys_that_no_path_names_are_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keys = ("a", "/b", "deeper/../c", "marked/", "")
    found = {f"bucket/folder/{key}": {"size": 1, "ETag": "x"} for key in keys}
    monkeypatch.setattr(requests, "asked", lambda *_: found)
    assert set(requests.files_below(FOLDER)) == {FOLDER / "a"}
    assert "2 files whose keys have an empty part, . or .. in them, as no path has ('/b', 'deeper/../c')" in caplog.text


def test_a_store_that_fails_now_and_then_is_asked_again(server: S3Server, tmp_path: Path) -> None:
    server.failing = 0.4
    try:
        for number in range(10):
            put(tmp_path, **{f"file{number}": bytes([number])})
            with here(FOLDER / f"file{number}") as copy:
                assert copy.read_bytes() == bytes([number])
    finally:
        server.failing = 0.0


def test_a_store_that_stops_is_waited_for_and_said_once(
    server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, late=b"late")
    server.stop()
    timer = threading.Timer(1.5, server.start)
    timer.start()
    found: list[Any] = []
    readers = [threading.Thread(target=lambda: found.append(requests.files_below(FOLDER))) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in (*readers, timer):
        reader.join()
    assert len(found) == 3
    assert all(FOLDER / "late" in names for names in found)
    assert len([record for record in caplog.records if "asked again" in record.getMessage()]) == 1


def test_a_store_that_stays_away_ends_the_wait(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "PATIENCE", 0.5)
    server.stop()
    begun = time.monotonic()
    try:
        with pytest.raises(StoreUnreachable, match=r"s3://bucket/folder cannot be reached.*--resume"):
            requests.files_below(FOLDER)
    finally:
        server.start()
    assert time.monotonic() - begun < 30


def test_what_a_store_says_for_good_is_raised_at_once(server: S3Server, tmp_path: Path) -> None:
    begun = len(server.requests)
    with pytest.raises(FileNotFoundError, match="not there"), here(FOLDER / "nothing"):
        pass
    assert len(server.requests) - begun < 4
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="s3://no-such-bucket/a"):
        requests.put([(tmp_path / "a", Path("s3://no-such-bucket/a"))])
    with pytest.raises(StoreRefuses, match="Invalid bucket name"):
        requests.version_of(Path("s3://my bucket!/a"))


def test_without_credentials_it_is_refused_with_what_to_set(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    code = (
        "from pathlib import Path; from segment.stores.requests import put\n"
        "put([(Path(__import__('sys').executable), Path('s3://bucket/a'))])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "StoreRefuses" in ended.stderr
    assert "AWS_ACCESS_KEY_ID" in ended.stderr


def test_a_scheme_whose_library_is_missing_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    requests.store_of.cache_clear()
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "s3fs", None)
        with pytest.raises(MissingExtra, match=r"s3:// URLs need s3fs: pip install 'mcbn-segment\[s3\]'"):
            requests.version_of(Path("s3://bucket/a"))
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(MissingExtra, match=r"gs:// URLs need another library: .*gcsfs"):
        requests.version_of(Path("gs://bucket/a"))


def test_other_stores_of_fsspec_are_read_and_written_too(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    there = Path("memory://folder/a")
    requests.put([(tmp_path / "a", there)])
    assert list(requests.files_below(Path("memory://folder"))) == [there]
    with here(there) as copy:
        assert copy.read_bytes() == b"one"


class _Web(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


class _WebWithoutTimes(_Web):
    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Last-Modified":
            super().send_header(keyword, value)


@pytest.mark.parametrize("kind", [_Web, _WebWithoutTimes])
@pytest.mark.parametrize("name", ["a.bmp", "a.tif"])
def test_an_image_on_a_web_server_that_changes_in_its_size_is_another(
    kind: type[_Web], name: str, tmp_path: Path
) -> None:
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(kind, directory=str(tmp_path)))
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    try:
        source, contents = Source("a", Path(f"http://127.0.0.1:{web.server_port}/{name}")), []
        for second, data in enumerate((b"one", b"two")):
            (tmp_path / name).write_bytes(data)
            os.utime(tmp_path / name, (second, second))
            contents.append(content_of(source))
        assert contents[0] != contents[1]
        assert all(bool(version) == (kind is _Web) for _, version in contents)
    finally:
        web.shutdown()
        thread.join()
        web.server_close()


class _Answering(BaseHTTPRequestHandler):
    """Answers /503-503 by a 503 twice and then by the file, and /403 always so."""

    asked: ClassVar[Counter[str]] = Counter()

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        codes = [int(code) for code in self.path.strip("/").split("-")]
        self.asked[self.path] += 1
        code = codes[-1] if len(codes) == 1 else [*codes, 200][min(self.asked[self.path], len(codes) + 1) - 1]
        self.send_response(code)
        self.send_header("Content-Length", "4")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"file")

    do_HEAD = do_GET


def test_a_web_server_that_fails_is_asked_again_and_one_that_refuses_is_not(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answering) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{web.server_port}"
            assert requests.size_of_file(Path(f"{url}/503-503-503")) == 4, "not taken for one that is not there"
            begun = time.monotonic()
            with pytest.raises(PermissionError, match="does not allow"), here(Path(f"{url}/403")):
                pass
            with pytest.raises(FileNotFoundError), here(Path(f"{url}/404")):
                pass
            assert time.monotonic() - begun < requests.FIRST_WAIT * 20
            assert _Answering.asked["/403"] < 6
        finally:
            web.shutdown()
            thread.join()


@pytest.mark.parametrize("key", ["Content-MD5", "Digest", "modify", "modificationTime", "sha", "created"])
def test_what_a_store_says_of_a_file_s_content_is_its_version(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Path("memory://marked/a")
    monkeypatch.setattr(requests, "info_of", lambda _: {"size": 3, "type": "file", key: "x"})
    assert requests.version_of(there) == "3-x"
    monkeypatch.setattr(requests, "info_of", lambda _: {"size": 3, "type": "file", key: None})
    assert requests.version_of(there) == ""


def test_a_copy_is_made_once_for_all_who_read_it_and_goes_when_room_is_needed(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "KEPT", 250)
    put(tmp_path, **{f"copy{number}": bytes(100) for number in range(4)})
    kept = Copies()
    begun = len(server.requests)
    places: list[Path] = []

    def read() -> None:
        with kept.use(FOLDER / "copy0") as place:
            places.append(place)
            assert place.read_bytes() == bytes(100)

    readers = [threading.Thread(target=read) for _ in range(5)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len([method for method, _ in server.requests[begun:] if method == "GET"]) == 1
    with kept.use(FOLDER / "copy0"):
        for number in (1, 2, 3):
            with kept.use(FOLDER / f"copy{number}") as place:
                places.append(place)
    held = [place.exists() for place in dict.fromkeys(places)]
    assert held == [True, False, False, True]  # the one in use, and the last


def test_an_error_that_names_a_copy_names_the_url(server: S3Server, tmp_path: Path) -> None:
    put(tmp_path, broken=b"x")
    with pytest.raises(ImageUnreadable, match=r"^'s3://bucket/folder/broken' is odd$"), here(FOLDER / "broken") as copy:
        raise ImageUnreadable(f"{str(copy)!r} is odd")


def test_a_file_is_read_by_ranges(server: S3Server, tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3 * BLOCK + 1234)
    put(tmp_path, large=data)
    file = RangedFile(FOLDER / "large")
    file.seek(2 * BLOCK - 10)
    assert file.read(20) == data[2 * BLOCK - 10 : 2 * BLOCK + 10]
    file.seek(-5, 2)
    assert file.read() == data[-5:]
    assert requests.size_of_file(FOLDER / "large") == len(data)


def test_scratch_folders_go_with_their_process_and_after_a_killed_one(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from segment.stores.scratch import scratch_folder\n"
        "print(scratch_folder(), flush=True)\n"
        "if len(sys.argv) > 1: os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert not Path(ended.stdout.strip()).exists()
    killed = subprocess.run([*command, "kill"], capture_output=True, text=True, check=False, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert Path(killed.stdout.strip()).exists()
    os.utime(Path(killed.stdout.strip(), LOCK), (0, 0))  # not one that is just being made
    subprocess.run(command, check=True, env=environment)
    assert list(tmp_path.glob(f"{PREFIX}*")) == []
    mine = scratch_folder()
    assert mine.is_dir()
    remove_scratch(mine)
    assert not mine.exists()


def test_a_copy_that_has_changed_on_its_store_is_made_again(server: S3Server, tmp_path: Path) -> None:
    for data in (b"one", b"six"):
        put(tmp_path, changing=data)
        with here(FOLDER / "changing") as copy:
            assert copy.read_bytes() == data


def test_names_that_lead_out_of_a_folder_are_not_listed(server: S3Server, tmp_path: Path) -> None:
    for key in ("odd/a", "odd/../../evil", "odd//b", "odd/./c", "odd/with space#?%41 é"):
        server.put("bucket", key, b"x")
    folder = Path("s3://bucket/odd")
    assert set(requests.files_below(folder)) == {folder / "a", folder / "with space#?%41 é"}
    assert set(requests.files_below(Path("s3://bucket/other/../odd"))) == {
        Path("s3://bucket/other/../odd/a"),
        Path("s3://bucket/other/../odd/with space#?%41 é"),
    }
    with here(folder / "with space#?%41 é") as copy:
        assert copy.read_bytes() == b"x"
