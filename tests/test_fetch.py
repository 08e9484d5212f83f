"""The release is had from a server that behaves, and from servers that do not: each on 127.0.0.1, made by the test."""

import hashlib
import io
import logging
import random
import socket
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from covidlib.errors import DataError
from covidlib.fetch import ARCHIVES, ATTEMPTS, ZENODO, fetch

IMAGES, LABELS = "COVID-19-CT-Seg_20cases.zip", "Lung_and_Infection_Mask.zip"
MIB = 2**20


def make_zip(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def sums(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``faults`` are used up one per request, then all is well. ``asked`` keeps (path, Range)."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.asked = files, [], []
        self.ranges = True
        self.url = f"http://127.0.0.1:{self.server_address[1]}/records/1/files"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name, wanted = self.path.rsplit("/", 1)[1], self.headers.get("Range", "")
        self.server.asked.append((name, wanted))
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault == 404 or name not in self.server.files:
            return self.send_error(404)
        body = self.server.files[name]
        if fault == "another file":
            body = body[::-1]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if self.server.ranges and wanted else 0
        if start and start >= len(body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        body = body[start:]
        if fault == "truncated":  # shorter than the file, and said to be whole
            body = body[: len(body) // 2]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "break":  # shorter than said
            body = body[: len(body) - 10]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pooch.core.time.sleep", lambda _seconds: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[Server]:
    """Two archives with the same file names in them, as in the release; the first is 2.5 MiB, so that it can break."""
    noise = random.Random(0).randbytes(5 * MIB // 2)
    server = Server({
        IMAGES: make_zip({"case_1.nii.gz": noise, "case_2.nii.gz": b"image 2"}),
        LABELS: make_zip({"case_1.nii.gz": b"labels 1", "case_2.nii.gz": b"labels 2"}),
    })
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def get(server: Server, folder: Path) -> Path:
    return fetch(folder, server.url, sums(server.files))


def assert_whole(folder: Path) -> None:
    """Each archive in the folder of its own name, nothing half done beside it."""
    assert (folder / "COVID-19-CT-Seg_20cases" / "case_2.nii.gz").read_bytes() == b"image 2"
    assert (folder / "COVID-19-CT-Seg_20cases" / "case_1.nii.gz").stat().st_size == 5 * MIB // 2
    assert (folder / "Lung_and_Infection_Mask" / "case_2.nii.gz").read_bytes() == b"labels 2"
    assert not [path for path in folder.rglob("*") if path.suffix in (".part", ".unpacking") or "tmp" in path.name]


def test_the_real_release_is_named_and_pinned() -> None:
    assert ZENODO == "https://zenodo.org/records/3757476/files"
    assert sorted(ARCHIVES) == [IMAGES, "Infection_Mask.zip", "Lung_Mask.zip", LABELS]
    assert {len(bytes.fromhex(sha256)) for sha256 in ARCHIVES.values()} == {32}


def test_good_server(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture,
                     capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.INFO, logger="covidlib"):
        assert get(server, tmp_path / "data") == tmp_path / "data"
    assert_whole(tmp_path / "data")
    assert sorted(path.name for path in (tmp_path / "data" / "archives").iterdir()) == [IMAGES, LABELS]
    assert "1.1 GB" in caplog.messages[0] and IMAGES in caplog.messages[0]  # the cost is said first
    assert "MiB" not in capfd.readouterr().err  # no progress bar where no terminal is


def test_second_call_makes_no_request(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path)
    server.asked.clear()
    get(server, tmp_path)
    assert server.asked == []


def test_broken_transfer_goes_on_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.faults = ["break", "break"]
    get(server, tmp_path)
    assert_whole(tmp_path)
    assert server.asked[:3] == [(IMAGES, "bytes=0-"), (IMAGES, f"bytes={2 * MIB}-"), (IMAGES, f"bytes={2 * MIB}-")]


def test_broken_transfer_goes_on_in_a_later_call(server: Server, tmp_path: Path) -> None:
    server.faults = ["break"] * ATTEMPTS
    with pytest.raises(DataError, match=IMAGES):
        get(server, tmp_path)
    server.asked.clear()
    get(server, tmp_path)
    assert server.asked[0] == (IMAGES, f"bytes={2 * MIB}-")
    assert_whole(tmp_path)


def test_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges, server.faults = False, ["break"]
    get(server, tmp_path)
    assert_whole(tmp_path)
    assert [name for name, _range in server.asked] == [IMAGES, IMAGES, LABELS]


@pytest.mark.parametrize("size", [1, 5])
def test_leftover_of_another_file_is_dropped(server: Server, tmp_path: Path, size: int) -> None:
    """Shorter than the archive: the checksum finds it out. Longer: the server has no such rest."""
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / f"{IMAGES}.part").write_bytes(b"\0" * size * MIB)
    get(server, tmp_path)
    assert_whole(tmp_path)


def test_truncated_body_is_retried(server: Server, tmp_path: Path) -> None:
    server.faults = ["truncated"]
    get(server, tmp_path)
    assert_whole(tmp_path)
    assert server.asked[1] == (IMAGES, "bytes=0-")  # a body that passed for whole gives nothing to go on from


def test_always_truncated(server: Server, tmp_path: Path) -> None:
    server.faults = ["truncated"] * ATTEMPTS
    with pytest.raises(DataError, match="does not match the known hash"):
        get(server, tmp_path)
    assert not (tmp_path / "archives" / IMAGES).exists()


def test_wrong_checksum(server: Server, tmp_path: Path) -> None:
    server.faults = ["another file"] * ATTEMPTS
    with pytest.raises(DataError) as caught:
        get(server, tmp_path)
    assert len(server.asked) == ATTEMPTS
    assert "hash" in str(caught.value) and sums(server.files)[IMAGES] in str(caught.value)
    assert not (tmp_path / "COVID-19-CT-Seg_20cases").exists()


def test_not_found_tells_how_to_place_what_is_missing(server: Server, tmp_path: Path) -> None:
    wanted = sums(server.files)
    del server.files[LABELS]
    with pytest.raises(DataError) as caught:
        fetch(tmp_path, server.url, wanted)
    message = str(caught.value)
    assert message.startswith(LABELS) and "404" in message and f"{ATTEMPTS} attempts" in message
    assert f"{server.url}/{LABELS}  ->  {tmp_path / 'archives' / LABELS}" in message
    assert f"{tmp_path / 'Lung_and_Infection_Mask'}" in message
    assert IMAGES not in message  # that one came


def test_no_server_at_all(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(DataError) as caught:
        fetch(tmp_path, url)
    assert all(f"{url}/{name}  ->  {tmp_path / 'archives' / name}" in str(caught.value) for name in ARCHIVES)


def test_zips_placed_by_hand_need_no_server(server: Server, tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    for name, data in server.files.items():
        (tmp_path / "archives" / name).write_bytes(data)
    get(server, tmp_path)
    assert_whole(tmp_path)
    assert server.asked == []


def test_unpacked_folders_placed_by_hand_need_no_server(server: Server, tmp_path: Path) -> None:
    for name in server.files:
        (tmp_path / Path(name).stem).mkdir()
        (tmp_path / Path(name).stem / "case_1.nii.gz").touch()
    get(server, tmp_path)
    assert server.asked == []
    assert not (tmp_path / "archives").exists()


def test_damaged_zip_placed_by_hand_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / IMAGES).write_bytes(server.files[IMAGES][:1000])
    get(server, tmp_path)
    assert_whole(tmp_path)


@pytest.mark.parametrize("member", ["../outside.nii.gz", "a/../../outside.nii.gz", "/outside.nii.gz", "..\\outside.nii.gz",
                                    "C:\\outside.nii.gz"])
def test_unsafe_member_is_refused(server: Server, tmp_path: Path, member: str) -> None:
    server.files = {IMAGES: make_zip({"case_1.nii.gz": b"fine", member: b"not fine"})}
    with pytest.raises(DataError, match="outside"):
        get(server, tmp_path / "data")
    assert not list(tmp_path.rglob("*.nii.gz"))


def test_not_a_zip(server: Server, tmp_path: Path) -> None:
    server.files = {IMAGES: b"<html>Sign in to the network</html>"}
    with pytest.raises(DataError, match="not a zip"):
        get(server, tmp_path)


def test_unpacking_that_was_stopped_starts_again(server: Server, tmp_path: Path) -> None:
    half_done = tmp_path / "archives" / "COVID-19-CT-Seg_20cases.unpacking"
    half_done.mkdir(parents=True)
    (half_done / "case_0.nii.gz").touch()
    get(server, tmp_path)
    assert_whole(tmp_path)
    assert not (tmp_path / "COVID-19-CT-Seg_20cases" / "case_0.nii.gz").exists()
