"""Folders as Hugging Face lays them out: config.json and model.safetensors. No download, no pickle."""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file

from emoflax.errors import UserError
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
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"there is no {path} ({error.strerror}). Nothing is downloaded: put a Hugging Face model's config.json, "
            "model.safetensors and, for text, tokenizer.json or vocab.txt into that folder"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); copy it again") from error
    wrong = [f"{name}={config.get(name)!r} instead of {value!r}" for name, value in expected.items()
             if config.get(name, value) != value]  # fmt: skip
    if wrong:
        raise UserError(f"{path} describes a model that our encoder does not implement: {', '.join(wrong)}")
    return config


def read_safetensors(folder: pathlib.Path, prefix: str) -> Tensors:
    """The tensors of a Hugging Face folder; `prefix` is removed from names that begin with it."""
    paths = sorted(folder.glob("model*.safetensors"))  # large models are split into several
    if not paths:
        raise UserError(
            f"there is no {folder / 'model.safetensors'}. Nothing is downloaded, and pickles (pytorch_model.bin) are "
            "not read: put the model.safetensors of that model there"
        )
    tensors = {}
    for path in paths:
        try:
            tensors |= load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is damaged ({error}); copy it again") from error
    return {_modern(name.removeprefix(prefix)): array for name, array in tensors.items()}


def _modern(name: str) -> str:
    """The first BERTs, made with TensorFlow, call the weight and bias of a normalisation gamma and beta."""
    return re.sub(r"gamma$", "weight", re.sub(r"beta$", "bias", name))


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Our names of an encoder's sizes -> their values in a Hugging Face config."""
    names = {"width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
             "hidden": "intermediate_size"}  # fmt: skip
    return {ours: config[theirs] for ours, theirs in names.items()}
