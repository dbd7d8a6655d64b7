"""An ONNX model while it is built: tensors, lengths that are computed in it, and the translation of a jaxpr.

What depends on weights alone is computed here, and is a constant of the model.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from jax.extend import core as jax_core
from onnx import TensorProto, helper, numpy_helper

TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "bool": TensorProto.BOOL, "int64": TensorProto.INT64}


class Unsupported(Exception):
    """An operation that has no translation."""


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor of the model.

    Attributes:
      shape: of the JAX array; symbols among the numbers are lengths.
      spread: whether the tensor has that shape, and not 1 where it repeats: ONNX spreads operands by itself.
      constant: its content, where it is known.
    """

    name: str
    shape: tuple[Any, ...]
    dtype: str
    spread: bool = True
    constant: np.ndarray | None = None


# (graph, equation, inputs) -> outputs
Operation = Callable[["Graph", Any, Sequence[Value]], list[Value]]


class Length:
    """A number of the model that is a length, int64 [1]; jax's symbols are computed with it."""

    def __init__(self, graph: "Graph", name: str):
        self.graph, self.name = graph, name

    def _with(self, operation: str, other: Any, *, swapped: bool = False) -> "Length":
        names = [self.name, self.graph.length(other)]
        return Length(self.graph, self.graph.node(operation, names[::-1] if swapped else names))

    def __add__(self, other: Any) -> "Length":
        return self._with("Add", other)

    def __mul__(self, other: Any) -> "Length":
        return self._with("Mul", other)

    def __rmul__(self, other: Any) -> "Length":
        return self._with("Mul", other)

    __radd__ = __add__

    def __divmod__(self, other: Any) -> tuple["Length", "Length"]:
        """Rounded down, of numbers that may be negative."""
        rest = self._with("Mod", other)
        return (self + rest * -1)._with("Div", other), rest

    def at_most(self, other: Any) -> "Length":
        return self._with("Min", other)

    def at_least(self, other: Any) -> "Length":
        return self._with("Max", other)


class Graph:
    """Nodes of a model, or of the body of a loop in one; names of the outer graph are known in the body."""

    def __init__(self, outer: "Graph | None" = None, operations: "Mapping[str, Operation]" = MappingProxyType({})):
        """`operations`: of a model, how each is translated; a body has those of its model."""
        self.outer, self.nodes, self.operations = outer, [], operations
        self.root: Graph = outer.root if outer else self
        self.lengths: dict[str, str] = {}
        if not outer:
            self.initializers: dict[str, onnx.TensorProto] = {}
            self.known: dict[tuple, str] = {}
            self.symbols: dict[str, Length] = {}
            self.count = 0

    def fresh(self) -> str:
        self.root.count += 1
        return f"t{self.root.count}"

    def node(self, operation: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node; the name of its output, or a list of them if there are several."""
        names = [self.fresh() for _ in range(outputs)]
        self.nodes.append(helper.make_node(operation, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def array(self, values: Any, dtype: Any = None) -> str:
        """Name of a constant; equal ones are kept once."""
        values = np.ascontiguousarray(values, dtype).reshape(np.shape(values))
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self.root.known:
            name = self.root.known[key] = self.fresh()
            self.root.initializers[name] = numpy_helper.from_array(values, name)
        return self.root.known[key]

    def length(self, size: Any) -> str:
        """Name of a length, int64 [1]."""
        if isinstance(size, Length):
            return size.name
        if isinstance(size, int | np.integer):
            return self.array([int(size)], np.int64)
        scope: Graph | None = self
        while scope:  # computed in this body or around it
            if str(size) in scope.lengths:
                return scope.lengths[str(size)]
            scope = scope.outer
        self.lengths[str(size)] = self.length(_computed(size, self))
        return self.lengths[str(size)]

    def shape(self, sizes: Sequence[Any]) -> str:
        """Name of a vector of lengths."""
        if all(isinstance(size, int | np.integer) for size in sizes):
            return self.array([int(size) for size in sizes], np.int64)
        return self.node("Concat", [self.length(size) for size in sizes], axis=0)

    def full(self, value: Value) -> str:
        """Name of the tensor in its whole shape."""
        if value.spread:
            return self.name(value)
        return self.node("Expand", [self.name(value), self.shape(value.shape)])

    def name(self, value: Value) -> str:
        return value.name if value.constant is None else self.array(value.constant)


def _computed(size: Any, graph: Graph) -> Length:
    """The length that an expression of symbols is, as nodes of the graph."""
    total: Any = 0
    for term, factor in size._sorted_terms:
        product: Any = int(factor)
        for one, power in term._factors:
            for _ in range(power):
                product = product * _factor(one, graph)
        total = product + total
    return total


def _factor(factor: Any, graph: Graph) -> Length:
    if factor.var is not None:
        return Length(graph, graph.root.symbols[factor.var].name)
    first, second = (Length(graph, graph.length(operand)) for operand in factor.operands)
    made = {
        factor.FLOORDIV: lambda: divmod(first, second)[0],
        factor.MOD: lambda: divmod(first, second)[1],
        factor.MAX: lambda: first.at_least(second),
        factor.MIN: lambda: first.at_most(second),
    }
    return made[factor.operation]()


def translate(graph: Graph, jaxpr: jax_core.Jaxpr, constants: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
    """Adds a jaxpr's operations to the graph; its outputs.

    Raises:
      Unsupported: an operation has no translation.
    """
    known: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
    known |= {
        variable: constant_of(np.asarray(content)) for variable, content in zip(jaxpr.constvars, constants, strict=True)
    }

    def value_of(atom: Any) -> Value:
        return constant_of(np.asarray(atom.val, atom.aval.dtype)) if isinstance(atom, jax_core.Literal) else known[atom]

    for equation in jaxpr.eqns:
        name, given = equation.primitive.name, [value_of(atom) for atom in equation.invars]
        if folded := _folded(equation, given):
            made = folded
        elif inner := _inner(equation):
            made = translate(graph, inner.jaxpr, inner.consts, given)
        elif name in graph.root.operations:
            made = graph.root.operations[name](graph, equation, given)
        else:
            raise Unsupported(name)
        known |= dict(zip(equation.outvars, made, strict=True))
    return [value_of(atom) for atom in jaxpr.outvars]


def constant_of(content: np.ndarray) -> Value:
    return Value("", content.shape, str(content.dtype), constant=content)


def _folded(equation: Any, given: Sequence[Value]) -> list[Value]:
    """The outputs of an operation whose inputs and shapes are all known; else nothing."""
    if not given or any(value.constant is None for value in given):
        return []
    if not all(isinstance(size, int) for out in equation.outvars for size in out.aval.shape):
        return []
    made = equation.primitive.bind(*(value.constant for value in given), **equation.params)
    return [constant_of(np.asarray(one)) for one in (made if equation.primitive.multiple_results else [made])]


def _inner(equation: Any) -> Any:
    """The jaxpr of an operation that is nothing but a call; None for others."""
    if equation.primitive.name in ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat2"):
        inner = equation.params.get("call_jaxpr") or equation.params.get("jaxpr")
        return inner if hasattr(inner, "consts") else jax_core.ClosedJaxpr(inner, ())
    return None
