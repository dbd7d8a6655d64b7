"""The arrays of a CTranslate2 model.bin, format version 6, without that library.

The file: version, name and revision of the model; the number of variables, each with its name, shape, type, size in
bytes and content; the number of aliases, each with its name and that of the variable which it stands for. Integers are
little-endian, a text is its length and its bytes with a zero at the end.
"""

import mmap
import pathlib
import struct
from collections.abc import Callable

import ml_dtypes
import numpy as np

from emoflax.errors import UserError
from emoflax.pretrained.table import Tensors

VERSION = 6
_TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16, ml_dtypes.bfloat16)  # at the place of their number
_SCALE = "_scale"  # ends the name of the factors by which the variable of that name was multiplied before rounding


def read(path: pathlib.Path, wanted: Callable[[str], bool]) -> Tensors:
    """The arrays whose names are `wanted`; floats as they are stored, rounded ones (int8, int16) as float32 again.

    Raises:
      UserError: no such file, another version, or a damaged file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            stored = _variables(content, wanted)
    except OSError as error:
        raise UserError(f"there is no {path} ({error.strerror}); put a CTranslate2 model there") from error
    except (struct.error, ValueError, LookupError) as error:
        raise UserError(f"{path} is damaged or no CTranslate2 model ({error}); copy it again") from error
    return {name: _as_floats(array, stored.get(name + _SCALE)) for name, array in stored.items()
            if not name.endswith(_SCALE)}  # fmt: skip


def _variables(content: mmap.mmap, wanted: Callable[[str], bool]) -> Tensors:
    at = 0

    def take(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + form, content, at)
        at += struct.calcsize("<" + form)
        return value

    def text() -> str:
        nonlocal at
        length = take("H")
        at += length
        return content[at - length : at - 1].decode()

    version = take("I")
    if version != VERSION:
        raise ValueError(f"its format is version {version}; version {VERSION} can be read")
    text(), take("I")
    arrays = {}
    for _ in range(take("I")):
        name = text()
        shape = [take("I") for _ in range(take("B"))]
        kind, size = take("B"), take("I")
        if wanted(name):
            arrays[name] = np.frombuffer(content[at : at + size], _TYPES[kind]).reshape(shape)
        at += size
    for _ in range(take("I")):
        alias, name = text(), text()
        if wanted(alias):
            arrays[alias] = arrays[name]
    return arrays


def _as_floats(array: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    if scale is None:
        return array
    return array.astype(np.float32) / scale.reshape(scale.shape + (1,) * (array.ndim - scale.ndim))
