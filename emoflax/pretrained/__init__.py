"""Pretrained weights -> our encoders.

    python main.py --config=configs/bert.py --config.model.pretrained.text=FOLDER

FOLDER is a folder, or the name of a model on the Hugging Face hub (hub.py). A folder as bundles hold it
(own_folder.py) is taken for every encoder.

One file per encoder that can load them, and one line in `SOURCES`. The file defines four things (`table.Source`): the
config fields that follow from the weights (sizes, features), how their tensors are read, to which parameter each
belongs, and which further tensors are ignored.
"""

import hashlib
import pathlib
from typing import Any

from flax import nnx

from emoflax import models
from emoflax.data import subwords
from emoflax.errors import UserError
from emoflax.pretrained import own_folder
from emoflax.pretrained.ast import AST
from emoflax.pretrained.bert import BERT
from emoflax.pretrained.hub import located, pinned
from emoflax.pretrained.huggingface import weight_files
from emoflax.pretrained.table import Source, assign
from emoflax.pretrained.wave import WAVE
from emoflax.pretrained.whisper import WHISPER
from emoflax.pretrained.whisper_files import sha256

__all__ = ["SOURCES", "encoder_alone", "fields", "fingerprint", "keep", "load", "pinned", "source_of"]
SOURCES = {"ast": AST, "bert": BERT, "whisper": WHISPER, **WAVE}  # by the encoder's name in the registry


def fields(encoder: str, path: str) -> dict[str, Any]:
    """Config fields that follow from the weights at `path`, for the encoder of that name in the registry.

    Raises:
      UserError: no such weights, or weights of something else.
    """
    where = located(path)
    try:
        return source_of(encoder, where).fields(where)
    except KeyError as error:
        raise UserError(f"{where / 'config.json'} has no field {error}; copy it again") from error


def load(module: nnx.Module, encoder: str, path: str) -> None:
    """Loads the weights at `path` into `module`, an encoder of that name in the registry.

    Raises:
      UserError: they are not there, cannot be read, or do not fit; the message names the tensors that do not fit.
    """
    where = located(path)
    source = source_of(encoder, where)
    assign(module, source.tensors(where), source.table(module, where), source.ignored, where)


def encoder_alone(encoder: str, path: str, **changes: Any) -> nnx.Module:
    """The encoder of that name by itself, with the weights at `path`, without dropout, for its states.

    Args:
      changes: fields of config.model.<encoder> that the weights do not decide, or that are to differ.

    Raises:
      UserError: as `fields` and `load`.
    """
    decided, group = fields(encoder, path), f"model.{encoder}."
    sizes = {name.removeprefix(group): value for name, value in decided.items() if name.startswith(group)}
    settings = sizes | {"dropout": 0.0} | changes
    if encoder in models.TEXT_ENCODERS:
        settings["token_dropout"] = 0.0
        build, inputs = models.TEXT_ENCODERS[encoder], 2 + len(subwords.vocabulary(_tokenizer(decided)))
    else:
        build, inputs = models.AUDIO_ENCODERS[encoder], decided["audio.mels"]
    # No arrays: the weights are loaded next.
    made = nnx.eval_shape(lambda: build(inputs, **settings, rngs=nnx.Rngs(0)))
    load(made, encoder, path)
    return made


def fingerprint(path: str) -> str:
    """SHA-256 of the weights in a file, or of a folder's weights and config.json; openai-whisper's names are their own.

    Raises:
      UserError: a folder without weights.
    """
    where = located(path)
    if not where.is_dir():
        return sha256(where) if where.is_file() else path
    model, index = where / "model.bin", own_folder.INDEX if own_folder.is_own(where) else "config.json"
    parts = [model] if model.is_file() else [where / index, *weight_files(where)]
    return hashlib.sha256("".join(map(sha256, parts)).encode()).hexdigest()


def keep(folder: pathlib.Path, encoder: str, path: str) -> None:
    """Writes the encoder's weights at `path` as a folder of our own; raises what `encoder_alone` raises."""
    decided = fields(encoder, path)
    if "text.tokenizer" in decided:  # the tokenizer itself in the place of its folder
        decided["text.tokenizer"] = _tokenizer(decided)
    own_folder.write(folder, encoder, decided, encoder_alone(encoder, path))


def _tokenizer(decided: dict[str, Any]) -> str:
    return subwords.read(decided["text.tokenizer"])


def source_of(encoder: str, where: pathlib.Path) -> Source:
    if encoder not in SOURCES:
        raise UserError(
            f"config.model.pretrained is set, but encoder {encoder!r} cannot load pretrained weights; "
            f"these can: {', '.join(SOURCES)}"
        )
    return own_folder.source(encoder) if own_folder.is_own(where) else SOURCES[encoder]
