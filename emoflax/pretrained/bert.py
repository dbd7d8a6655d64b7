"""BERT, RoBERTa and DistilBERT from a Hugging Face folder, alone or with any head."""

import pathlib
from typing import Any

import numpy as np

from emoflax.data import subwords
from emoflax.errors import UserError
from emoflax.models.bert import Bert
from emoflax.pretrained.huggingface import read_config, read_safetensors, sizes
from emoflax.pretrained.table import Rules, Source, Table, Tensors, layers, linear, norm, renamed

ROBERTA = ("roberta", "xlm-roberta", "camembert")
FIXED = {"hidden_act": "gelu", "activation": "gelu", "is_decoder": False, "position_embedding_type": "absolute"}
IGNORED = r"pooler\.|cls\.|classifier\.|lm_head\.|vocab_\w+\.|pre_classifier\.|qa_outputs\.|embeddings\.position_ids$"
SPECIAL = (("[PAD]", "<pad>"), ("[UNK]", "<unk>"))  # of BERT and DistilBERT, of RoBERTa
DISTILBERT: Rules = (  # its names -> BERT's
    (r"^transformer\.layer\.", "encoder.layer."),
    (r"attention\.q_lin\.", "attention.self.query."),
    (r"attention\.k_lin\.", "attention.self.key."),
    (r"attention\.v_lin\.", "attention.self.value."),
    (r"attention\.out_lin\.", "attention.output.dense."),
    (r"sa_layer_norm\.", "attention.output.LayerNorm."),
    (r"ffn\.lin1\.", "intermediate.dense."),
    (r"ffn\.lin2\.", "output.dense."),
    (r"output_layer_norm\.", "output.LayerNorm."),
)
DISTILBERT_SIZES = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
                    "intermediate_size": "hidden_dim"}  # fmt: skip


def fields(folder: pathlib.Path) -> dict[str, Any]:
    config = _config(folder)
    decided = sizes(config) | {
        "positions": config["max_position_embeddings"] - _first_position(config),
        "epsilon": config.get("layer_norm_eps", 1e-12),
    }
    return {f"model.bert.{name}": value for name, value in decided.items()} | {"text.tokenizer": str(folder)}


def tensors(folder: pathlib.Path) -> Tensors:
    """Named as BERT's. DistilBERT has no segments: the first one is zero."""
    config = _config(folder)
    stored = read_safetensors(folder, f"{_family(config)}.", IGNORED)
    if config["model_type"] == "distilbert":
        stored = renamed(stored, DISTILBERT)
        stored["embeddings.token_type_embeddings.weight"] = np.zeros((1, config["hidden_size"]), np.float32)
    return stored


def table(bert: Bert, folder: pathlib.Path) -> Table:
    known, first = subwords.vocabulary(subwords.read(str(folder))), _first_position(_config(folder))
    ours = [next((known.index(token) for token in names if token in known), 0) for names in SPECIAL]

    def words(table_VxD: np.ndarray) -> np.ndarray:
        """Their token i is our id i + 2, after our <pad> and <unk>; rows beyond the last token are unused."""
        return np.concatenate([table_VxD[ours], table_VxD[: len(known)]])

    return {
        "embeddings.word_embeddings.weight": ("stem.word_embedding", words),
        "embeddings.position_embeddings.weight": ("stem.position_embedding", lambda table_PxD: table_PxD[first:]),
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


def _config(folder: pathlib.Path) -> dict[str, Any]:
    """config.json with BERT's names of the sizes."""
    config = read_config(folder, FIXED)
    kinds = ("bert", "distilbert", *ROBERTA)
    if config.get("model_type") not in kinds:
        raise UserError(
            f"{folder / 'config.json'} describes a model that our encoder does not implement: "
            f"model_type={config.get('model_type')!r} instead of one of {', '.join(kinds)}"
        )
    if config["model_type"] == "distilbert":
        config |= {theirs: config[name] for theirs, name in DISTILBERT_SIZES.items()}
    return config


def _family(config: dict[str, Any]) -> str:
    """What the names of its tensors begin with."""
    return "roberta" if config["model_type"] in ROBERTA else config["model_type"]


def _first_position(config: dict[str, Any]) -> int:
    """Row of the first token in the table of positions: RoBERTa's begins after that of the padding."""
    return config["pad_token_id"] + 1 if config["model_type"] in ROBERTA else 0


BERT = Source(fields, tensors, table, IGNORED)
