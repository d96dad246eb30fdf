"""A pool gives, from few files, what the language model gives, and the language model reads each caption once."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CAPTIONS

from semantic_routing.text import KeyValueEncoder, TextEncoder, feature_pool
from semantic_routing.text.encoder import TextFeatures

Models = Callable[[str], Path]

POOL = [*CAPTIONS, "star", "two red stars", "a red square"]
BATCH = ["star", "a red circle", "", "star", "two red stars"]


@pytest.fixture
def folder(language_models: Models) -> str:
    return str(language_models("qwen3"))


def reads(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each call of the language model from now on."""
    rows: list[int] = []
    read = encoder.read
    monkeypatch.setattr(encoder, "read", lambda ids, mask: rows.append(len(ids)) or read(ids, mask))
    return rows


def assert_same(seen: TextFeatures, wanted: TextFeatures, exactly: bool = True) -> None:
    assert seen.mask.equal(wanted.mask)
    real = wanted.mask[:, None, :, None]
    if exactly:
        assert seen.hidden_states.equal(wanted.hidden_states * real)
    torch.testing.assert_close(seen.hidden_states, wanted.hidden_states * real, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [TextEncoder, KeyValueEncoder])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_pool_gives_what_the_language_model_gives(
    folder: str, tmp_path: Path, dtype: torch.dtype, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = kind.load(folder, dtype, layers=[1, 2])
    expected = encoder(BATCH)
    encoder.use_pool(tmp_path, POOL)
    rows = reads(encoder, monkeypatch)
    assert_same(encoder(BATCH), expected, exactly=dtype == torch.bfloat16)
    assert not rows
    # One that is not in the pool is read beside those that are.
    assert_same(
        encoder([*BATCH, "a blue star"]), kind.load(folder, dtype, layers=[1, 2])([*BATCH, "a blue star"]), False
    )
    assert sum(rows) == 1


def test_another_process_reads_nothing_anew(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = TextEncoder.load(folder)
    first.use_pool(tmp_path, POOL)
    second = TextEncoder.load(folder)
    rows = reads(second, monkeypatch)
    second.use_pool(tmp_path, reversed(POOL))
    assert second(POOL).hidden_states.equal(first(POOL).hidden_states)
    assert not rows
    second.use_pool(tmp_path, [*POOL, "a blue star", "a blue star"])
    assert sum(rows) == 1
    assert len(list(tmp_path.glob("pool-*"))) == 2


def test_features_are_packed_up_to_a_size(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = TextEncoder.load(folder)(POOL)
    monkeypatch.setattr(feature_pool, "SHARD_BYTES", 6000)
    encoder = TextEncoder.load(folder)
    encoder.use_pool(tmp_path, POOL)
    files = list(tmp_path.glob("pool-*"))
    assert 2 < len(files) < len(POOL)
    assert all(file.stat().st_size < 6000 + 2000 for file in files)
    assert_same(encoder(POOL), wanted, exactly=False)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_a_damaged_file_is_computed_again(
    folder: str, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = TextEncoder.load(folder)
    encoder.use_pool(tmp_path, POOL)
    expected = encoder(POOL)
    (file,) = tmp_path.glob("pool-*")
    sound = file.read_bytes()
    flipped = sound[:-5] + bytes([sound[-5] ^ 1]) + sound[-4:]
    file.write_bytes({"cut": sound[:-9], "flip": flipped, "empty": b"", "text": b"no safetensors"}[damage])
    again = TextEncoder.load(folder)
    rows = reads(again, monkeypatch)
    again.use_pool(tmp_path, POOL)
    assert sum(rows) == len(POOL) + 1
    assert again(POOL).hidden_states.equal(expected.hidden_states)
    assert file.read_bytes() == sound


def test_an_interrupted_computation_leaves_no_file(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    encoder = TextEncoder.load(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            encoder.use_pool(tmp_path, POOL)
    assert not list(tmp_path.glob("pool-*.safetensors"))
    encoder.use_pool(tmp_path, POOL)


def test_features_of_another_reading_are_not_taken(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TextEncoder.load(folder).use_pool(tmp_path, POOL)
    for options in ({"layers": [1, 2]}, {"instruction": "draw "}, {"last_layer": "raw"}, {"chat_template": True}):
        encoder = TextEncoder.load(folder, **options)
        rows = reads(encoder, monkeypatch)
        encoder.use_pool(tmp_path, POOL)
        assert sum(rows) == len(POOL) + 1
        assert_same(encoder(POOL), TextEncoder.load(folder, **options)(POOL), exactly=False)


def test_processes_that_come_together_compute_once(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders = [TextEncoder.load(folder) for _ in range(3)]
    rows = [reads(encoder, monkeypatch) for encoder in encoders]
    threads = [threading.Thread(target=encoder.use_pool, args=(tmp_path, POOL)) for encoder in encoders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(map(sum, rows)) == len(POOL) + 1
    assert len({encoder(POOL).hidden_states.sum().item() for encoder in encoders}) == 1


def test_a_pool_is_of_one_precision(folder: str, tmp_path: Path) -> None:
    encoder = TextEncoder.load(folder)
    with torch.autocast("cpu", torch.bfloat16):
        encoder.use_pool(tmp_path, POOL)
        assert_same(encoder(BATCH), TextEncoder.load(folder)(BATCH))
    with pytest.raises(ValueError, match=r"features are in torch.bfloat16; torch.float32 is asked for"):
        encoder(BATCH)


def test_a_folder_that_cannot_be_written(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/pool cannot be written: Not a directory"):
        TextEncoder.load(folder).use_pool(tmp_path / "file" / "pool", POOL)
