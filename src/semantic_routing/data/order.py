"""The order of a data set's examples: a function of seed, epoch and place alone, which reads shard after shard."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

# Independent uses of one (seed, number) are kept apart by a purpose.
ORDER, DRAW, NOISE, SHARDS = range(4)


def random_generator(seed: int, number: int, purpose: int, part: int = 0) -> np.random.Generator:
    """A generator for one purpose of `number`, and of that for one part."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, part, number]))


class Order:
    """Endless epochs, each an order of its own: shards are permuted, then examples within windows of that sequence.

    Any place is found without those before it. What is kept in memory is of the size of a window and of the list of
    shards. A data set that fits into one window is permuted as a whole.

    Args:
        shards: examples in each shard, at least one example in all.
        seed: of the run.
        window: examples that are permuted together.
    """

    def __init__(self, shards: Int[np.ndarray, " shards"], seed: int, window: int) -> None:
        self.length = int(shards.sum())
        self.window = min(window, self.length)
        # Order of shards would mean nothing within one window.
        self.shards = shards if self.length > self.window else np.array([self.length])
        self.starts = np.cumsum(self.shards) - self.shards
        self.seed = seed
        self._epoch = self._part = -1

    def __getitem__(self, number: int) -> int:
        """The index of example `number` of the endless sequence."""
        epoch, place = divmod(number, self.length)
        part, place = divmod(place, self.window)
        if epoch != self._epoch:
            self._shuffled = random_generator(self.seed, epoch, SHARDS).permutation(len(self.shards))
            self._ends = np.cumsum(self.shards[self._shuffled])
        if (epoch, part) != (self._epoch, self._part):
            size = min(self.window, self.length - part * self.window)
            self._places = part * self.window + random_generator(self.seed, epoch, ORDER, part).permutation(size)
            self._epoch, self._part = epoch, part
        place = int(self._places[place])
        shard = int(np.searchsorted(self._ends, place, side="right"))
        return int(self.starts[self._shuffled[shard]] + place - (self._ends[shard - 1] if shard else 0))


class Place(NamedTuple):
    """Which example comes, and which bucket its batch belongs to."""

    example: int
    bucket: int


class BucketOrder:
    """The order of a data set whose batches are each of one bucket, in the share that the bucket has of the examples.

    Each bucket has an endless `Order` of its own. All go through the shards in the same order and at the same pace, so
    that reading stays sequential. The bucket of a batch is where the multiples of the golden ratio, taken modulo 1,
    fall: any stretch of batches then holds the buckets in nearly their shares.

    Args:
        buckets: of each example.
        shards: examples in each shard.
        seed: of the run.
        window: examples that are permuted together, of all buckets.
        batch_size: examples of a batch.
    """

    def __init__(
        self,
        buckets: Int[np.ndarray, " examples"],
        shards: Int[np.ndarray, " shards"],
        seed: int,
        window: int,
        batch_size: int,
    ) -> None:
        self.batch_size = batch_size
        self.members = [np.flatnonzero(buckets == bucket) for bucket in range(int(buckets.max()) + 1)]
        self.ends = np.cumsum([len(members) for members in self.members]) / len(buckets)
        edges = np.concatenate([[0], np.cumsum(shards)])
        self.orders = [
            Order(np.diff(np.searchsorted(members, edges)), seed, -(-window * len(members) // len(buckets)))
            if len(members)
            else None
            for members in self.members
        ]
        self._start = float(random_generator(seed, 0, SHARDS, 1).random())
        self._counts = (0, np.zeros(len(self.members), dtype=np.int64))  # batches of each bucket before a batch

    def __getitem__(self, number: int) -> Place:
        """Where example `number` of the endless sequence is."""
        batch, row = divmod(number, self.batch_size)
        bucket = int(self._buckets(batch, batch + 1)[0])
        order = self.orders[bucket]
        assert order is not None, "a bucket without examples has no share of the batches"
        earlier = int(self._before(batch)[bucket]) * self.batch_size
        return Place(int(self.members[bucket][order[earlier + row]]), bucket)

    def draw(self, bucket: int, random: np.random.Generator) -> int:
        """The index of any example of a bucket."""
        members = self.members[bucket]
        return int(members[random.integers(len(members))])

    def _buckets(self, first: int, last: int) -> Int[np.ndarray, " batches"]:
        """The buckets of batches."""
        points = (self._start + np.arange(first, last) * ((5**0.5 - 1) / 2)) % 1
        return np.searchsorted(self.ends, points, side="right")

    def _before(self, batch: int) -> Int[np.ndarray, " buckets"]:
        """How many batches of each bucket come before a batch."""
        counted, counts = self._counts if self._counts[0] <= batch else (0, np.zeros_like(self._counts[1]))
        for first in range(counted, batch, 2**20):
            found = self._buckets(first, min(first + 2**20, batch))
            counts = counts + np.bincount(found, minlength=len(counts))
        self._counts = (batch, counts)
        return counts


def whole(length: int, shards: Sequence[int] | None) -> Int[np.ndarray, " shards"]:
    """The examples of each shard; a source that says nothing of shards is one."""
    return np.array([length] if shards is None else shards, dtype=np.int64)
