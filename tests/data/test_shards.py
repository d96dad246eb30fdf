"""Tar shards: what is indexed, what is left out and named, and reading by number from files and URLs."""

import io
import json
import tarfile
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import webdataset
from PIL import Image

from semantic_routing.data import BrokenExampleError, BrokenExamples, ExampleStream, WebDatasetSource
from semantic_routing.data import shards as shards_module
from semantic_routing.data.shards import INDEX, find_files, index_shards
from semantic_routing.io.images import encode_png


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "cached_assets_path", lambda *names: tmp_path)


def png(red: int, size: tuple[int, int] = (6, 4)) -> bytes:
    return encode_png(Image.new("RGB", size, (red, 0, 0)))


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def pairs(first: int, count: int) -> list[tuple[str, bytes]]:
    """Members of examples whose red value and caption are their number."""
    return [
        member
        for number in range(first, first + count)
        for member in ((f"{number:04d}.png", png(number)), (f"{number:04d}.txt", f"number {number}".encode()))
    ]


def write_shards(folder: Path, shards: int, each: int) -> Path:
    for shard in range(shards):
        write_tar(folder / f"{shard:05d}.tar", pairs(shard * each, each))
    return folder


def opened(path: Any, **options: Any) -> Any:
    return WebDatasetSource(path=str(path), **options).open(16, 0)


def red(source: Any, index: int) -> int:
    return int(np.array(source[index].image)[0, 0, 0])


def test_every_example_is_found_by_its_number(tmp_path: Path) -> None:
    source = opened(write_shards(tmp_path / "set", 3, 4))
    assert (source.length, source.shards, source.left_out) == (12, [4, 4, 4], [])
    for index in (11, 0, 4, 3, 7):
        assert red(source, index) == index
        assert list(source[index].captions) == [f"number {index}"]
        assert source.picture_size(index) == (6, 4)
        assert source.image_file(index) == ("png", png(index))


def test_names_are_folders_globs_braces_and_lists(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set", 3, 1)
    files = [str(folder / f"{shard:05d}.tar") for shard in range(3)]
    assert find_files([str(folder)], "tar") == find_files([f"{folder}/*.tar"], "tar") == files
    assert find_files([f"{folder}/{{00002..00000}}.tar"], "tar") == files[::-1]
    assert find_files([files[1], str(folder)], "tar") == [files[1], files[0], files[2]]
    with pytest.raises(ValueError, match=r"There is no .*gone: expected .tar files, or a folder of some"):
        find_files([str(tmp_path / "gone")], "tar")
    with pytest.raises(OSError, match=r"nonsense://x cannot be read: Protocol not known: nonsense"):
        find_files(["nonsense://x"], "tar")


def test_captions_come_from_json_or_text(tmp_path: Path) -> None:
    record = {"text": ["one", "two"], "original_text": "zero", "label": "three"}
    members = [("a/1.x.png", b""), ("a/2.png", png(2)), ("a/2.json", json.dumps(record).encode())]
    members += [("b/2.png", png(3)), ("b/2.txt", "ünë\n".encode()), ("b/2.json", b'{"width": 6}')]
    path = write_tar(tmp_path / "set" / "0.tar", members)
    source = opened(path)
    assert [list(source[index].captions) for index in range(2)] == [["one", "two"], ["ünë"]]
    assert list(source[0].originals) == ["zero"]
    assert source.has_originals
    assert list(opened(path, text_key="label")[0].captions) == ["three"]
    assert not opened(write_shards(tmp_path / "plain", 1, 2)).has_originals


def broken_set(folder: Path) -> Path:
    """Shards with one whole example each, but for the first two, and what can be wrong with a shard."""
    good = pairs(7, 1)
    folder.mkdir()
    (folder / "empty.tar").write_bytes(b"")
    write_tar(folder / "hollow.tar", [])
    write_tar(folder / "text-only.tar", [*good, ("x.txt", b"a")])
    write_tar(folder / "picture-only.tar", [("x.png", png(1)), *good])
    write_tar(folder / "again.tar", [*good, ("y.bin", b""), *good])
    write_tar(folder / "twice.tar", [*good, ("x.png", png(1)), ("x.txt", b"a"), ("x.png", png(2))])
    write_tar(folder / "no-picture.tar", [("x.png", b"no picture"), ("x.txt", b"a"), *good])
    cut = write_tar(folder / "cut.tar", [*good, ("x.png", png(1)), ("x.txt", b"a" * 2000)])
    cut.write_bytes(cut.read_bytes()[:4000])
    open_end = write_tar(folder / "open-end.tar", good)
    open_end.write_bytes(open_end.read_bytes()[:2048])
    damaged = write_tar(folder / "damaged.tar", [*good, *pairs(1, 1)])
    content = bytearray(damaged.read_bytes())
    content[2048:2148] = b"\x7f" * 100
    damaged.write_bytes(content)
    (folder / "zipped.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    return folder


def test_memory_does_not_grow_with_shards_or_epochs(tmp_path: Path) -> None:
    """10,000 shards that are one file under many names, so that they are indexed soon."""
    tar = write_tar(tmp_path / "one.tar", pairs(0, 1))
    part = shards_module._index_shard(str(tar), tar.name, tar.stat().st_size)
    folder = tmp_path / "set"
    folder.mkdir()
    names = [f"{number:05d}.tar" for number in range(10_000)]
    for name in names:
        (folder / name).symlink_to(tar)
    shards_module._save(folder / INDEX, [part._replace(shard=part.shard._replace(name=name)) for name in names])
    source = opened(folder)
    assert source.length == 10_000
    stream = ExampleStream(source, 4, 0, window=256)

    def held(first: int) -> tuple[int, int]:
        """What reading leaves: bytes of Python's, and files that are open or mapped."""
        for number in range(first, first + 100):
            stream[number]
        own = Path("/proc/self")
        files = len(list((own / "fd").iterdir())) + len((own / "maps").read_text().splitlines())
        return tracemalloc.get_traced_memory()[0], files

    tracemalloc.start()
    memory, files = max(held(0), held(10_000))  # of two epochs the order is kept
    for first in (25_000, 123_456):
        more, more_files = held(first)
        assert more - memory < 2**16
        assert more_files - files < 20
    tracemalloc.stop()


def test_what_is_no_example_is_left_out_and_named(tmp_path: Path) -> None:
    source = opened(broken_set(tmp_path / "set"))
    assert source.length == 8
    assert [red(source, index) for index in range(8)] == [7] * 8
    told = "\n".join(source.left_out)
    assert len(source.left_out) > 8
    BrokenExamples(8, 1.0, source.left_out)  # all may be broken
    with pytest.raises(ValueError, match=r"13 of 21 examples are broken, more than data.max_broken 50.00%"):
        BrokenExamples(8, 0.5, source.left_out)
    for sentence in (
        "empty.tar: ", "hollow.tar: the shard has no whole example", "text-only.tar: x: there is no picture with it",
        "picture-only.tar: x: there is no caption with it", "again.tar: 0007: its name came before",
        "twice.tar: x: there are two members .png", "no-picture.tar: x: .png: cannot identify",
        "cut.tar: x: the shard is cut short in it", "open-end.tar: the shard ends without its end mark",
        "damaged.tar: the shard is damaged at byte 2048", "zipped.tar: ",
    ):  # fmt: skip
        assert sentence in told, sentence
    write_tar(tmp_path / "none" / "0.tar", [("x.txt", b"a")])
    with pytest.raises(ValueError, match=r"The 1 shards hold no whole example: 0.tar: x: there is no picture with it"):
        opened(tmp_path / "none")


def test_the_index_is_made_once_and_again_for_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_shards(tmp_path / "set", 3, 2)
    indexed: list[str] = []
    whole = shards_module._index_shard
    monkeypatch.setattr(shards_module, "_index_shard", lambda *shard: indexed.append(shard[1]) or whole(*shard))
    opened(folder)
    opened(folder)
    assert indexed == ["00000.tar", "00001.tar", "00002.tar"]
    write_tar(folder / "00001.tar", pairs(2, 30))
    assert opened(folder).shards == [2, 30, 2]
    assert indexed[3:] == ["00001.tar"]
    index_shards(find_files([str(folder)], "tar"), beside=True)
    assert (folder / INDEX).is_file()
    (tmp_path / "moved").mkdir()
    for path in folder.iterdir():
        path.rename(tmp_path / "moved" / path.name)
    count = len(indexed)
    assert opened(tmp_path / "moved").length == 34
    assert len(indexed) == count


def test_an_interrupted_index_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_shards(tmp_path / "set", 4, 1)
    monkeypatch.setattr(shards_module, "SECONDS_BETWEEN_SAVES", -1)
    indexed: list[str] = []
    whole = shards_module._index_shard

    def interrupted(*shard: Any) -> Any:
        indexed.append(shard[1])
        if len(indexed) == 3:
            raise KeyboardInterrupt
        return whole(*shard)

    monkeypatch.setattr(shards_module, "_index_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened(folder)
    assert opened(folder).length == 4
    assert indexed == ["00000.tar", "00001.tar", "00002.tar", "00002.tar", "00003.tar"]


def test_a_shard_that_changed_under_its_index_is_no_wrong_pair(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set", 1, 4)
    source = opened(folder)
    members = pairs(0, 4)
    write_tar(folder / "00000.tar", [members[1], members[0], *members[2:5], ("z.txt", b""), *members[6:]])
    for index in range(4):
        with suppress(BrokenExampleError):
            assert list(source[index].captions) == [f"number {red(source, index)}"]
    (folder / "00000.tar").unlink()
    with pytest.raises(BrokenExampleError, match=r"00000.tar, example 2: .*No such file"):
        source[2]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    """Serves the test's folder by HTTP, with byte ranges; `failing` are paths that break off."""

    class Handler(SimpleHTTPRequestHandler):
        failing: ClassVar[set[str]] = set()
        protocol_version = "HTTP/1.1"

        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def do_GET(self) -> None:
            path = Path(self.translate_path(self.path))
            if not path.is_file():
                self.send_error(404)
                return
            content = path.read_bytes()
            kind, _, span = self.headers.get("Range", "").partition("=")
            first, _, last = span.partition("-")
            part = content[int(first) : int(last) + 1] if kind else content
            self.send_response(206 if kind else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(part)))
            if kind:
                self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
            self.end_headers()
            if path.name in self.failing:
                self.wfile.write(part[: len(part) // 2])
                self.close_connection = True
            else:
                self.wfile.write(part)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    Handler.failing.clear()
    server.shutdown()
    thread.join()
    server.server_close()


def test_shards_behind_a_url(tmp_path: Path, server: Any) -> None:
    write_shards(tmp_path / "set", 2, 3)
    address = f"http://127.0.0.1:{server.server_address[1]}/set/{{00000..00001}}.tar"
    source = opened(address)
    assert (source.length, source.left_out) == (6, [])
    assert [red(source, index) for index in (5, 0)] == [5, 0]
    server.RequestHandlerClass.failing.add("00001.tar")
    assert red(source, 1) == 1
    with pytest.raises(BrokenExampleError, match=r"00001.tar, example 1: "):
        source[4]
    with pytest.raises(ValueError, match=r"There is no http.*/00009.tar"):
        opened(address.replace("{00000..00001}", "00009"))


def test_an_index_beside_shards_behind_a_url_is_fetched(
    tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_shards(tmp_path / "set", 2, 3)
    index_shards(find_files([str(folder)], "tar"), beside=True)
    monkeypatch.setattr(shards_module, "_index_shard", None)
    source = opened(f"http://127.0.0.1:{server.server_address[1]}/set/{{00000..00001}}.tar")
    assert red(source, 4) == 4


def test_the_library_reads_the_same_examples(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set", 2, 3)
    theirs = list(webdataset.WebDataset(find_files([str(folder)], "tar"), shardshuffle=False))
    source = opened(folder)
    assert [example["txt"].decode() for example in theirs] == [source[index].captions[0] for index in range(6)]
