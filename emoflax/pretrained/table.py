"""From a dictionary of tensors to an encoder's parameters, by a checked table: all of them or none.

A table maps the name of each tensor to our parameter and to the function from one array to the other. It is composed of
`linear`, `norm`, `layers` and single tensors; our parameters are named by their path in the encoder, e.g.
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
Rules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]  # patterns, and what takes their place in a name


@dataclasses.dataclass(frozen=True)
class Source:
    """How the pretrained weights of one encoder are read.

    Attributes:
      fields: path -> config fields that follow from the weights, as {'model.bert.width': 768, ...}.
      tensors: path -> their tensors by name, without a prefix of the whole model.
      table: (our encoder, path) -> the table.
      ignored: pattern of further names that are allowed and not loaded: classifier heads, poolers.
    """

    fields: Callable[[pathlib.Path], dict[str, Any]]
    tensors: Callable[[pathlib.Path], Tensors]
    table: Callable[[Any, pathlib.Path], Table]
    ignored: str = ""


def assign(module: nnx.Module, tensors: Tensors, table: Table, ignored: str, where: pathlib.Path) -> None:
    """Sets every parameter of `module`, but those of adapters, from `tensors` by `table`; see `load`."""
    published = nnx.All(nnx.Param, nnx.Not(nnx.LoRAParam))
    paths, variables = zip(*nnx.to_flat_state(nnx.state(module, published)), strict=True)
    params = dict(zip((".".join(map(str, path)) for path in paths), variables, strict=True))
    unset = params.keys() - {ours for ours, _ in table.values()}
    if unset:
        raise ValueError(f"the table for {type(module).__name__} leaves out {sorted(unset)}")
    missing = [name for name in table if name not in tensors]
    extra = [name for name in tensors if name not in table and not (ignored and re.match(ignored, name))]
    values = {ours: _converted(convert, tensors[name]) for name, (ours, convert) in table.items() if name in tensors}
    misshapen = [
        f"{name} ({_shape(tensors[name])}, for our {_shape(params[ours])})"
        for name, (ours, _) in table.items()
        if ours in values and values[ours].shape != params[ours].shape
    ]
    problems = {"missing": missing, "not known": extra, "of another shape": misshapen}
    if any(problems.values()):
        listed = "; ".join(f"{len(names)} {what}: {_listed(names)}" for what, names in problems.items() if names)
        raise UserError(f"the weights in {where} do not fit {type(module).__name__}: {listed}")
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


def renamed(tensors: Tensors, rules: Rules) -> Tensors:
    """All rules are applied to each name, one after the other."""
    named = {}
    for name, array in tensors.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        named[name] = array
    return named


def _converted(convert: Callable[[np.ndarray], np.ndarray], array: np.ndarray) -> np.ndarray:
    try:
        return convert(array)
    except (IndexError, ValueError):  # it has another number of axes
        return array


def _shape(array: Any) -> str:
    return "x".join(map(str, array.shape))


def _listed(names: list[str], most: int = 30) -> str:
    return ", ".join(sorted(names)[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
