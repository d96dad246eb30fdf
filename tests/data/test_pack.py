"""Packing any source into tar shards, and Parquet files."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny import write_images
from typer.testing import CliRunner

from semantic_routing.cli import app
from semantic_routing.data import BrokenExampleError, FolderSource, ParquetSource, ScenesSource, WebDatasetSource
from semantic_routing.data import pack as pack_module
from semantic_routing.data import shards as shards_module
from semantic_routing.data.pack import pack, source_of


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "cached_assets_path", lambda *names: tmp_path)


def same(one: Any, other: Any, index: int) -> bool:
    (first, *texts), (second, *others) = one[index], other[index]
    return np.array_equal(np.array(first), np.array(second)) and list(map(list, texts)) == list(map(list, others))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_packed_is_what_was_there(tmp_path: Path) -> None:
    path = write_images(tmp_path / "set", 7)
    Image.new("RGB", (30, 8), "red").save(tmp_path / "set" / "images" / "3.jpg")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[3]["image"] = "images/3.jpg"
    records[2] |= {"text": ["a", "ü"], "original_text": "b"}
    path.write_text("\n".join(map(json.dumps, records)))
    config = FolderSource(path=path)
    report = pack(config, tmp_path / "out", 16, shard_size=3)
    assert (report.examples, report.broken) == (7, [])
    packed, source = WebDatasetSource(path=str(tmp_path / "out")).open(16, 0), config.open(16, 0)
    assert packed.shards == [3, 3, 1]
    assert packed.has_originals
    assert all(same(packed, source, index) for index in range(7))
    assert packed.image_file(3) == ("jpg", (tmp_path / "set" / "images" / "3.jpg").read_bytes())
    assert packed.picture_size(3) == (30, 8)


def test_in_parts_by_several_processes_the_files_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = FolderSource(path=write_images(tmp_path / "set", 7))
    pack(config, tmp_path / "whole", 16, shard_size=2)
    write, written = pack_module._write, []

    def interrupted(path: Path, *rows: Any) -> None:
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *rows)

    monkeypatch.setattr(pack_module, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(config, tmp_path / "parts", 16, shard_size=2)
    monkeypatch.setattr(pack_module, "_write", write)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        pack(config, tmp_path / "parts", 16, shard_size=2)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"parts was begun with shard_size 2; the config says 3"):
        pack(config, tmp_path / "parts", 16, shard_size=3)
    (tmp_path / "parts" / "pack.json").write_text("{}")
    with pytest.raises(ValueError, match=r"pack.json is not a manifest that sroute pack wrote"):
        pack(config, tmp_path / "parts", 16, shard_size=2)


def test_a_folder_has_one_writer_and_is_read_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, out = FolderSource(path=write_images(tmp_path / "set", 7)), tmp_path / "out"
    write = pack_module._write

    def second(path: Path, *rows: Any) -> None:
        with pytest.raises(ValueError, match=r"Another sroute pack writes in .*out; wait for its end, or name another"):
            pack(config, out, 16, shard_size=2)
        write(path, *rows)

    monkeypatch.setattr(pack_module, "_write", second)
    pack(config, out, 16, shard_size=2)
    (out / "shard-00002.tar").unlink()
    with pytest.raises(ValueError, match=r"out has 3 of 4 shards; run sroute pack again to go on, or name those to"):
        WebDatasetSource(path=str(out)).open(16, 0)
    assert WebDatasetSource(path=str(out / "*.tar")).open(16, 0).length == 5


def test_broken_pictures_are_left_out_and_too_many_stop_it(tmp_path: Path) -> None:
    path = write_images(tmp_path / "set", 5)
    (path.parent / "images" / "1.png").write_bytes(b"broken")
    report = pack(FolderSource(path=path), tmp_path / "out", 16, max_broken=0.5)
    assert len(report.broken) == 1
    assert WebDatasetSource(path=str(tmp_path / "out")).open(16, 0).length == 4
    with pytest.raises(ValueError, match=r"1 of 5 examples are broken, more than data.max_broken 1.00%: images/1.png"):
        pack(FolderSource(path=path), tmp_path / "none", 16)


def test_scenes_and_the_command(tmp_path: Path) -> None:
    def sroute(*arguments: object) -> Any:
        return CliRunner().invoke(app, ["pack", *map(str, arguments)])

    result = sroute("scenes/depth-wise", tmp_path / "out", "data.image_size=32", "--examples", 5, "--shard-size", 2)
    assert result.exit_code == 0, result.output
    assert f"Packed 5 of 5 examples into {tmp_path / 'out'}." in result.output
    packed = WebDatasetSource(path=str(tmp_path / "out")).open(32, 0)
    assert packed.length == 5
    again = sroute(tmp_path / "out", tmp_path / "again")
    assert "Packed 5 of 5" in again.output
    for arguments, sentence in {
        ("scenes/depth-wise", tmp_path / "none"): "is endless; say with --examples how many",
        (tmp_path / "out", tmp_path / "none", "data.image_size=32"): "is data and no config",
    }.items():
        assert sentence in str(sroute(*arguments).exception)
    assert ScenesSource().open(32, 0).left_out == ()


def write_parquet(path: Path, count: int, **columns: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": columns_png(number), "path": None} for number in range(count)]
    table = {"image": images, "text": [f"number {number}" for number in range(count)], **columns}
    pq.write_table(pa.table(table), path, row_group_size=4)
    return path


def columns_png(number: int) -> bytes:
    return shards_png(number, (6 + number, 4))


def shards_png(red: int, size: tuple[int, int]) -> bytes:
    from semantic_routing.io.images import encode_png

    return encode_png(Image.new("RGB", size, (red, 0, 0)))


def test_parquet_files_are_read_by_row_groups(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set" / "a.parquet", 6)
    write_parquet(tmp_path / "set" / "b.parquet", 3, original_text=[None, "old", None])
    source = ParquetSource(path=str(tmp_path / "set"), row_groups=1).open(16, 0)
    assert (source.length, source.shards, source.has_originals) == (9, [4, 2, 3], True)
    assert [source[index].captions[0] for index in (8, 0, 5, 4)] == [f"number {n}" for n in (2, 0, 5, 4)]
    assert list(source[7].originals) == ["old"]
    assert source.picture_size(7) == (7, 4)
    assert np.array(source[5].image)[0, 0].tolist() == [5, 0, 0]
    pack(source_of(str(tmp_path / "set" / "a.parquet")), tmp_path / "out", 16)  # type: ignore[arg-type]
    assert WebDatasetSource(path=str(tmp_path / "out")).open(16, 0).length == 6


def test_parquet_as_the_datasets_library_writes_it(tmp_path: Path) -> None:
    table = {"image": [Image.new("RGB", (6, 4), "red")], "text": [["a", "b"]]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.List(datasets.Value("string"))})
    datasets.Dataset.from_dict(table, features=features).to_parquet(str(tmp_path / "0.parquet"))
    source = ParquetSource(path=str(tmp_path / "0.parquet")).open(16, 0)
    assert list(source[0].captions) == ["a", "b"]
    assert source.picture_size(0) == (6, 4)


def test_mistakes_about_parquet(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", 2, image=[{"bytes": b"no", "path": None}, None])
    source = ParquetSource(path=str(path)).open(16, 0)
    for index, sentence in enumerate(("row 0: cannot identify", "row 1: there is no picture in it")):
        with pytest.raises(BrokenExampleError, match=sentence):
            source[index]
    (tmp_path / "b.parquet").write_bytes(path.read_bytes()[:-20])
    for name, key, sentence in (
        (path, "caption", "a.parquet has no column 'caption': it has "),
        (tmp_path / "b.parquet", "text", "b.parquet cannot be read: "),
        (tmp_path / "gone", "text", "There is no .*gone: expected .parquet files"),
    ):
        with pytest.raises((ValueError, OSError), match=sentence):
            ParquetSource(path=str(name), text_key=key).open(16, 0)


def test_a_row_that_is_no_text_is_broken_and_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", 3)
    texts = pa.array([b"number 0", b"number \xff", b"number 2"]).view(pa.string())
    pq.write_table(pq.read_table(path).drop(["text"]).append_column("text", texts), path)
    source = ParquetSource(path=str(path)).open(16, 0)
    assert source[0].captions == ["number 0"]
    with pytest.raises(BrokenExampleError, match=r"a.parquet, row group 0, row 1: .*decode byte 0xff"):
        source[1]


def test_a_picture_whose_name_says_no_format_gets_the_suffix_of_its_own(tmp_path: Path) -> None:
    path = write_images(tmp_path / "set", 2)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "set" / "images" / "photo.jfif", format="JPEG")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[1]["image"] = "images/photo.jfif"
    path.write_text("\n".join(map(json.dumps, records)))
    pack(FolderSource(path=path), tmp_path / "out", 16)
    packed = WebDatasetSource(path=str(tmp_path / "out")).open(16, 0)
    assert [packed.image_file(index).suffix for index in range(2)] == ["png", "jpeg"]
