"""An encoder's weights as EmoFlax keeps them, so that a model of its states needs the publisher's files no more.

    encoder.json         {"encoder": name in the registry, "fields": config fields that follow from the weights}
    model.safetensors    our parameters by their path in the encoder; float16 where that loses nothing

Any encoder of `pretrained.SOURCES` is read from such a folder, as from the folders and files that it was published in.
"""

import json
import pathlib
from typing import Any

import numpy as np
import safetensors.numpy
from flax import nnx

from emoflax.errors import UserError
from emoflax.files import read_json
from emoflax.pretrained.huggingface import read_safetensors
from emoflax.pretrained.table import Source, Table, Tensors, as_is

INDEX, WEIGHTS = "encoder.json", "model.safetensors"


def is_own(folder: pathlib.Path) -> bool:
    return (folder / INDEX).is_file()


def write(folder: pathlib.Path, encoder: str, fields: dict[str, Any], module: nnx.Module) -> None:
    """Writes the folder of `module`, an encoder of that name in the registry; fields: of `pretrained.fields`."""
    folder.mkdir(parents=True)
    (folder / INDEX).write_text(json.dumps({"encoder": encoder, "fields": fields}, indent=1) + "\n", encoding="utf-8")
    arrays = {name: _short(np.asarray(variable[...])) for name, variable in _parameters(module).items()}
    (folder / WEIGHTS).write_bytes(safetensors.numpy.save(arrays))


def source(encoder: str) -> Source:
    """How an encoder of that name is read from such a folder."""

    def fields(folder: pathlib.Path) -> dict[str, Any]:
        try:
            index = read_json(folder / INDEX, mend="copy it again")
            there, decided = index["encoder"], index["fields"].items()
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{folder / INDEX} is damaged ({error}); copy it again") from error
        if there != encoder:
            raise UserError(f"{folder} holds the weights of an encoder {there!r}, not of {encoder!r}")
        return {name: tuple(value) if isinstance(value, list) else value for name, value in decided}

    return Source(fields, _tensors, _table)


def _tensors(folder: pathlib.Path) -> Tensors:
    return read_safetensors(folder, "")


def _table(module: nnx.Module, folder: pathlib.Path) -> Table:
    return {name: (name, as_is) for name in _parameters(module)}


def _parameters(module: nnx.Module) -> dict[str, Any]:
    """Path in the encoder -> parameter."""
    return {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(nnx.state(module, nnx.Param))}


def _short(array: np.ndarray) -> np.ndarray:
    """Float16 if it holds the same numbers, as those that were published in it; in C order, which safetensors needs."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return np.ascontiguousarray(half if np.array_equal(half, array) else array)
