"""The cache gives what the language model would have given, whatever became of its files."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file
from tiny import CAPTIONS

from semantic_routing.text import KeyValueEncoder, TextEncoder, feature_cache, load_language_model
from semantic_routing.text.feature_cache import FeatureCache
from semantic_routing.text.tiny import WORDS, tiny_tokenizer
from semantic_routing.training import train
from semantic_routing.training.config import Config

GIB = 1e-3


@pytest.fixture(scope="module")
def model(language_models: Callable[[str], Path]) -> Any:
    return load_language_model(str(language_models("qwen3")))


def cached(folder: Path, model: Any, gib: float = GIB, **options: Any) -> TextEncoder:
    encoder = TextEncoder(model, tiny_tokenizer(), **options)
    encoder.use_cache(folder, gib)
    return encoder


def rows_read(encoder: TextEncoder, prompts: list[str]) -> int:
    """How many prompts the language model reads; one token alone is read twice."""
    rows = []
    handle = encoder.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"].unique(dim=0))), with_kwargs=True
    )
    try:
        encoder(prompts)
    finally:
        handle.remove()
    return sum(rows)


def assert_right(encoder: TextEncoder, prompts: list[str]) -> None:
    """Each prompt has, bit for bit, what it gets alone and without a cache."""
    plain = type(encoder)(
        encoder.model,
        encoder.tokenizer,
        encoder.layers,
        encoder.instruction,
        encoder.chat_template,
        encoder.max_length,
        encoder.last_layer,
    )
    features = encoder(prompts)
    together = plain(prompts)
    assert features.mask.equal(together.mask)
    if features.hidden_states.dtype == torch.float32:
        real = features.mask[:, None, :, None]
        torch.testing.assert_close(features.hidden_states, together.hidden_states * real, rtol=1e-4, atol=1e-4)
    for row, prompt in enumerate(prompts):
        alone = plain([prompt]).hidden_states[0]
        length = int(features.mask[row].sum())
        assert features.hidden_states[row, :, :length].equal(alone)
        assert not features.hidden_states[row, :, length:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_do_not_depend_on_what_is_kept(
    language_models: Callable[[str], Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    language_model = load_language_model(str(language_models("bert")), dtype)
    prompts = [*CAPTIONS, ""]
    first = cached(tmp_path / "features", language_model)
    assert rows_read(first, prompts[1:3]) == 2
    second = cached(tmp_path / "features", language_model)
    assert rows_read(second, [*prompts, *prompts]) == 3
    assert rows_read(second, prompts[::-1]) == 0
    assert_right(second, prompts)
    assert second(prompts).hidden_states.dtype == dtype
    assert len(list((tmp_path / "features").iterdir())) == len(prompts)


def test_each_distinct_prompt_is_looked_up_once(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = cached(tmp_path, model)
    looked_up = []
    read = FeatureCache.read
    monkeypatch.setattr(FeatureCache, "read", lambda self, ids, *more: looked_up.append(0) or read(self, ids, *more))
    encoder(["star", "a red circle", "star"])
    assert len(looked_up) == 2


def test_what_was_kept_for_another_reading_is_not_used(
    language_models: Callable[[str], Path], model: Any, tmp_path: Path
) -> None:
    prompts = list(CAPTIONS)
    cached(tmp_path, model)(prompts)
    changed = load_language_model(str(language_models("qwen3")))
    changed.layers[3].mlp.down_proj.weight[0, 0] += 1
    configured = load_language_model(str(language_models("qwen3")))
    configured.config.rms_norm_eps = 0.1
    readers = [
        cached(tmp_path, changed),
        cached(tmp_path, configured),
        cached(tmp_path, load_language_model(str(language_models("qwen3")), torch.bfloat16)),
        cached(tmp_path, model, layers=[1, 2]),
        cached(tmp_path, model, instruction="draw "),
        cached(tmp_path, model, chat_template=True),
        KeyValueEncoder(model, tiny_tokenizer(), layers=[1, 2]),
    ]
    readers[-1].use_cache(tmp_path, GIB)
    for encoder in readers:
        assert rows_read(encoder, prompts) == len(prompts)
        assert_right(encoder, prompts)
    with torch.autocast("cpu", torch.bfloat16):
        assert rows_read(readers[4], prompts) == len(prompts)
        assert_right(readers[4], prompts)
    # Of these, prompts that are cut are other prompts; the rest stay as they were.
    shorter = cached(tmp_path, model, max_length=4)
    assert rows_read(shorter, prompts) == sum(len(prompt.split()) > 4 for prompt in prompts) == 2
    assert_right(shorter, prompts)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.floats(0, 1), damage=st.sampled_from(["flip", "cut", "extend", "swap"]), bit=st.integers(0, 7))
def test_a_damaged_file_is_computed_again_and_rewritten(
    model: Any, tmp_path: Path, place: float, damage: str, bit: int
) -> None:
    encoder = cached(tmp_path, model)
    encoder(["a star"])
    (file,) = tmp_path.glob("*.safetensors")
    sound = file.read_bytes()
    at = min(int(place * len(sound)), len(sound) - 1)
    if damage == "swap":  # the file of another prompt under this one's name
        encoder(["a red circle"])
        (other,) = set(tmp_path.glob("*.safetensors")) - {file}
        other.replace(file)
    else:
        flipped = sound[:at] + bytes([sound[at] ^ 1 << bit]) + sound[at + 1 :]
        file.write_bytes({"flip": flipped, "cut": sound[:at], "extend": sound + bytes(at + 1)}[damage])
    # A bit of a JSON blank or of a name's letter case may not matter; then the features must be right all the same.
    read = rows_read(encoder, ["a star"])
    assert read == 1 or damage == "flip"
    assert_right(encoder, ["a star"])
    if read:
        assert file.read_bytes() == sound
    assert rows_read(encoder, ["a star"]) == 0


def test_the_size_is_bounded_and_what_was_used_last_stays(model: Any, tmp_path: Path) -> None:
    encoder = cached(tmp_path, model)
    encoder(["a star"])
    (star,) = tmp_path.glob("*.safetensors")
    size = star.stat().st_size
    mine = tmp_path / "notes.safetensors"
    mine.write_bytes(bytes(20 * size))
    left = tmp_path / f"{'0' * 64}.{'0' * 32}.partial"  # by a process that was killed
    left.write_bytes(bytes(size))
    os.utime(left, (0, 0))
    small = cached(tmp_path, model, gib=10 * size / 2**30)
    prompts = [f"{word} {other}" for word in ("red", "green", "blue") for other in WORDS[:14]]
    for prompt in prompts:
        small([prompt])
        assert rows_read(small, ["a star"]) == 0
        kept = [file for file in tmp_path.iterdir() if file != mine]
        assert sum(file.stat().st_size for file in kept) <= 10 * size
    assert star.exists()
    assert mine.exists()
    assert not left.exists()
    assert rows_read(small, [*prompts[-7:], "a star"]) == 0
    assert rows_read(small, prompts[:3]) == 3


def test_a_limit_below_one_file_keeps_nothing_and_works(model: Any, tmp_path: Path) -> None:
    assert_right(cached(tmp_path, model, gib=1e-9), list(CAPTIONS))
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_no_file(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = cached(tmp_path, model)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encoder(["star"])
    monkeypatch.undo()
    assert not list(tmp_path.glob("*.safetensors"))
    assert_right(encoder, ["star"])


def test_several_may_share_a_folder(model: Any, tmp_path: Path) -> None:
    prompts = [f"star {'a ' * index}".strip() for index in range(12)]
    plain = TextEncoder(model, tiny_tokenizer())
    expected = {prompt: plain([prompt]).hidden_states for prompt in prompts}
    encoders = [cached(tmp_path, model, gib=2e-5) for _ in range(4)]  # room for a few of them

    def work(number: int) -> bool:
        order = [prompts[(number * 5 + index * 7) % 12] for index in range(60)]
        return all(encoders[number]([prompt]).hidden_states.equal(expected[prompt]) for prompt in order)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert 0 < sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2e-5 * 2**30


def test_a_folder_that_cannot_be_written(model: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/features cannot be written: Not a directory"):
        cached(tmp_path / "file" / "features", model)


def test_training_is_the_same_whether_features_were_there_or_not(
    make_config: Callable[..., Config], tmp_path: Path, image_folder: Path
) -> None:
    def run(name: str, **training: Any) -> Path:
        return train(
            make_config(
                text={"cache": tmp_path / "features"},
                data={"source": {"source": "json", "path": image_folder}, "image_size": 16},
                optimizer={"schedule": "constant"},
                training={"output": tmp_path / name, "steps": 6} | training,
            ),
            "latest" if (tmp_path / name).exists() else None,
        )

    whole = run("whole")
    files = sorted((tmp_path / "features").iterdir())
    assert len(files) == len(CAPTIONS) + 1
    run("parts", steps=3)
    files[0].unlink()
    files[1].write_bytes(b"damaged")
    expected = load_file(whole / "model.safetensors")
    resumed = load_file(run("parts") / "model.safetensors")
    assert all(resumed[name].equal(weight) for name, weight in expected.items())


def test_a_full_disk_costs_the_cache_and_not_the_run(
    language_models: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"cut")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(feature_cache, "save_file", full)
    encoder = cached(tmp_path / "features", load_language_model(str(language_models("bert")), torch.float32))
    assert_right(encoder, list(CAPTIONS))
    (record,) = caplog.records
    assert record.getMessage().endswith("features cannot be written and keeps nothing more: No space left on device")
    assert list((tmp_path / "features").iterdir()) == []
