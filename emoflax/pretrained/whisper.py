"""Whisper's audio encoder from openai-whisper: a model's name, or the path of a .pt file. Its decoder is left out."""

import pathlib
import pickle
import zipfile
from typing import Any

import numpy as np

from emoflax.errors import UserError, optional
from emoflax.models.whisper import WINDOW, Whisper, sinusoids
from emoflax.pretrained.table import Source, Table, Tensors, as_is, layers, linear, norm

FIELDS = "config.model.pretrained.audio (for a probe: config.states.weights)"  # where a user names weights
POSITIONS_TOLERANCE = 2e-3  # published positions are float16


def fields(model: pathlib.Path) -> dict[str, Any]:
    """Sizes, and the features that it was trained on, silence up to 30 s included."""
    dims = read(model)["dims"]
    decided = {"width": dims["n_audio_state"], "layers": dims["n_audio_layer"], "heads": dims["n_audio_head"],
               "padded": True}  # fmt: skip
    audio = {"frontend": "whisper", "sample_rate_hz": 16_000, "window_ms": 25.0, "hop_ms": 10.0,
             "mels": dims["n_mels"], "fmin_hz": 0.0, "fmax_hz": 8_000.0}  # fmt: skip
    return {f"model.whisper.{name}": value for name, value in decided.items()} | {
        f"audio.{name}": value for name, value in audio.items()
    }


def tensors(model: pathlib.Path) -> Tensors:
    found = {name: tensor.float().numpy() for name, tensor in read(model)["model_state_dict"].items()
             if not name.startswith("decoder.")}  # fmt: skip
    found = {name.removeprefix("encoder."): array for name, array in found.items()}
    positions = found.pop("positional_embedding", None)
    if positions is not None and (
        len(positions) != WINDOW // 2 or np.abs(positions - sinusoids(*positions.shape)).max() > POSITIONS_TOLERANCE
    ):
        raise UserError(f"the weights in {model} mark positions by other numbers than Whisper's sinusoids over 30 s")
    return found


def read(model: pathlib.Path) -> dict[str, Any]:
    """The checkpoint {'dims', 'model_state_dict'}; tensors stay on disk until they are touched.

    Raises:
      UserError: it is not there and cannot be had (`WeightsUnavailable`), or is no openai-whisper checkpoint.
    """
    with optional(f"{model}, a checkpoint of PyTorch,", "whisper"):
        import torch  # nothing of a pickle but tensors and plain values is loaded

    from emoflax.pretrained import whisper_files as whisper_weights

    path = whisper_weights.file_of(str(model), FIELDS)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        return {"dims": dict(checkpoint["dims"]), "model_state_dict": dict(checkpoint["model_state_dict"])}
    except (RuntimeError, LookupError, TypeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        detail = (str(error).splitlines() or ["no details"])[0]
        raise UserError(
            f"{path} is incomplete or no openai-whisper checkpoint ({type(error).__name__}: {detail}); copy it again"
        ) from error


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
