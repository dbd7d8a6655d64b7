"""wav2vec 2.0, HuBERT, WavLM and data2vec-audio from Hugging Face folders: alone, or with any head."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from emoflax.audio.wave_frames import WAVE_FRAME
from emoflax.errors import UserError
from emoflax.files import read_json
from emoflax.models.wave import EPSILON, WaveEncoder
from emoflax.pretrained.huggingface import read_config, read_safetensors, sizes
from emoflax.pretrained.table import Source, Table, Tensors, as_is, layers, linear, norm

FIXED = {"hidden_act": "gelu", "feat_extract_activation": "gelu", "layer_norm_eps": EPSILON, "add_adapter": False,
         "adapter_attn_dim": None, "conv_pos_batch_norm": False, "position_embeddings_type": None}  # fmt: skip
IGNORED = (
    r"masked_spec_embed|quantizer\.|project_|projector\.|lm_head\.|classifier\.|final_proj\.|layer_weights|tdnn\.|"
    r"feature_extractor_module\.|objective\.|label_embs_concat|dropout_features\.|mask_emb"
)
# The two parts of the positions' kernel, by PyTorch's first names and by its later ones.
LENGTHS, DIRECTIONS = (
    ("weight_g", "parametrizations.weight.original0"),
    ("weight_v", "parametrizations.weight.original1"),
)


def fields(encoder: str, model_type: str, folder: pathlib.Path) -> dict[str, Any]:
    """Sizes and kinds of all parts, the normalisation of waveforms, and that waveforms are what it takes."""
    config = _config(folder, model_type)
    stacked = model_type == "data2vec-audio"
    kernel, count = ("conv_pos_kernel_size", config["num_conv_pos_embeddings"]) if stacked else (
        "num_conv_pos_embeddings", 1)  # fmt: skip
    decided = sizes(config) | {
        "channels": tuple(config["conv_dim"]),
        "kernels": tuple(config["conv_kernel"]),
        "strides": tuple(config["conv_stride"]),
        "extractor_norm": "layer" if stacked else config["feat_extract_norm"],
        "extractor_bias": config["conv_bias"],
        "projection_norm": config.get("feat_proj_layer_norm", True),
        "norm_first": not stacked and config["do_stable_layer_norm"],
        "positions": (config[kernel], config["num_conv_pos_embedding_groups"], count),
        "positions_norm": stacked,
        "normalise": _normalised(folder),
    }
    if model_type == "wavlm":
        decided |= {"buckets": config["num_buckets"], "distance": config["max_bucket_distance"]}
    audio = {"frontend": "waveform", "sample_rate_hz": 16_000, "window_ms": 20.0, "hop_ms": 20.0, "mels": WAVE_FRAME,
             "fmin_hz": 0.0, "fmax_hz": 8_000.0, "contours": False}  # fmt: skip
    return {f"model.{encoder}.{name}": value for name, value in decided.items()} | {
        f"audio.{name}": value for name, value in audio.items()
    }


def _config(folder: pathlib.Path, model_type: str) -> dict[str, Any]:
    return read_config(folder, FIXED | {"model_type": model_type})


def _normalised(folder: pathlib.Path) -> bool:
    """Whether the waveforms that it was trained on were normalised: do_normalize in preprocessor_config.json."""
    path = folder / "preprocessor_config.json"
    try:
        settings = read_json(path, mend="copy it again")
        normalised, rate_hz = settings["do_normalize"], settings.get("sampling_rate", 16_000)
    except OSError as error:
        raise UserError(
            f"there is no {path} ({error.strerror}), which says whether waveforms are normalised (do_normalize); put "
            "that file of the model there, too"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged or has no do_normalize ({error}); copy it again") from error
    if rate_hz != 16_000:
        raise UserError(f"{path} has sampling_rate={rate_hz}; our encoders of waveforms take 16000 Hz")
    return bool(normalised)


def tensors(prefix: str, folder: pathlib.Path) -> Tensors:
    """The folder's tensors; the kernels of positions, stored as lengths and directions, are put together."""
    stored = read_safetensors(folder, f"{prefix}.", IGNORED)
    for lengths, directions in zip(LENGTHS, DIRECTIONS, strict=True):
        for name in [name for name in stored if name.endswith(f".conv.{lengths}")]:
            stem = name.removesuffix(lengths)
            if stem + directions in stored:
                scale, direction = (stored.pop(stem + part).astype(np.float32) for part in (lengths, directions))
                norms = np.sqrt(np.square(direction).sum(axis=(0, 1), keepdims=True))
                stored[f"{stem}weight"] = scale * direction / norms
    return stored


def table(model_type: str, encoder: WaveEncoder, folder: pathlib.Path) -> Table:
    stem, parts = encoder.stem, dict(_LAYER)
    made: Table = linear("feature_projection.projection", "stem.projection")
    if stem.projection_norm:
        made |= norm("feature_projection.layer_norm", "stem.projection_norm")
    for number, convolution in enumerate(stem.convolutions):
        theirs, ours = f"feature_extractor.conv_layers.{number}", f"stem.convolutions.{number}"
        made[f"{theirs}.conv.weight"] = (f"{ours}.linear.kernel", _shifted)
        if convolution.linear.use_bias:
            made[f"{theirs}.conv.bias"] = (f"{ours}.linear.bias", as_is)
        if kind := "over_time" if convolution.over_time else "norm" if convolution.norm else "":
            made |= norm(f"{theirs}.layer_norm", f"{ours}.{kind}")
    stacked = model_type == "data2vec-audio"
    for number in range(len(stem.positions)):
        theirs = f"encoder.pos_conv_embed.layers.{number}" if stacked else "encoder.pos_conv_embed"
        ours = f"stem.positions.{number}.convolution"
        made |= {f"{theirs}.conv.weight": (f"{ours}.kernel", _kernel), f"{theirs}.conv.bias": (f"{ours}.bias", as_is)}
    made |= norm("encoder.layer_norm", "stem.norm" if stem.norm else "norm")
    if model_type == "wavlm":
        made["encoder.layers.0.attention.rel_attn_embed.weight"] = ("stem.distance_embedding", as_is)
        parts |= {"attention.gate": (linear, "attention.gru_rel_pos_linear"),
                  "attention.gate_scale": (_gate_scale, "attention.gru_rel_pos_const")}  # fmt: skip
    return made | layers(len(encoder.layers), "encoder.layers.{}", parts)


_LAYER = {
    "attention.query": (linear, "attention.q_proj"),
    "attention.key": (linear, "attention.k_proj"),
    "attention.value": (linear, "attention.v_proj"),
    "attention.out": (linear, "attention.out_proj"),
    "attention_norm": (norm, "layer_norm"),
    "up": (linear, "feed_forward.intermediate_dense"),
    "down": (linear, "feed_forward.output_dense"),
    "mlp_norm": (norm, "final_layer_norm"),
}


def _gate_scale(theirs: str, ours: str) -> Table:
    return {theirs: (ours, lambda scale_1xNx1x1: scale_1xNx1x1.reshape(-1))}


def _kernel(kernel_DxCxK: np.ndarray) -> np.ndarray:
    return kernel_DxCxK.transpose(2, 1, 0)


def _shifted(kernel_DxCxK: np.ndarray) -> np.ndarray:
    return _kernel(kernel_DxCxK).reshape(-1, len(kernel_DxCxK))


def _source(encoder: str, model_type: str) -> Source:
    return Source(
        functools.partial(fields, encoder, model_type),
        functools.partial(tensors, encoder),
        functools.partial(table, model_type),
        IGNORED,
    )


WAVE: Mapping[str, Source] = {
    "data2vec_audio": _source("data2vec_audio", "data2vec-audio"),
    "hubert": _source("hubert", "hubert"),
    "wav2vec2": _source("wav2vec2", "wav2vec2"),
    "wavlm": _source("wavlm", "wavlm"),
}
