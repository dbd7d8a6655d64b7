"""Rows of one padded width: put together on the host when they are asked for, and held on the devices.

A row is one window of one clip. `Rows` knows how to make them from memory-mapped shards, `Bucket` has made them all.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from emoflax.batch import Batch
from emoflax.parallel import mesh as devices

BATCH_MULTIPLE = 4


@dataclasses.dataclass(frozen=True)
class Padded:
    """Sequences [length, ...] of one bucket's rows; `get(place)` returns one, which zeros fill up to `shape`."""

    get: Callable[[int], np.ndarray]
    shape: tuple[int, ...]
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of a bucket that are made when they are asked for.

    Attributes:
      columns: field of `Batch` -> numbers of all rows, [rows, ...].
      padded: field of `Batch` -> what is too large to be held for all rows.
      batch_size: rows in a batch.
      mesh: the devices that they are for.
    """

    columns: Mapping[str, np.ndarray]
    padded: Mapping[str, Padded]
    batch_size: int
    mesh: Mesh | None

    def __len__(self) -> int:
        return len(self.columns["label"])

    @property
    def steps(self) -> int:
        return -(-len(self) // self.batch_size)

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of one row."""
        columns = {name: column.shape[1:] for name, column in self.columns.items()}
        return columns | {name: kind.shape for name, kind in self.padded.items()}

    @functools.cached_property
    def dtypes(self) -> dict[str, np.dtype]:
        return {name: kind.dtype for name, kind in (self.columns | self.padded).items()}

    def nbytes(self) -> int:
        """Of all rows."""
        return len(self) * sum(math.prod(shape) * self.dtypes[name].itemsize for name, shape in self.shapes.items())

    def write(self, name: str, places: np.ndarray, into: np.ndarray) -> None:
        """Puts what the rows at `places` have under that name, laid flat, at the beginning of zeros [places, n]."""
        if name in self.columns:
            into[:, : math.prod(self.shapes[name])] = self.columns[name][places].reshape(len(places), -1)
            return
        get = self.padded[name].get
        for flat, place in zip(into, places, strict=True):
            sequence = get(place)
            flat[: sequence.size] = sequence.reshape(-1)  # padding comes last, so that a sequence stands in one piece

    def array(self, name: str, places: np.ndarray) -> np.ndarray:
        """[places, ...]."""
        flat = np.zeros((len(places), math.prod(self.shapes[name])), self.dtypes[name])
        self.write(name, places, flat)
        return flat.reshape(len(places), *self.shapes[name])

    def placed(self, row_multiple: int = 1) -> "Bucket":
        """All rows on the devices; each process makes those of its own.

        Args:
          row_multiple: arrays hold a multiple of so many rows, so that buckets of about one size are of one shape, and
            share compiled programs. What is added repeats the last row, and no order ever names it.
        """
        capacity = devices.pad_to_multiple(round_up(len(self), row_multiple), self.mesh)
        held = np.minimum(np.arange(capacity), len(self) - 1)

        def place(name: str) -> jax.Array:
            shape = (capacity, *self.shapes[name])
            return devices.shard(shape, 0, lambda part: self.array(name, held[part]), self.mesh)

        return Bucket(Batch(**{name: place(name) for name in self.shapes}), self.batch_size, len(self), self.mesh)


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Rows padded to one width, on the devices.

    Attributes:
      rows: arrays [capacity, ...]. The first `count` rows are those of the bucket.
      mesh: the devices over which rows and batches are sharded.
    """

    rows: Batch
    batch_size: int
    count: int
    mesh: Mesh | None = None

    def __len__(self) -> int:
        return self.count

    @property
    def steps(self) -> int:
        return -(-self.count // self.batch_size)

    @property
    def capacity(self) -> int:
        """Rows that the arrays have room for."""
        return len(self.rows.label)

    @property
    def most_steps(self) -> int:
        """Of a bucket with so many rows as there is room for: what programs are compiled for."""
        return -(-self.capacity // self.batch_size)


def batch_of(
    rows: Batch, order: jax.Array, count: jax.Array, slot: jax.Array, batch_size: int, mesh: Mesh | None
) -> Batch:
    """Inside a compiled program: batch number `slot` of the first `count` rows in `order`.

    Places past the end repeat the last row with weight 0.
    """
    places, counts = batch_places(slot, batch_size, count, mesh)
    # Of sharded rows, each device picks its own; their sum over the devices is the batch.
    batch = jax.tree.map(lambda values: values[order[places]], rows)
    return devices.constrain_sharded(batch.replace(weight=jnp.where(counts, batch.weight, 0.0)), mesh)


def batch_places(slot, batch_size: int, rows, mesh: Mesh | None):
    """Where batch number `slot` of `rows` rows lies in their order, [padded batch], and which places count, bool.

    A batch is padded to a multiple of the devices, and the last one may have fewer rows than places: those that are
    left repeat the last row and do not count. Works on NumPy's and on JAX's numbers.
    """
    places = slot * batch_size + np.arange(devices.pad_to_multiple(batch_size, mesh))
    numbers = jnp if isinstance(places, jax.Array) else np
    return numbers.minimum(places, rows - 1), places < numbers.minimum(rows, (slot + 1) * batch_size)


def even_batch(rows: int, batch_size: int) -> int:
    """Size of equal batches instead of full ones and a small rest; the convolutions work in groups of rows."""
    steps = -(-rows // batch_size)
    return min(round_up(-(-rows // steps), BATCH_MULTIPLE), batch_size)


def round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
