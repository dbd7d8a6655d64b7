"""Whisper's encoder from a folder: Hugging Face's, or CTranslate2's (what faster-whisper keeps)."""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from emoflax.errors import UserError
from emoflax.pretrained import ctranslate2
from emoflax.pretrained.huggingface import read_config, read_safetensors
from emoflax.pretrained.table import Rules, Tensors, renamed

FIXED = {"model_type": "whisper", "activation_function": "gelu", "scale_embedding": False}
_ATTENTION = {"q": "query", "k": "key", "v": "value"}
# Their names -> openai-whisper's, without 'encoder.'.
HUGGING_FACE: Rules = (
    (r"^encoder\.", ""),
    (r"layers\.(\d+)\.", r"blocks.\1."),
    (r"self_attn_layer_norm\.", "attn_ln."),
    (r"self_attn\.([qkv])\w*_proj\.", lambda match: f"attn.{_ATTENTION[match[1]]}."),
    (r"self_attn\.out_proj\.", "attn.out."),
    (r"final_layer_norm\.", "mlp_ln."),
    (r"fc1\.", "mlp.0."),
    (r"fc2\.", "mlp.2."),
    (r"^layer_norm\.", "ln_post."),
    (r"^embed_positions\.weight$", "positional_embedding"),
)
CTRANSLATE2: Rules = (
    (r"^encoder/", ""),
    (r"layer_(\d+)/", r"blocks.\1."),
    (r"self_attention/layer_norm/", "attn_ln."),
    (r"self_attention/linear_0/", "attn.fused."),  # query, key and value, one below the other
    (r"self_attention/linear_1/", "attn.out."),
    (r"ffn/layer_norm/", "mlp_ln."),
    (r"ffn/linear_0/", "mlp.0."),
    (r"ffn/linear_1/", "mlp.2."),
    (r"^layer_norm/", "ln_post."),
    (r"^position_encodings/encodings$", "positional_embedding"),
    (r"gamma$", "weight"),
    (r"beta$", "bias"),
    (r"/", "."),
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What there is of an encoder: its sizes, and a function that reads its tensors, named as in openai-whisper."""

    mels: int
    width: int
    layers: int
    heads: int
    tensors: Callable[[], Tensors]


def read(folder: pathlib.Path) -> Checkpoint:
    """The encoder in a folder.

    Raises:
      UserError: there is no model in it, another one than Whisper, or a damaged one.
    """
    if (folder / "model.bin").is_file():
        return _ctranslate2(folder)
    config = read_config(folder, FIXED)
    return Checkpoint(
        mels=config["num_mel_bins"],
        width=config["d_model"],
        layers=config["encoder_layers"],
        heads=config["encoder_attention_heads"],
        tensors=lambda: _hugging_face(folder),
    )


def _hugging_face(folder: pathlib.Path) -> Tensors:
    tensors = read_safetensors(folder, "model.", ignored=r"decoder\.|proj_out\.|projector\.|classifier\.|layer_weights")
    return renamed(tensors, HUGGING_FACE)


def _ctranslate2(folder: pathlib.Path) -> Checkpoint:
    stored = ctranslate2.read(folder / "model.bin", lambda name: name.startswith("encoder/"))
    try:
        heads = int(stored.pop("encoder/num_heads"))
        width, mels, _ = stored["encoder/conv1/weight"].shape
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{folder / 'model.bin'} is a CTranslate2 model, but not a Whisper ({error})") from error
    layers = len({name.split("/")[1] for name in stored if name.startswith("encoder/layer_")} - {"layer_norm"})
    return Checkpoint(mels, width, layers, heads, lambda: _unfused(renamed(stored, CTRANSLATE2)))


def _unfused(tensors: Tensors) -> Tensors:
    """Query, key and value by themselves. The keys' bias is left out: Whisper has none, and the converter's is zero."""
    single = {}
    for name, array in tensors.items():
        if ".fused." in name:
            parts = zip(_ATTENTION.values(), np.split(array, 3), strict=True)
            single |= {name.replace("fused", part): value for part, value in parts}
        else:
            single[name] = array
    return {name: array for name, array in single.items() if not name.endswith("attn.key.bias")}
