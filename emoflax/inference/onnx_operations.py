"""JAX's operations as ONNX's: for each name a function (graph, equation, inputs) -> outputs; see `onnx_graph.py`."""

import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper

from emoflax.inference.onnx_graph import TYPES, Graph, Operation, Unsupported, Value, translate

_FURTHEST = np.iinfo(np.int64).min  # the end of a slice that runs backwards to the beginning


def _made(equation: Any, name: str, *, spread: bool = True) -> list[Value]:
    shaped = equation.outvars[0].aval
    return [Value(name, tuple(shaped.shape), str(shaped.dtype), spread)]


def _elementwise(operation: str, **attributes: Any) -> Operation:
    def translated(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
        made = graph.node(operation, [graph.name(value) for value in given], **attributes)
        return _made(equation, made, spread=any(value.spread and value.shape for value in given))

    return translated


def _same(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    return list(given)


def _square(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    return _elementwise("Mul")(graph, equation, [given[0], given[0]])


def _rsqrt(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    root = graph.node("Sqrt", [graph.name(given[0])])
    return _made(equation, graph.node("Reciprocal", [root]), spread=given[0].spread)


def _erfc(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    erf = graph.node("Erf", [graph.name(given[0])])
    return _made(equation, graph.node("Sub", [graph.array(np.float32(1)), erf]), spread=given[0].spread)


def _integer_pow(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    power = graph.array(np.float32(equation.params["y"]))
    return _made(equation, graph.node("Pow", [graph.name(given[0]), power]), spread=given[0].spread)


def _cast(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    kind = str(equation.outvars[0].aval.dtype)
    return _made(equation, _as_type(graph, graph.name(given[0]), kind), spread=given[0].spread)


def _as_type(graph: Graph, name: str, dtype: str) -> str:
    if dtype not in TYPES:
        raise Unsupported(f"numbers of type {dtype}")
    return graph.node("Cast", [name], to=TYPES[dtype])


def _select(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    if given[0].dtype != "bool":
        raise Unsupported("select_n of numbers")
    which, when_false, when_true = given
    return _elementwise("Where")(graph, equation, [which, when_true, when_false])


def _not_equal(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    (equal,) = _elementwise("Equal")(graph, equation, given)
    return _made(equation, graph.node("Not", [equal.name]), spread=equal.spread)


def _clamp(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    low, x, high = given
    (at_least,) = _elementwise("Max")(graph, equation, [x, low])
    return _elementwise("Min")(graph, equation, [at_least, high])


def _reduce(operation: str) -> Operation:
    def translated(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
        axes = graph.array(equation.params["axes"], np.int64)
        return _made(equation, graph.node(operation, [graph.full(given[0]), axes], keepdims=0))

    return translated


def _reduce_bool(operation: str) -> Operation:
    def translated(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
        axes = graph.array(equation.params["axes"], np.int64)
        numbers = _as_type(graph, graph.full(given[0]), "int32")
        return _made(equation, _as_type(graph, graph.node(operation, [numbers, axes], keepdims=0), "bool"))

    return translated


def _broadcast(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    """A shape with ones where the tensor repeats; it is spread when that is needed."""
    shape, places = equation.params["shape"], equation.params["broadcast_dimensions"]
    sizes: list[Any] = [1] * len(shape)
    for place, size in zip(places, given[0].shape, strict=True):
        sizes[place] = size
    if not shape:
        return list(given)
    name = graph.node("Reshape", [graph.full(given[0]), graph.shape(sizes)]) if sizes else graph.name(given[0])
    return _made(equation, name, spread=tuple(map(str, sizes)) == tuple(map(str, shape)))


def _reshape(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    shape = graph.shape(equation.outvars[0].aval.shape)
    return _made(equation, graph.node("Reshape", [graph.full(given[0]), shape], allowzero=1))


def _transpose(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    order = list(equation.params["permutation"])
    return _made(equation, graph.node("Transpose", [graph.full(given[0])], perm=order))


def _concatenate(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    parts = [graph.full(value) for value in given]
    return _made(equation, graph.node("Concat", parts, axis=equation.params["dimension"]))


def _iota(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    shape, along = equation.params["shape"], equation.params["dimension"]
    end = graph.node("Squeeze", [graph.length(shape[along])])
    numbers = graph.node("Range", [graph.array(np.int64(0)), end, graph.array(np.int64(1))])
    sizes = [shape[along] if place == along else 1 for place in range(len(shape))]
    shaped = graph.node("Reshape", [numbers, graph.shape(sizes)])
    spread = len(shape) == 1
    return _made(equation, _as_type(graph, shaped, str(equation.params["dtype"])), spread=spread)


def _dim_as_value(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    scalar = graph.node("Squeeze", [graph.length(equation.params["dim"])])
    return _made(equation, _as_type(graph, scalar, str(equation.outvars[0].aval.dtype)))


def _pad(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    before, after, between = zip(*equation.params["padding_config"], strict=True)
    if any(between):
        raise Unsupported("pad between numbers")
    inputs = [graph.full(given[0]), graph.shape([*before, *after]), graph.name(given[1])]
    return _made(equation, graph.node("Pad", inputs))


def _slice(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    starts, ends = equation.params["start_indices"], equation.params["limit_indices"]
    steps = equation.params["strides"] or [1] * len(starts)
    inputs = [graph.full(given[0]), *map(graph.shape, (starts, ends, range(len(starts)), steps))]
    return _made(equation, graph.node("Slice", inputs))


def _reversed(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    axes = list(equation.params["dimensions"])
    ends = [[-1] * len(axes), [_FURTHEST] * len(axes), axes, [-1] * len(axes)]
    return _made(equation, graph.node("Slice", [graph.full(given[0]), *map(graph.shape, ends)]))


def _split(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    sizes, outs = equation.params["sizes"], equation.outvars
    names = graph.node("Split", [graph.full(given[0]), graph.shape(sizes)], len(outs), axis=equation.params["axis"])
    pairs = zip([names] if len(outs) == 1 else names, outs, strict=True)
    return [Value(name, tuple(out.aval.shape), str(out.aval.dtype)) for name, out in pairs]


def _gather(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    """Two kinds: a slice that begins at one place, and rows of one axis by their places, which lie inside."""
    x, places = given
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    if len(numbers.start_index_map) != 1 or numbers.operand_batching_dims:
        raise Unsupported("gather along several axes")
    (axis,) = numbers.start_index_map
    if not numbers.collapsed_slice_dims and len(places.shape) == 1:
        start = _as_type(graph, graph.full(places), "int64")
        end = graph.node("Add", [start, graph.length(sizes[axis])])
        return _made(equation, graph.node("Slice", [graph.full(x), start, end, graph.array([axis], np.int64)]))
    indexed = len(places.shape) - 1
    others = [d for d in range(len(x.shape) - 1 + indexed) if not axis <= d < axis + indexed]
    if numbers.collapsed_slice_dims != (axis,) or list(numbers.offset_dims) != others:
        raise Unsupported("gather of blocks")
    if any(str(size) != str(whole) for d, (size, whole) in enumerate(zip(sizes, x.shape, strict=True)) if d != axis):
        raise Unsupported("gather of parts of rows")
    index = graph.node("Squeeze", [graph.full(places), graph.array([-1], np.int64)])
    return _made(equation, graph.node("Gather", [graph.full(x), index], axis=axis))


def _dot(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    (left_sum, right_sum), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left, right = given
    ranks = len(left.shape), len(right.shape)
    if not left_batch and ranks[1] == 2 and tuple(left_sum) == (ranks[0] - 1,) and tuple(right_sum) == (0,):
        return _made(equation, graph.node("MatMul", [graph.full(left), graph.full(right)]))
    letters = iter(string.ascii_letters)
    of_left = [next(letters) for _ in range(ranks[0])]
    of_right = [next(letters) for _ in range(ranks[1])]
    for one, other in zip((*left_sum, *left_batch), (*right_sum, *right_batch), strict=True):
        of_right[other] = of_left[one]
    out = [of_left[d] for d in left_batch]
    out += [letter for d, letter in enumerate(of_left) if d not in left_sum and d not in left_batch]
    out += [letter for d, letter in enumerate(of_right) if d not in right_sum and d not in right_batch]
    formula = f"{''.join(of_left)},{''.join(of_right)}->{''.join(out)}"
    return _made(equation, graph.node("Einsum", [graph.full(left), graph.full(right)], equation=formula))


def _convolution(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    fields = equation.params
    if any(step != 1 for step in fields["lhs_dilation"]) or fields["batch_group_count"] != 1:
        raise Unsupported("transposed convolution")
    numbers = fields["dimension_numbers"]
    x, kernel = (
        graph.node("Transpose", [graph.full(value)], perm=list(order))
        for value, order in zip(given, (numbers.lhs_spec, numbers.rhs_spec), strict=True)
    )
    before, after = zip(*fields["padding"], strict=True)
    made = graph.node(
        "Conv", [x, kernel], pads=[int(size) for size in (*before, *after)], strides=list(fields["window_strides"]),
        dilations=list(fields["rhs_dilation"]), group=fields["feature_group_count"],
    )  # fmt: skip
    return _made(equation, graph.node("Transpose", [made], perm=np.argsort(numbers.out_spec).tolist()))


def _window_max(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    fields, shape = equation.params, given[0].shape
    pooled = [d for d, size in enumerate(fields["window_dimensions"]) if size > 1]
    order = [d for d in range(len(shape)) if d not in pooled] + pooled
    x = graph.node("Transpose", [graph.full(given[0])], perm=order)
    x = graph.node("Reshape", [x, graph.shape([-1, 1, *(shape[d] for d in pooled)])])
    before, after = zip(*(fields["padding"][d] for d in pooled), strict=True)
    made = graph.node(
        "MaxPool", [x], kernel_shape=[fields["window_dimensions"][d] for d in pooled],
        strides=[fields["window_strides"][d] for d in pooled], pads=[int(size) for size in (*before, *after)],
    )  # fmt: skip
    out = equation.outvars[0].aval.shape
    made = graph.node("Reshape", [made, graph.shape([out[d] for d in order])])
    return _made(equation, graph.node("Transpose", [made], perm=np.argsort(order).tolist()))


def _fft(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    """Of real numbers: [..., width] -> [..., 1 + width / 2, 2], which `real` and `imag` take apart."""
    if equation.params["fft_type"].name != "RFFT" or len(equation.params["fft_lengths"]) != 1:
        raise Unsupported("fft of complex numbers")
    width = given[0].shape[-1]
    rows = graph.node("Reshape", [graph.full(given[0]), graph.shape([-1, width, 1])])
    made = graph.node("DFT", [rows], axis=1, onesided=1)
    out = tuple(equation.outvars[0].aval.shape)
    return [Value(graph.node("Reshape", [made, graph.shape([*out, 2])]), out, "complex64")]


def _part(place: int) -> Operation:
    def translated(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
        return _made(equation, graph.node("Gather", [given[0].name, graph.array(np.int64(place))], axis=-1))

    return translated


def _scan(graph: Graph, equation: Any, given: Sequence[Value]) -> list[Value]:
    fields = equation.params
    constants, carries = fields["num_consts"], fields["num_carry"]
    inner, body = fields["jaxpr"], Graph(graph)
    outside = [Value(graph.full(value), value.shape, value.dtype) for value in given]
    inside = [
        Value(body.fresh(), tuple(variable.aval.shape), str(variable.aval.dtype))
        for variable in inner.jaxpr.invars[constants:]
    ]
    made = translate(body, inner.jaxpr, inner.consts, [*outside[:constants], *inside])
    named = [body.node("Identity", [body.full(value)]) for value in made]
    infos = [helper.make_tensor_value_info(one.name, TYPES[one.dtype], None) for one in inside]
    results = [helper.make_tensor_value_info(name, TYPES[one.dtype], None)
               for name, one in zip(named, made, strict=True)]  # fmt: skip
    scanned, stacked = len(inside) - carries, len(made) - carries
    backwards = int(fields["reverse"])
    names = graph.node(
        "Scan", [value.name for value in outside[constants:]], len(made), num_scan_inputs=scanned,
        body=helper.make_graph(body.nodes, graph.fresh(), infos, results),
        scan_input_directions=[backwards] * scanned, scan_output_directions=[backwards] * stacked,
    )  # fmt: skip
    pairs = zip([names] if len(made) == 1 else names, equation.outvars, strict=True)
    return [Value(name, tuple(out.aval.shape), str(out.aval.dtype)) for name, out in pairs]


_ELEMENTWISE = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "neg": "Neg", "abs": "Abs",
    "sign": "Sign", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "tanh": "Tanh", "logistic": "Sigmoid", "erf": "Erf",
    "floor": "Floor", "ceil": "Ceil", "round": "Round", "and": "And", "or": "Or", "not": "Not", "eq": "Equal",
    "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "pow": "Pow", "sin": "Sin",
    "cos": "Cos",
}  # fmt: skip

OPERATIONS: dict[str, Operation] = {name: _elementwise(operation) for name, operation in _ELEMENTWISE.items()} | {
    "rem": _elementwise("Mod", fmod=1), "square": _square,
    "erfc": _erfc, "rsqrt": _rsqrt, "integer_pow": _integer_pow,
    "stop_gradient": _same, "copy": _same, "copy_p": _same, "optimization_barrier": _same, "ne": _not_equal,
    "convert_element_type": _cast, "select_n": _select, "clamp": _clamp, "broadcast_in_dim": _broadcast,
    "reshape": _reshape, "squeeze": _reshape, "expand_dims": _reshape, "transpose": _transpose,
    "concatenate": _concatenate, "iota": _iota, "dim_as_value": _dim_as_value, "pad": _pad, "slice": _slice,
    "rev": _reversed, "split": _split, "gather": _gather, "dot_general": _dot, "conv_general_dilated": _convolution,
    "reduce_window_max": _window_max, "fft": _fft, "real": _part(0), "imag": _part(1), "scan": _scan,
    "reduce_sum": _reduce("ReduceSum"), "reduce_max": _reduce("ReduceMax"), "reduce_min": _reduce("ReduceMin"),
    "reduce_prod": _reduce("ReduceProd"),
    "reduce_or": _reduce_bool("ReduceMax"), "reduce_and": _reduce_bool("ReduceMin"),
}  # fmt: skip
