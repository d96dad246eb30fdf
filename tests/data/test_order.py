"""Orders of shards, and buckets: every example as often as the others, near its neighbors, from any place."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import write_images

from semantic_routing.data import BrokenExampleError, ExampleStream, FolderSource, ScenesSource, Source, collate
from semantic_routing.data import buckets as buckets_module
from semantic_routing.data.buckets import auto_sizes, choose_sizes, fill_buckets, nearest
from semantic_routing.data.order import BucketOrder, Order
from semantic_routing.data.sources import Example

SHARDS = np.array([30, 1, 0, 50, 19, 40])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets_module, "cached_assets_path", lambda *names: tmp_path)


def test_an_epoch_has_every_example_once_and_goes_shard_by_shard() -> None:
    order = Order(SHARDS, seed=3, window=8)
    epochs = [[order[140 * epoch + place] for place in range(140)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(140)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    shard_of = np.repeat(np.arange(6), SHARDS)
    for epoch in epochs:
        for start in range(0, 140, 8):
            assert len({int(shard_of[index]) for index in epoch[start : start + 8]}) <= 3
    # Any place, asked for first, is what it is after all the others.
    for number in (419, 7, 200, 139, 140):
        assert Order(SHARDS, 3, 8)[number] == epochs[number // 140][number % 140]
    assert [Order(SHARDS, 4, 8)[number] for number in range(140)] != epochs[0]


def test_a_set_within_one_window_is_permuted_as_a_whole() -> None:
    whole = [Order(np.array([140]), 3, 140)[number] for number in range(300)]
    assert [Order(SHARDS, 3, 200)[number] for number in range(300)] == whole
    assert whole[:140] != whole[140:280], "each epoch has an order of its own"


def test_each_window_has_an_order_of_its_own() -> None:
    order = Order(np.array([32]), seed=3, window=16)
    assert [order[place] for place in range(16)] != [order[place] - 16 for place in range(16, 32)]


def test_batches_are_of_one_bucket_in_the_shares_of_the_examples() -> None:
    buckets = np.random.default_rng(0).choice(4, p=[0.6, 0.3, 0.0, 0.1], size=140)
    order = BucketOrder(buckets, SHARDS, seed=1, window=16, batch_size=4)
    places = [order[number] for number in range(140 * 20)]
    for batch in range(700):
        assert len({place.bucket for place in places[4 * batch : 4 * batch + 4]}) == 1
    assert all(buckets[place.example] == place.bucket for place in places)
    seen = Counter(place.example for place in places)
    assert len(seen) == 140
    assert all(18 <= count <= 22 for count in seen.values())
    for number in (2799, 0, 1401, 1400):
        assert BucketOrder(buckets, SHARDS, 1, 16, 4)[number] == places[number]
    assert all(buckets[order.draw(3, np.random.default_rng(seed))] == 3 for seed in range(9))


def test_sizes_of_auto_have_one_area_and_lose_little() -> None:
    sizes = auto_sizes(256, 16)
    assert (256, 256) in sizes
    assert all(width % 16 == height % 16 == 0 for width, height in sizes)
    assert all(0.9 < width * height / 256**2 < 1.1 for width, height in sizes)
    assert {(height, width) for width, height in sizes} == set(sizes)
    pictures = np.exp(np.random.default_rng(0).uniform(-1, 1, (4000, 2)) / 2) * 500
    ratio = pictures[:, 0] / pictures[:, 1]
    chosen = np.array(sizes)[nearest(pictures, sizes)]
    kept = np.minimum(ratio / (chosen[:, 0] / chosen[:, 1]), (chosen[:, 0] / chosen[:, 1]) / ratio)
    assert 1 - kept.mean() < 0.05


def test_sizes_that_do_not_fit_are_refused() -> None:
    assert choose_sizes([(32, 16), (16, 32), (32, 16)], 24, None, 8) == [(32, 16), (16, 32)]
    assert choose_sizes("auto", 24, None, 8) == auto_sizes(24, 8)
    with pytest.raises(ValueError, match=r"data.buckets: 32x20 is not in multiples of 8, a patch's pixels"):
        choose_sizes([(32, 20)], 24, None, 8)
    with pytest.raises(ValueError, match=r"data.bucket_step 12 is not a multiple of 8"):
        choose_sizes("auto", 24, 12, 8)
    with pytest.raises(ValueError, match=r"this source is endless"):
        fill_buckets(ScenesSource().open(32, 0), [(32, 32)])


class Shapes(Source):
    """Pictures of three shapes, of one color each; the last cannot be read."""

    SIZES = ((40, 20), (20, 40), (30, 30))

    @property
    def length(self) -> int:
        return 31

    def __getitem__(self, index: int) -> Example:
        if index == 30:
            raise BrokenExampleError("number 30")
        return Example(Image.new("RGB", self.SIZES[index % 3], (index * 8, 0, 0)), [f"{index}"])


def test_pictures_are_cropped_to_their_bucket(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    buckets = fill_buckets(Shapes(), [(16, 8), (8, 16), (12, 12), (32, 8)])
    assert buckets.examples == [10, 10, 10, 0]
    assert buckets.cropped == pytest.approx(0, abs=1e-6)
    assert "No picture fits the bucket 32x8" in caplog.text
    assert buckets.describe().startswith("Buckets 16x8: 10, 8x16: 10, 12x12: 10, 32x8: 0; 0.0% of the pixels")
    assert fill_buckets(Shapes(), [(12, 12)]).cropped == pytest.approx(1 / 3)
    stream = ExampleStream(Shapes(), 12, 0, buckets=buckets, batch_size=5)
    shapes = []
    for batch in range(60):
        joined = collate([stream[5 * batch + row] for row in range(5)])  # which only pictures of one size can be
        shapes.append(tuple(joined.images.shape[2:]))
        assert all(int(caption) % 3 == ((8, 16), (16, 8), (12, 12)).index(shapes[-1]) for caption in joined.captions)
    assert set(shapes) == {(8, 16), (16, 8), (12, 12)}


def test_shapes_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FolderSource(path=write_images(tmp_path / "set", 4, (20, 10))).open(16, 0)
    first = fill_buckets(source, [(8, 8), (16, 8)])
    assert first.examples == [0, 4]
    (kept,) = tmp_path.glob("sizes-*.safetensors")
    whole = kept.read_bytes()
    for damaged in (b"", whole[:-1]):  # is looked at again
        kept.write_bytes(damaged)
        assert fill_buckets(source, [(8, 8), (16, 8)]).examples == [0, 4]
        assert kept.read_bytes() == whole
    monkeypatch.setattr(type(source), "picture_size", None)
    assert fill_buckets(source, [(8, 8), (16, 8)]).of_example.tolist() == first.of_example.tolist()
