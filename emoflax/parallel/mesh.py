"""Devices: how rows and weights are placed on them.

Training is data-parallel over one axis, 'data', of every device of every process. Rows and batches are sharded along
it, weights are replicated. A mesh of None means one device, which runs the program without any sharding.
"""

import contextlib
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from emoflax.parallel.workers import usable_cores

AXIS = "data"
# Number of devices that a processor may be split into. They divide the usual batches; with more, a batch of 16 leaves
# fewer than 4 clips per device, and the work per device dominates.
_CPU_DEVICES = (1, 2, 4)


def split_processor() -> None:
    """Makes several devices of a processor with several cores, before JAX looks for devices.

    XLA runs a step's operations one after the other, and few of them keep more than one core busy. Two devices that
    take half of each batch do: a step of `cnn2` takes 26 ms instead of 40 on two cores (`docs/benchmarks.md`).
    What JAX_NUM_CPU_DEVICES or XLA_FLAGS say goes first. Accelerators are not concerned.
    """
    chosen = jax.config.jax_num_cpu_devices >= 0 or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen:
        cores = usable_cores()
        jax.config.update("jax_num_cpu_devices", max(count for count in _CPU_DEVICES if count <= cores))


def all_devices() -> Mesh | None:
    """The mesh of every device of every process; None where there is only one."""
    count = jax.device_count()
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,)) if count > 1 else None


def pad_to_multiple(rows: int, mesh: Mesh | None) -> int:
    """The smallest number of at least `rows` that can be sharded evenly."""
    return rows if mesh is None else -(-rows // mesh.size) * mesh.size


def shard(shape: tuple[int, ...], axis: int, make: Callable[[slice], np.ndarray], mesh: Mesh | None) -> jax.Array:
    """An array sharded along `axis`; `make(part of the axis)` is called for the parts of this process."""
    if mesh is None:
        return jax.device_put(make(slice(0, shape[axis])))
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))
    return jax.make_array_from_callback(shape, sharding, lambda index: make(index[axis]))


def shard_rows(tree: Any, mesh: Mesh) -> Any:
    """Arrays of this process -> arrays sharded along their first axis, which the mesh's size divides."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(AXIS)))


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """Arrays of this process, equal in every process -> arrays replicated on every device."""
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec())

    def copy(leaf: jax.Array) -> jax.Array:
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    return jax.tree.map(copy, tree)


def like(tree: Any, mesh: Mesh | None) -> Any:
    """Shapes, dtypes and sharding of a tree of arrays (or shapes), as a checkpoint is to be restored."""
    place = NamedSharding(mesh, PartitionSpec()) if mesh else SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree)


def constrain_sharded(tree: Any, mesh: Mesh | None) -> Any:
    """Inside a compiled program: every array is sharded along its first axis."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec(AXIS)))


def constrain_replicated(tree: Any, mesh: Mesh | None) -> Any:
    """Inside a compiled program: every array is replicated on every device."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def at_work(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Context for tracing a program, in which `summed_by_device` and `by_device` use the mesh."""
    return contextlib.nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def summed_by_device(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`function` of arrays [rows, ...], a sum over the rows: of each device's own rows, then added up.

    For code that XLA cannot partition, such as a loop over groups of rows, for which it would send all rows to every
    device.
    """

    def call(*arrays: jax.Array) -> jax.Array:
        return _shard_mapped(lambda *own: jax.lax.psum(function(*own), AXIS), function, PartitionSpec())(*arrays)

    return call


def by_device(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`function` from arrays [rows, ...] to [rows, ...], row by row: on each device's own rows."""

    def call(*arrays: jax.Array) -> jax.Array:
        return _shard_mapped(function, function, PartitionSpec(AXIS))(*arrays)

    return call


def _shard_mapped(own: Callable, alone: Callable, out: PartitionSpec) -> Callable:
    mesh = jax.sharding.get_abstract_mesh()
    if AXIS not in mesh.axis_names:
        return alone
    return jax.shard_map(own, in_specs=PartitionSpec(AXIS), out_specs=out, check_vma=False)
