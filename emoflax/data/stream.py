"""Rows that do not fit the device: a thread puts batches together from memory-mapped shards, ahead of training.

Batches come in the order in which the resident rows would be visited, some at a time: a `Chunk` holds so many batches
that the program which runs through it is dispatched seldom, and so few that several chunks are in memory at once.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from emoflax.batch import Batch
from emoflax.data.rows import Rows, batch_places
from emoflax.parallel import mesh as devices

CHUNK_BYTES = 32 * 2**20
AHEAD = 2  # chunks that are made while another one is trained on
RESIDENT_SHARE = 0.5  # of memory that rows may take; weights, activations and the evaluated rows need theirs

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chunk:
    """Consecutive batches of an epoch, of all buckets.

    Attributes:
      bucket: int32 [steps], of each batch.
      flat: field of `Batch` -> [steps, padded batch, numbers]: the rows of each batch, laid flat, padded to those of
        the widest bucket.
      layouts: of each bucket, the padded size of a batch, and field -> shape of a row.
    """

    bucket: jax.Array
    flat: dict[str, jax.Array]
    layouts: tuple[tuple[int, Shapes], ...] = dataclasses.field(metadata={"static": True})
    mesh: Mesh | None = dataclasses.field(metadata={"static": True})

    def batch(self, bucket: int, flat: dict[str, jax.Array]) -> Batch:
        """One batch of that bucket; flat: field -> [padded batch, numbers]."""
        padded_batch, shapes = self.layouts[bucket]
        fields = {
            name: flat[name][:padded_batch, : math.prod(shape)].reshape(padded_batch, *shape) for name, shape in shapes
        }
        return devices.constrain_sharded(Batch(**fields), self.mesh)


def fits(nbytes: int, mesh: Mesh | None) -> bool:
    """Whether so many bytes of rows may lie on the devices; every process comes to the same answer."""
    stats = jax.local_devices()[0].memory_stats() or {}
    here = jax.local_device_count()
    memory = stats["bytes_limit"] * here if "bytes_limit" in stats else _free_ram()
    fit = nbytes * here / (mesh.size if mesh else here) <= RESIDENT_SHARE * memory
    return bool(multihost_utils.process_allgather(np.array(fit)).all()) if jax.process_count() > 1 else fit


def _free_ram() -> int:
    """Bytes that can be had, files that the system keeps in memory for the time being among them."""
    info = pathlib.Path("/proc/meminfo")
    if not info.exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    fields = dict(line.split(":") for line in info.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def steps_of_a_chunk(buckets: Sequence[Rows]) -> int:
    widest = collections.Counter()
    for rows in buckets:
        for name, shape in rows.shapes.items():
            widest[name] = max(widest[name], math.prod(shape) * rows.dtypes[name].itemsize)
    return max(1, CHUNK_BYTES // (max(rows.batch_size for rows in buckets) * widest.total()))


def chunks(buckets: Sequence[Rows], orders: Sequence[np.ndarray], visits: Iterable[np.ndarray]) -> Iterator[Chunk]:
    """The chunks of an epoch, made ahead by a thread.

    Args:
      orders: of each bucket, its rows in the epoch's order.
      visits: of each chunk, (bucket, number of the batch) of every step, [steps, 2].
    """
    yield from _ahead(functools.partial(_chunk, buckets, orders), visits)


def _chunk(buckets: Sequence[Rows], orders: Sequence[np.ndarray], visits: np.ndarray) -> Chunk:
    mesh = buckets[0].mesh
    found = [batch_places(slot, buckets[b].batch_size, len(buckets[b]), mesh) for b, slot in visits]
    batches = [(buckets[b], orders[b][places], counts) for (b, _), (places, counts) in zip(visits, found, strict=True)]
    layouts = tuple(
        (devices.pad_to_multiple(rows.batch_size, mesh), tuple(sorted(rows.shapes.items()))) for rows in buckets
    )
    padded_batch = max(padded_batch for padded_batch, _ in layouts)

    def fill(name: str, part: slice) -> np.ndarray:
        own = range(padded_batch)[part]
        numbers = max(math.prod(rows.shapes[name]) for rows in buckets)
        flat = np.zeros((len(batches), len(own), numbers), buckets[0].dtypes[name])
        for into, (rows, places, counts) in zip(flat, batches, strict=True):
            places, counts = places[own.start : own.stop], counts[own.start : own.stop]
            rows.write(name, places, into[: len(places)])
            if name == "weight":
                into[: len(places), 0] *= counts
        return flat

    def place(name: str) -> jax.Array:
        numbers = max(math.prod(rows.shapes[name]) for rows in buckets)
        return devices.shard((len(batches), padded_batch, numbers), 1, functools.partial(fill, name), mesh)

    flat = {name: place(name) for name in buckets[0].shapes}
    return Chunk(devices.replicate(visits[:, 0].astype(np.int32), mesh), flat, layouts, mesh)


def _ahead(make: Callable[[Any], Chunk], tasks: Iterable) -> Iterator[Chunk]:
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        waiting: collections.deque[concurrent.futures.Future] = collections.deque()
        for task in tasks:
            waiting.append(thread.submit(make, task))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
