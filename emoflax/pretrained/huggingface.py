"""Folders as Hugging Face lays them out: config.json and model.safetensors. No download, no pickle."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError, safe_open

from emoflax.errors import UserError
from emoflax.files import read_json
from emoflax.pretrained.table import Tensors


def read_config(folder: pathlib.Path, expected: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a Hugging Face folder.

    Args:
      expected: values that are fixed in our encoder.

    Raises:
      UserError: it is not there, is not JSON, or describes a model that our encoder does not implement.
    """
    path = folder / "config.json"
    try:
        config = read_json(path, mend="copy it again")
    except OSError as error:
        raise UserError(
            f"there is no {path} ({error.strerror}). Nothing is downloaded: put a Hugging Face model's config.json, "
            "model.safetensors and, for text, tokenizer.json or vocab.txt into that folder"
        ) from error
    wrong = [f"{name}={config.get(name)!r} instead of {value!r}" for name, value in expected.items()
             if config.get(name, value) != value]  # fmt: skip
    if wrong:
        raise UserError(f"{path} describes a model that our encoder does not implement: {', '.join(wrong)}")
    return config


def read_safetensors(folder: pathlib.Path, prefix: str, ignored: str = "") -> Tensors:
    """The tensors of a Hugging Face folder, in one file or in those that its index names.

    Args:
      prefix: removed from names that begin with it.
      ignored: pattern of names, without the prefix, that are not read.
    """
    tensors = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="numpy") as file:
                names = {_modern(name.removeprefix(prefix)): name for name in file.keys()}  # noqa: SIM118
                tensors |= {ours: file.get_tensor(name) for ours, name in names.items()
                            if not (ignored and re.match(ignored, ours))}  # fmt: skip
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is damaged ({error}); copy it again") from error
    return tensors


def weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """model.safetensors, or the files that model.safetensors.index.json names: large models are split into several."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file() or not index.is_file():
        paths = [whole]
    else:
        try:
            named = read_json(index, mend="copy it again")["weight_map"].values()
            paths = [folder / name for name in sorted(set(named))]
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            raise UserError(f"{index} is damaged ({error}); copy it again") from error
    if missing := [path.name for path in paths if not path.is_file()]:
        raise UserError(
            f"there is no {', '.join(missing)} in {folder}. Nothing is downloaded, and pickles (pytorch_model.bin) are "
            "not read: put the model's safetensors there"
        )
    return paths


def _modern(name: str) -> str:
    """The first BERTs, made with TensorFlow, call the weight and bias of a normalisation gamma and beta."""
    return re.sub(r"gamma$", "weight", re.sub(r"beta$", "bias", name))


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Our names of an encoder's sizes -> their values in a Hugging Face config."""
    names = {"width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
             "hidden": "intermediate_size"}  # fmt: skip
    return {ours: config[theirs] for ours, theirs in names.items()}
