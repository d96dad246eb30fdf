from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import write_images
from torch.utils.data import DataLoader

from semantic_routing.data import BrokenExampleError, ExampleStream, FolderSource, ScenesSource, Source, collate
from semantic_routing.data.sources import Example
from semantic_routing.data.stream import NumberSampler


class Numbered(Source):
    """Pictures whose red value is their index; some cannot be read."""

    def __init__(self, length: int, broken: tuple[int, ...] = (), size: tuple[int, int] = (8, 8)) -> None:
        self._length = length
        self.broken = broken
        self.size = size

    @property
    def length(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        if index in self.broken:
            raise BrokenExampleError(f"number {index}")
        return Example(Image.new("RGB", self.size, (index, 0, 0)), [f"{index} a", f"{index} b"])


def red(batch: Any) -> int:
    return round(float((batch.images[0, 0, 0, 0] + 1) * 127.5))


def test_an_example_is_a_pure_function_of_seed_and_number(image_folder: Path) -> None:
    def stream(seed: int = 3) -> ExampleStream:
        source = FolderSource(path=image_folder).open(16, seed)
        return ExampleStream(source, 12, seed, 0.3, random_crop=True, horizontal_flip=True)

    one, other = stream(), stream()
    expected = [one[number] for number in range(30)]
    for number in reversed(range(30)):
        again = other[number]
        assert again.images.equal(expected[number].images)
        assert again.captions == expected[number].captions
        assert again.noise_seeds.equal(expected[number].noise_seeds)
    assert [stream(4)[number].captions for number in range(30)] != [batch.captions for batch in expected]
    assert len({int(batch.noise_seeds) for batch in expected}) == 30


def test_each_epoch_is_a_permutation_of_its_own() -> None:
    stream = ExampleStream(Numbered(40), 8, seed=0)
    epochs = [[red(stream[epoch * 40 + place]) for place in range(40)] for epoch in range(3)]
    assert all(sorted(order) == list(range(40)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 3
    assert epochs[0] != list(range(40))
    assert [red(stream[number]) for number in (85, 5, 45)] == [epochs[2][5], epochs[0][5], epochs[1][5]]


def test_an_endless_source_is_read_in_order() -> None:
    source = ScenesSource().open(32, 5)
    batch = ExampleStream(source, 32, seed=5)[777]
    assert batch.captions == list(source[777].captions)
    expected = torch.from_numpy(np.array(source[777].image)).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(batch.images[0], expected)


def test_a_broken_example_is_skipped_and_named() -> None:
    broken = (3, 4, 5)
    stream = ExampleStream(Numbered(20, broken), 8, seed=0)
    batches = [stream[number] for number in range(20)]
    assert not {red(batch) for batch in batches} & set(broken)
    assert sorted({name for batch in batches for name in batch.skipped}) == ["number 3", "number 4", "number 5"]
    assert sum(bool(batch.skipped) for batch in batches) == 3
    # What stands in for it is the same every time, and spread over the set.
    again = ExampleStream(Numbered(20, broken), 8, seed=0)
    assert [red(again[number]) for number in range(20)] == [red(batch) for batch in batches]


def test_a_source_without_a_single_good_example_stops() -> None:
    with pytest.raises(ValueError, match=r"100 examples in a row are broken, the last one: number \d"):
        ExampleStream(Numbered(5, (0, 1, 2, 3, 4)), 8, seed=0)[0]


def test_images_are_resized_by_their_short_side_and_cropped_at_the_center() -> None:
    wide = Image.new("RGB", (64, 16), "blue")
    wide.paste("red", (20, 0, 44, 16))
    stream = ExampleStream(Numbered(1), 8, seed=0)
    pixels = stream.transform(wide, np.random.default_rng(0))
    assert pixels.shape == (3, 8, 8)
    torch.testing.assert_close(pixels, torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(3, 8, 8))
    tall = stream.transform(wide.transpose(Image.Transpose.ROTATE_90), np.random.default_rng(0))
    torch.testing.assert_close(tall, pixels)


def test_odd_sizes_give_the_size_asked_for() -> None:
    stream = ExampleStream(Numbered(1), 8, seed=0, random_crop=True)
    for size in ((8, 9), (7, 100), (1, 1), (100, 99), (3, 8)):
        assert stream.transform(Image.new("RGB", size), np.random.default_rng(0)).shape == (3, 8, 8)


def test_random_crops_reach_both_ends() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (8, 1, 3)))
    stream = ExampleStream(Numbered(1), 8, seed=0, random_crop=True)
    lefts = [float(stream.transform(ramp, np.random.default_rng(seed))[0, 0, 0]) for seed in range(400)]
    assert min(lefts) == -1
    assert max(lefts) == pytest.approx(56 * 4 / 127.5 - 1)
    center = ExampleStream(Numbered(1), 8, seed=0)
    for seed in range(5):
        left = center.transform(ramp, np.random.default_rng(seed))[0, 0, 0]
        assert float(left) == pytest.approx(28 * 4 / 127.5 - 1)


def test_half_of_the_images_are_mirrored_only_when_asked() -> None:
    left_red = Image.new("RGB", (8, 8))
    left_red.paste("red", (0, 0, 4, 8))
    flipped = ExampleStream(Numbered(1), 8, seed=0, horizontal_flip=True)
    mirrored = [float(flipped.transform(left_red, np.random.default_rng(seed))[0, 0, 0]) < 0 for seed in range(400)]
    assert 160 < sum(mirrored) < 240
    plain = ExampleStream(Numbered(1), 8, seed=0)
    assert all(plain.transform(left_red, np.random.default_rng(seed))[0, 0, 0] == 1 for seed in range(20))


def test_captions_are_drawn_and_dropped_in_their_shares() -> None:
    stream = ExampleStream(Numbered(10), 8, seed=0, caption_dropout=0.2)
    count = Counter(stream[number].captions[0][-1:] for number in range(2000))
    assert abs(count[""] / 2000 - 0.2) < 0.04
    assert abs(count["a"] / count["b"] - 1) < 0.2
    assert all(ExampleStream(Numbered(10), 8, 0, 1.0)[number].captions == [""] for number in range(20))
    assert all(ExampleStream(Numbered(10), 8, 0, 0.0)[number].captions != [""] for number in range(200))


def numbers(count: int, *options: int) -> list[int]:
    sampler = iter(NumberSampler(*options))
    return [next(sampler) for _ in range(count)]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_batch_that_one_process_would_have(world_size: int) -> None:
    batch, steps = 8, 3
    part = batch // world_size
    ranks = [numbers(steps * part, 5, part, rank, world_size) for rank in range(world_size)]
    together = [number for step in range(steps) for rank in ranks for number in rank[step * part : (step + 1) * part]]
    assert together == numbers(steps * batch, 5, batch) == list(range(40, 64))


def test_accumulated_micro_batches_are_the_big_batch() -> None:
    assert numbers(24, 3 * 4, 2) == numbers(24, 3, 8)


def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    source = FolderSource(path=write_images(tmp_path / "set", count=5)).open(16, 0)
    stream = ExampleStream(source, 8, seed=1, random_crop=True)

    def batches(workers: int) -> list[Any]:
        sampler = NumberSampler(2, 3)
        loader = iter(DataLoader(stream, 3, sampler=sampler, num_workers=workers, collate_fn=collate))
        return [next(loader) for _ in range(4)]

    for one, other in zip(batches(0), batches(2), strict=True):
        assert one.images.equal(other.images)
        assert one.captions == other.captions
        assert one.noise_seeds.equal(other.noise_seeds)


def test_collating_keeps_rows_together() -> None:
    stream = ExampleStream(Numbered(20, (7,)), 8, seed=0)
    rows = [stream[number] for number in range(20)]
    batch = collate(rows)
    assert batch.images.shape == (20, 3, 8, 8)
    for index, row in enumerate(rows):
        assert batch.images[index].equal(row.images[0])
        assert batch.captions[index] == row.captions[0]
        assert batch.noise_seeds[index] == row.noise_seeds[0]
    assert batch.skipped == ["number 7"]
