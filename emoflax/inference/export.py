"""--mode=export: a bundle, checkpoint or run -> one file that runs without emoflax, and a JSON file that describes it.

    stablehlo     jax.export's format, for CPU, CUDA and TPU in one file: JAX alone runs it
    onnx          for onnxruntime, in any language
    safetensors   the weights by name; whoever reads them writes the arithmetic
    page          a folder with a page on which the ONNX program runs in the browser

Before a file appears under its name, it is run beside the model on recordings of random lengths.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from emoflax import __version__
from emoflax.errors import UserError, optional
from emoflax.experiment import evaluate
from emoflax.files import make_folder, naming, write_whole
from emoflax.inference import bundle, export_check, static_page
from emoflax.inference.export_program import KINDS, Input, Program, program_of
from emoflax.inference.member import Member
from emoflax.inference.model import Model, load

FORMATS = ("stablehlo", "onnx", "safetensors", "page")
PLATFORMS = ("cpu", "cuda", "tpu")
OUTPUT = "probabilities"
_UNDECIDED = (
    "an encoder of it takes other ways for other lengths, so that there is no one program for all; "
    "--format=safetensors exports its weights"
)


def run(place: str | None, kind: str | None, taken: str, output: str | None, runtime: str | None = None) -> None:
    """Writes `output` and `output`.json, or a folder `output`.

    Args:
      place: a bundle, a checkpoint such as RUN/seed0-fold1, or a run.
      kind: a name from FORMATS.
      taken: a name from export_program.KINDS.
      runtime: of a page, the folder of the package onnxruntime-web.

    Raises:
      UserError: nothing to export or nowhere to, a package is missing, the model cannot be exported in this way, or
        what was exported gives other probabilities; then there is no file.
    """
    if not place or not output or kind not in FORMATS or taken not in KINDS:
        raise UserError(
            f"--mode=export needs --bundle=PATH or --checkpoint=RUN, --format={'|'.join(FORMATS)} and --output=FILE"
        )
    if kind in ("onnx", "page"):
        with optional(f"--format={kind}", "onnx"):
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
    path = pathlib.Path(output)
    if kind == "page":
        static_page.check(path, runtime, taken)
        try:
            apart = program(load(place), "onnx", "waveform", path / static_page.MODEL)
        except UserError:
            with contextlib.suppress(OSError):  # of another page
                path.rmdir()
            raise
        static_page.write(path, runtime)
        print(
            f"{path}: a page, whose probabilities differ by at most {apart:.1g} from the model's; show it by a server "
            f"of files, such as python -m http.server --directory={path}"
        )
        return
    if path.is_dir():
        raise UserError(f"--output={output} is a folder; name a file, such as {path / ('emotions.' + kind)}")
    make_folder(path.parent, "--output")
    model = load(place)
    apart = weights(model, path) if kind == "safetensors" else program(model, kind, taken, path)
    print(
        f"{path}: {path.stat().st_size:,} bytes; on {export_check.CLIPS} recordings of random length its probabilities "
        f"differ by at most {apart:.1g} from the model's; described in {path}.json"
    )


def program(model: Model, kind: str, taken: str, path: pathlib.Path) -> float:
    """Writes the model's function as StableHLO or ONNX; the largest difference of its probabilities.

    Raises:
      UserError: see `run`.
    """
    made = program_of(model, taken)
    description = _description(model, kind) | {
        "inputs": [dataclasses.asdict(one) for one in made.inputs],
        "output": dataclasses.asdict(Input(OUTPUT, ("batch", len(made.labels)), "float32", "of the labels, in order")),
    }
    try:
        content = (_stablehlo if kind == "stablehlo" else _onnx)(made, description, model.where)
    except jax.errors.InconclusiveDimensionOperation as error:
        raise UserError(f"{model.where}: {_UNDECIDED}") from error

    def difference(file: pathlib.Path) -> float:
        return export_check.difference(model, taken, STARTS[kind](file.read_bytes()))

    return _write(path, content, description, difference)


def weights(model: Model, path: pathlib.Path) -> float:
    """Writes the weights of all members, `<member>/<name>`; the largest difference of what is read from them again."""
    description = _description(model, "safetensors") | {
        "members": [
            {"name": _name(one), "weight": one.weight, **bundle.without_places(one.trained.description)}
            for one in model.members
        ],
    }
    arrays = {
        f"{_name(one)}/{name}": leaf for one in model.members for name, leaf in bundle.arrays_of(one.trained).items()
    }

    def difference(file: pathlib.Path) -> float:
        again = Model([_read_again(one, file) for one in model.members], model.index, model.where)
        return export_check.difference_of_models(model, again)

    return _write(path, bundle.packed(arrays), description, difference)


def _write(
    path: pathlib.Path, content: bytes, description: dict[str, Any], difference: Callable[[pathlib.Path], float]
) -> float:
    """The file and its description, if what it gives is what the model gives; else neither.

    Raises:
      UserError: it gives something else.
    """
    with naming(path, "--output"), write_whole(path) as file:
        file.write(content)
        file.flush()
        apart = difference(pathlib.Path(file.name))
        if not apart <= description["tolerance"]:
            raise UserError(
                f"{path} was removed: its probabilities differ by {apart:.2g} from the model's, more than "
                f"{description['tolerance']:g}; please report this with the versions of jax and onnxruntime"
            )
        description |= {"largest_difference": apart, "bytes": len(content)}
        with write_whole(path.with_name(f"{path.name}.json")) as beside:
            beside.write(json.dumps(description, indent=1, ensure_ascii=False).encode() + b"\n")
    return apart


def _description(model: Model, kind: str) -> dict[str, Any]:
    words = [list(one.trained.description["vocabulary"]) for one in model.members if one.config.model.text]
    return {
        "format": kind, "name": model.name, "emoflax": __version__, "labels": list(model.labels),
        "corpus": model.corpus,
        "sample_rates_hz": sorted({one.config.audio.sample_rate_hz for one in model.members}),
        "notice": model.notice, "licences": model.index.get("licences", []),
        "ensemble": {_name(one): one.weight for one in model.members}, "temperature": model.temperature,
        "tolerance": export_check.tolerance(model),
    } | ({"vocabularies": words} if words else {})  # fmt: skip


def _name(member: Member) -> str:
    return member.name or "model"


def _stablehlo(made: Program, description: dict[str, Any], where: str) -> bytes:
    exported = jax.export.export(jax.jit(made.function), platforms=PLATFORMS)(*made.specs())
    description["platforms"] = list(exported.platforms)
    description["calling_convention_version"] = exported.calling_convention_version
    return bytes(exported.serialize())


def _start_stablehlo(content: bytes) -> export_check.Run:
    call = jax.jit(jax.export.deserialize(bytearray(content)).call)
    return lambda arrays: np.asarray(call(*arrays))


def _onnx(made: Program, description: dict[str, Any], where: str) -> bytes:
    """Raises UserError: the model has an operation that was not translated."""
    from emoflax.inference import onnx_graph, onnx_model

    names = [one.name for one in made.inputs]
    told = {name: json.dumps(description[name], ensure_ascii=False) for name in ("labels", "inputs", "emoflax")}
    try:
        model = onnx_model.to_onnx(made.function, made.specs(), names, OUTPUT, told)
    except onnx_graph.Unsupported as missing:
        raise UserError(
            f"{where} has an operation without a form in this ONNX export ({missing}); --format=stablehlo exports it"
        ) from missing
    description["opset"] = onnx_model.OPSET
    return model.SerializeToString()


def _start_onnx(content: bytes) -> export_check.Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda arrays: session.run([OUTPUT], dict(zip(names, arrays, strict=True)))[0]


# Format -> what makes a function of the program's inputs, in their order, of the content of a file.
STARTS = {"stablehlo": _start_stablehlo, "onnx": _start_onnx}


def _read_again(member: Member, file: pathlib.Path) -> Member:
    """The member with the weights that are in the file."""
    arrays, trained = safetensors.numpy.load_file(file), member.trained
    leaves = [arrays[f"{_name(member)}/{name}"] for name in bundle.arrays_of(trained)]
    kept = bundle.weights_of(trained)
    state = jax.tree.unflatten(jax.tree.structure(kept), leaves)
    return Member(
        member.name, member.weight, evaluate.Trained(member.config, trained.description, trained.model, state)
    )
