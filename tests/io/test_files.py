import errno
import json
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from semantic_routing.io import files
from semantic_routing.io.files import read_json, whole_file, whole_folder, write_json, write_text
from semantic_routing.io.jsonl import Ledger, append_line, read_lines


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_text(tmp_path / "new" / "note.txt", "old")

    def fail() -> None:
        with whole_file(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_has_its_name_only_when_all_is_there(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def fail() -> None:
        with whole_folder(out) as partial:
            (partial / "one.txt").write_text("1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with whole_folder(out) as partial:
        (partial / "one.txt").write_text("1")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["one.txt"]
    with pytest.raises(ValueError, match="out exists already"), whole_folder(out):
        pass
    assert (out / "one.txt").is_file()


def test_everything_is_on_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the new name would otherwise leave a folder that looks complete and holds empty files."""
    order: list[str] = []
    sync, rename = os.fsync, Path.rename
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: order.append("sync") or sync(descriptor))
    monkeypatch.setattr(Path, "rename", lambda self, target: order.append("rename") or rename(self, target))
    with whole_folder(tmp_path / "out") as partial:
        (partial / "inner").mkdir()
        (partial / "inner" / "one.txt").write_text("1")
    assert order == ["sync"] * 3 + ["rename"] + ["sync"]  # the file, both folders; then the folder that has the name


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("full")])
def test_what_a_full_disk_cut_short_is_named(tmp_path: Path, error: Exception) -> None:
    for opened in (whole_file, whole_folder):
        with pytest.raises(OSError, match=rf"{tmp_path}/out cannot be written: ") as caught, opened(tmp_path / "out"):
            raise error
        assert str(caught.value).endswith(("device.", "full."))
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_json_is_named(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"ä": [1]})
    assert read_json(path) == {"ä": [1]}
    for text in ("{", "[" * 100_000, "\udcff"):
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(ValueError, match=r"a\.json is not JSON"):
            read_json(path)


def test_a_line_that_was_cut_short_is_left_out_and_swallows_no_other(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    for number in range(2):
        append_line(path, {"key": str(number), "text": "ä"})
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex("ä".encode()) + 1])  # within a character
    assert [line["key"] for line in read_lines(path)] == ["0"]
    Ledger(path).add("2", {"text": "b"})
    assert [line["key"] for line in read_lines(path)] == ["0", "2"]
    assert Ledger(path).get("2") == json.loads(path.read_text(errors="replace").splitlines()[-1])


def test_a_line_that_a_full_disk_does_not_take_is_named() -> None:
    with pytest.raises(OSError, match=r"^/dev/full cannot be written: No space left on device.$"):
        append_line(Path("/dev/full"), {"step": 1})
