"""JAX functions of arrays of any length -> ONNX models.

A function is traced with symbols for the lengths, and its jaxpr translated operation by operation. jax2onnx (0.13.0,
0.17.1) has no arithmetic of such lengths, which a front end for recordings of any length is full of.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import onnx
from onnx import helper

from emoflax.inference.onnx_graph import TYPES, Graph, Length, Value, translate
from emoflax.inference.onnx_operations import OPERATIONS

OPSET, IR_VERSION = 18, 9


def to_onnx(
    function: Callable[..., jax.Array], specs: Sequence[jax.ShapeDtypeStruct], names: Sequence[str], output: str,
    description: dict[str, str],
) -> onnx.ModelProto:  # fmt: skip
    """The model of a function.

    Args:
      specs: shapes of its arguments, with jax.export's symbols for lengths.
      names: of its arguments.
      output: name of what it returns.
      description: metadata of the model.

    Raises:
      Unsupported: an operation has no translation.
    """
    closed, graph = jax.make_jaxpr(function)(*specs), Graph(operations=OPERATIONS)
    for name, spec in zip(names, specs, strict=True):
        for place, size in enumerate(spec.shape):
            if not isinstance(size, int) and str(size) not in graph.symbols:
                shape = graph.node("Shape", [name], start=place, end=place + 1)
                graph.symbols[str(size)] = Length(graph, shape)
    inputs = [Value(name, tuple(spec.shape), str(spec.dtype)) for name, spec in zip(names, specs, strict=True)]
    (made,) = translate(graph, closed.jaxpr, closed.consts, inputs)
    graph.nodes.append(helper.make_node("Identity", [graph.full(made)], [output]))
    typed = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "emoflax",
            [typed(one.name, TYPES[one.dtype], _sizes(one.shape)) for one in inputs],
            [typed(output, TYPES[made.dtype], _sizes(made.shape))],
            list(graph.initializers.values()),
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="emoflax",
    )
    helper.set_model_props(model, description)
    onnx.checker.check_model(model)
    return model


def _sizes(shape: Sequence[Any]) -> list[int | str]:
    return [size if isinstance(size, int) else str(size) for size in shape]
