"""Whisper's audio encoder from published weights; the decoder is not loaded.

A name of openai-whisper's, the path of its .pt file, a Hugging Face folder, or a CTranslate2 folder.
"""

import pathlib
import pickle
import zipfile
from typing import Any

import numpy as np

from emoflax.errors import UserError, optional
from emoflax.models.whisper import WINDOW, Whisper, sinusoids
from emoflax.pretrained import whisper_files, whisper_folders
from emoflax.pretrained.table import Source, Table, Tensors, as_is, layers, linear, norm
from emoflax.pretrained.whisper_folders import Checkpoint

FIELDS = "config.model.pretrained.audio (for a probe: config.states.weights)"  # config fields that name the weights
SIZES = ("mels", "audio_state", "audio_layer", "audio_head")  # of openai-whisper's dimensions
POSITIONS_TOLERANCE = 2e-3  # published positions are float16


def fields(model: pathlib.Path) -> dict[str, Any]:
    """Sizes, and the features that it was trained on, silence up to 30 s included."""
    checkpoint = read(model)
    decided = {"width": checkpoint.width, "layers": checkpoint.layers, "heads": checkpoint.heads, "silence_s": 30.0}
    audio = {"frontend": "whisper", "sample_rate_hz": 16_000, "window_ms": 25.0, "hop_ms": 10.0,
             "mels": checkpoint.mels, "fmin_hz": 0.0, "fmax_hz": 8_000.0}  # fmt: skip
    return {f"model.whisper.{name}": value for name, value in decided.items()} | {
        f"audio.{name}": value for name, value in audio.items()
    }


def tensors(model: pathlib.Path) -> Tensors:
    encoder = read(model).tensors()
    positions = encoder.pop("positional_embedding", None)
    if positions is not None and (
        len(positions) != WINDOW // 2 or np.abs(positions - sinusoids(*positions.shape)).max() > POSITIONS_TOLERANCE
    ):
        raise UserError(f"the weights in {model} have other position embeddings than Whisper's sinusoids over 30 s")
    return encoder


def read(model: pathlib.Path) -> Checkpoint:
    """The encoder's sizes and its tensors, which stay on disk until they are asked for.

    Raises:
      UserError: it is not there and cannot be downloaded (`WeightsUnavailable`), or is no Whisper.
    """
    return whisper_folders.read(model) if model.is_dir() else _openai(model)


def _openai(model: pathlib.Path) -> Checkpoint:
    with optional(f"{model}, a checkpoint of PyTorch,", "whisper"):
        import torch  # nothing of a pickle but tensors and plain values is loaded

    path = whisper_files.file_of(str(model), FIELDS)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        dims, stored = dict(content["dims"]), dict(content["model_state_dict"])
        mels, width, layers, heads = (dims[f"n_{size}"] for size in SIZES)
        return Checkpoint(mels, width, layers, heads, lambda: _encoder_of(stored))
    except (RuntimeError, LookupError, TypeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        detail = (str(error).splitlines() or ["no details"])[0]
        raise UserError(
            f"{path} is incomplete or no openai-whisper checkpoint ({type(error).__name__}: {detail}); copy it again"
        ) from error


def _encoder_of(stored: dict[str, Any]) -> Tensors:
    return {name.removeprefix("encoder."): tensor.float().numpy() for name, tensor in stored.items()
            if not name.startswith("decoder.")}  # fmt: skip


def table(encoder: Whisper, model: pathlib.Path) -> Table:
    def convolution(kernel_DxFx3: np.ndarray) -> np.ndarray:
        return kernel_DxFx3.transpose(2, 1, 0).reshape(-1, len(kernel_DxFx3))

    return {
        "conv1.weight": ("stem.conv1.kernel", convolution),
        "conv1.bias": ("stem.conv1.bias", as_is),
        "conv2.weight": ("stem.conv2.kernel", convolution),
        "conv2.bias": ("stem.conv2.bias", as_is),
        **norm("ln_post", "norm"),
        **layers(len(encoder.layers), "blocks.{}", {
            "attention.query": (linear, "attn.query"),
            "attention.key": (_without_bias, "attn.key"),
            "attention.value": (linear, "attn.value"),
            "attention.out": (linear, "attn.out"),
            "attention_norm": (norm, "attn_ln"),
            "up": (linear, "mlp.0"),
            "down": (linear, "mlp.2"),
            "mlp_norm": (norm, "mlp_ln"),
        }),
    }  # fmt: skip


def _without_bias(theirs: str, ours: str) -> Table:
    return linear(theirs, ours, bias=False)


WHISPER = Source(fields, tensors, table)
