"""AST from a Hugging Face folder: `transformers.ASTModel`, alone or with its classifier."""

import pathlib
from typing import Any

import numpy as np

from emoflax.errors import UserError
from emoflax.models.ast import EPSILON, SPECIAL, Ast, patches_along
from emoflax.pretrained.huggingface import read_config, read_safetensors, sizes
from emoflax.pretrained.table import Source, Table, as_is, layers, linear, norm

FIXED = {"model_type": "audio-spectrogram-transformer", "hidden_act": "gelu", "layer_norm_eps": EPSILON,
         "qkv_bias": True}  # fmt: skip


def fields(folder: pathlib.Path) -> dict[str, Any]:
    """Sizes, and the features that it was trained on; the longest clip is decided by our config."""
    config = read_config(folder, FIXED)
    if config["time_stride"] != config["frequency_stride"]:
        raise UserError(f"{folder / 'config.json'} has two strides, along time and frequency; ast has one for both")
    decided = sizes(config) | {"patch": config["patch_size"], "stride": config["time_stride"]}
    audio = {"frontend": "kaldi", "sample_rate_hz": 16_000, "window_ms": 25.0, "hop_ms": 10.0,
             "mels": config["num_mel_bins"], "fmin_hz": 20.0, "fmax_hz": 8_000.0}  # fmt: skip
    return {f"model.ast.{name}": value for name, value in decided.items()} | {
        f"audio.{name}": value for name, value in audio.items()
    }


def table(ast: Ast, folder: pathlib.Path) -> Table:
    config, stem = read_config(folder, FIXED), ast.stem
    rows, steps = (patches_along(config[name], stem.patch, stem.stride) for name in ("num_mel_bins", "max_length"))

    def positions(table_1xLxD: np.ndarray) -> np.ndarray:
        special_2xD, grid = table_1xLxD[0, :SPECIAL], table_1xLxD[0, SPECIAL:]
        grid_RxSxD = grid.reshape(rows, steps, len(grid.T))
        return np.concatenate([special_2xD, fit_positions(grid_RxSxD, stem.rows, stem.steps)])

    def projection(kernel_Dx1xFxT: np.ndarray) -> np.ndarray:
        return kernel_Dx1xFxT.transpose(3, 2, 1, 0).reshape(-1, len(kernel_Dx1xFxT))

    def flat(vector_1x1xD: np.ndarray) -> np.ndarray:
        return vector_1x1xD.reshape(-1)

    return {
        "embeddings.cls_token": ("stem.class_embedding", flat),
        "embeddings.distillation_token": ("stem.distillation_embedding", flat),
        "embeddings.position_embeddings": ("stem.position_embedding", positions),
        "embeddings.patch_embeddings.projection.weight": ("stem.projection.kernel", projection),
        "embeddings.patch_embeddings.projection.bias": ("stem.projection.bias", as_is),
        **norm("layernorm", "norm"),
        **layers(len(ast.layers), "encoder.layer.{}", {
            "attention.query": (linear, "attention.attention.query"),
            "attention.key": (linear, "attention.attention.key"),
            "attention.value": (linear, "attention.attention.value"),
            "attention.out": (linear, "attention.output.dense"),
            "attention_norm": (norm, "layernorm_before"),
            "up": (linear, "intermediate.dense"),
            "down": (linear, "output.dense"),
            "mlp_norm": (norm, "layernorm_after"),
        }),
    }  # fmt: skip


def fit_positions(grid_RxSxD: np.ndarray, rows: int, steps: int) -> np.ndarray:
    """Position embeddings [rows, steps, width] for other mels and clips: [steps * rows, width], in our order.

    Fewer steps are the first ones of the original. More steps, and other rows, are interpolated linearly between the
    centres of equal parts, as in `torch.nn.functional.interpolate`.
    """
    grid = _interpolate(grid_RxSxD[:, :steps], rows)
    grid_SxRxD = _interpolate(grid.swapaxes(0, 1), steps)
    return grid_SxRxD.reshape(-1, grid.shape[-1])


def _interpolate(rows_NxMxD: np.ndarray, count: int) -> np.ndarray:
    """Linear interpolation to another number of rows."""
    have = len(rows_NxMxD)
    at = np.clip((np.arange(count) + 0.5) * have / count - 0.5, 0, have - 1)
    low = np.floor(at).astype(int)
    share = (at - low)[:, None, None].astype(rows_NxMxD.dtype)
    return rows_NxMxD[low] * (1 - share) + rows_NxMxD[np.minimum(low + 1, have - 1)] * share


AST = Source(
    fields,
    lambda folder: read_safetensors(folder, "audio_spectrogram_transformer."),
    table,
    ignored=r"classifier\.",
)
