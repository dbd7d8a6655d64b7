"""From a dictionary of tensors to an encoder's parameters, by a table, checked: all of them or none.

A table maps each of their names to our parameter and to what turns the one array into the other. It is put together
from `linear`, `norm`, `layers` and single tensors; our parameters are named by their path in the encoder, e.g.
'layers.0.attention.query.kernel'.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from emoflax.errors import UserError

Tensors = dict[str, np.ndarray]
Table = dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]  # their name -> (our path, their array -> ours)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the weights of one encoder come from.

    Attributes:
      fields: path -> config fields that follow from the weights, as {'model.bert.width': 768, ...}.
      tensors: path -> their tensors by name, with any prefix of the whole model's taken off.
      table: (our encoder, path) -> the table.
      ignored: pattern of the names that may be there as well: classifier heads, poolers.
    """

    fields: Callable[[pathlib.Path], dict[str, Any]]
    tensors: Callable[[pathlib.Path], Tensors]
    table: Callable[[Any, pathlib.Path], Table]
    ignored: str = ""


def assign(module: nnx.Module, tensors: Tensors, table: Table, ignored: str, where: pathlib.Path) -> None:
    """Sets every parameter of `module` from `tensors` by `table`; see `load`."""
    paths, variables = zip(*nnx.to_flat_state(nnx.state(module, nnx.Param)), strict=True)
    params = dict(zip((".".join(map(str, path)) for path in paths), variables, strict=True))
    unset = params.keys() - {ours for ours, _ in table.values()}
    if unset:
        raise ValueError(f"the table for {type(module).__name__} leaves out {sorted(unset)}")
    missing = [name for name in table if name not in tensors]
    extra = [name for name in tensors if name not in table and not (ignored and re.match(ignored, name))]
    values = {ours: _turned(turn, tensors[name]) for name, (ours, turn) in table.items() if name in tensors}
    misshapen = [
        f"{name} ({_shape(tensors[name])}, for our {_shape(params[ours])})"
        for name, (ours, _) in table.items()
        if ours in values and values[ours].shape != params[ours].shape
    ]
    problems = {"missing": missing, "not known": extra, "of another shape": misshapen}
    if any(problems.values()):
        told = "; ".join(f"{len(names)} {what}: {_listed(names)}" for what, names in problems.items() if names)
        raise UserError(f"the weights in {where} do not fit {type(module).__name__}: {told}")
    nnx.update(module, nnx.from_flat_state({
        path: nnx.Param(jnp.asarray(values[".".join(map(str, path))], jnp.float32)) for path in paths
    }))  # fmt: skip


def as_is(array: np.ndarray) -> np.ndarray:
    return array


def linear(theirs: str, ours: str, bias: bool = True) -> Table:
    """A dense layer: PyTorch keeps [out, in], we [in, out]."""
    table: Table = {f"{theirs}.weight": (f"{ours}.kernel", np.transpose)}
    return table | {f"{theirs}.bias": (f"{ours}.bias", as_is)} if bias else table


def norm(theirs: str, ours: str) -> Table:
    return {f"{theirs}.weight": (f"{ours}.scale", as_is), f"{theirs}.bias": (f"{ours}.bias", as_is)}


def layers(count: int, theirs: str, parts: Mapping[str, tuple[Callable[[str, str], Table], str]]) -> Table:
    """The tables of all layers; `theirs` with {} for the number; parts: our name -> (kind of part, their name)."""
    table: Table = {}
    for number in range(count):
        for ours, (kind, name) in parts.items():
            table |= kind(f"{theirs.format(number)}.{name}", f"layers.{number}.{ours}")
    return table


def _turned(turn: Callable[[np.ndarray], np.ndarray], array: np.ndarray) -> np.ndarray:
    try:
        return turn(array)
    except (IndexError, ValueError):  # it has another number of axes
        return array


def _shape(array: Any) -> str:
    return "x".join(map(str, array.shape))


def _listed(names: list[str], most: int = 30) -> str:
    return ", ".join(sorted(names)[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
