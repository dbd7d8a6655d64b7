"""Arithmetic of one train step, counted in the program that JAX traces.

The count holds the multiplications and additions of convolutions and matrix products, forward and both gradients
(Kaplan et al. 2020, arXiv:2001.08361, appendix C), without the input gradient that a first layer does not need; padding
counts as much as sound. XLA's own count is of no use here: it counts a loop's body once.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax

from emoflax.benchmark.setup import Setup, first_batch
from emoflax.data.dataset import Bucket
from emoflax.models.conv import portable
from emoflax.training.step import train_step


def train_flops_per_clip(start: Setup, bucket: Bucket) -> float:
    """FLOP of one padded clip of the bucket, whatever gradients this machine's programs have written out."""
    batch = jax.eval_shape(lambda: first_batch(dataclasses.replace(bucket, mesh=None)))
    state = jax.eval_shape(lambda: start.train_config.init(start.model, 0))
    with portable():
        traced = jax.make_jaxpr(train_step, static_argnums=0)(start.train_config.step, state, batch)
    return _of_program(traced.jaxpr) / bucket.batch_size


def _of_program(jaxpr: Any) -> float:
    total = 0.0
    for operation in jaxpr.eqns:
        if operation.primitive.name == "dot_general":
            total += _of_product(operation)
        elif operation.primitive.name == "conv_general_dilated":
            total += _of_convolution(operation)
        elif inner := [_of_program(part) for part in _programs_in(operation.params)]:
            turns = operation.params["length"] if operation.primitive.name == "scan" else 1
            total += turns * (max(inner) if operation.primitive.name == "cond" else sum(inner))
    return total


def _of_product(operation: Any) -> float:
    (contracted, _), _ = operation.params["dimension_numbers"]
    left = operation.invars[0].aval.shape
    return 2.0 * math.prod(operation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _of_convolution(operation: Any) -> float:
    """Each output is a sum over the kernel's places and input channels, those over padding included."""
    kernel, axes = operation.invars[1].aval.shape, operation.params["dimension_numbers"].rhs_spec
    return 2.0 * math.prod(operation.outvars[0].aval.shape) * math.prod(kernel) / kernel[axes[0]]


def _programs_in(parameters: dict[str, Any]) -> Iterator[Any]:
    """The programs that an operation calls: a loop's body, branches, a function compiled apart."""
    for value in parameters.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part
