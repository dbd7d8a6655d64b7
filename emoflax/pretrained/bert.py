"""BERT from a Hugging Face folder: `transformers.BertModel`, alone or with any head."""

import pathlib
from typing import Any

import numpy as np

from emoflax.data import subwords
from emoflax.models.bert import EPSILON, Bert
from emoflax.pretrained.huggingface import read_config, read_safetensors, sizes
from emoflax.pretrained.table import Source, Table, as_is, layers, linear, norm

FIXED = {"model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": EPSILON, "is_decoder": False,
         "position_embedding_type": "absolute"}  # fmt: skip


def fields(folder: pathlib.Path) -> dict[str, Any]:
    config = read_config(folder, FIXED)
    decided = sizes(config) | {"positions": config["max_position_embeddings"]}
    return {f"model.bert.{name}": value for name, value in decided.items()} | {"text.tokenizer": str(folder)}


def table(bert: Bert, folder: pathlib.Path) -> Table:
    known = subwords.vocabulary(subwords.read(str(folder)))
    ours = [known.index(token) if token in known else 0 for token in ("[PAD]", "[UNK]")]

    def words(table_VxD: np.ndarray) -> np.ndarray:
        """Their token i is our id i + 2, after our <pad> and <unk>; rows beyond the last token are unused."""
        return np.concatenate([table_VxD[ours], table_VxD[: len(known)]])

    return {
        "embeddings.word_embeddings.weight": ("stem.word_embedding", words),
        "embeddings.position_embeddings.weight": ("stem.position_embedding", as_is),
        "embeddings.token_type_embeddings.weight": ("stem.segment_embedding", lambda table_2xD: table_2xD[0]),
        **norm("embeddings.LayerNorm", "stem.norm"),
        **layers(len(bert.layers), "encoder.layer.{}", {
            "attention.query": (linear, "attention.self.query"),
            "attention.key": (linear, "attention.self.key"),
            "attention.value": (linear, "attention.self.value"),
            "attention.out": (linear, "attention.output.dense"),
            "attention_norm": (norm, "attention.output.LayerNorm"),
            "up": (linear, "intermediate.dense"),
            "down": (linear, "output.dense"),
            "mlp_norm": (norm, "output.LayerNorm"),
        }),
    }  # fmt: skip


BERT = Source(
    fields,
    lambda folder: read_safetensors(folder, "bert."),
    table,
    ignored=r"pooler\.|cls\.|classifier\.|embeddings\.position_ids$",
)
