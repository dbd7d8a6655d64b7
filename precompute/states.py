"""States of a pretrained encoder as features: the output of every layer for a clip, averaged over time.

Stored as shards like log-mels, with layers instead of frames: float32 [1 + layers, width] per clip. The
encoder runs on JAX's default device. A killed run continues after its last finished shard.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx
from tqdm import tqdm

from emoflax import fingerprint, pretrained
from emoflax.data import shards
from emoflax.data.clip import Clip, Corpus
from emoflax.data.shards import Failure, Row, ShardSet
from emoflax.errors import UserError
from emoflax.models.whisper import WINDOW, Whisper
from emoflax.precompute import build
from emoflax.pretrained.whisper_files import sha256

_CODE = ("emoflax.models", "emoflax.features", "emoflax.audio", "emoflax.masks")  # the packages that make states
_WIDTH_MULTIPLE = 128  # frames: batches of clips that end where they end are rounded up to it; each width is compiled


def layer_states(
    corpus: Corpus, states: Mapping[str, Any], audio: Mapping[str, Any], cache_dir: str, precompute: Mapping[str, Any]
) -> ShardSet:
    """Every layer's states of a corpus, computed where they are not cached, from log-mels that are cached as well.

    Args:
      corpus: clips with recordings.
      states: the fields of config.states.
      audio: the fields of config.audio; all but trim_db and level follow from the weights.
      cache_dir: shards go to <cache_dir>/<corpus name>/states-<hash>.
      precompute: the fields of config.precompute.

    Raises:
      UserError: no weights, or as `build.log_mels`.
    """
    weights = states["weights"]
    if not weights:
        raise UserError("config.states.weights is empty; set it to an openai-whisper name, or the path of a .pt file")
    if states["batch"] < 1:
        raise UserError(f"config.states.batch is {states['batch']}; it must be at least 1")
    settings = {
        "encoder": "whisper",
        "weights": sha256(Path(weights)) if Path(weights).is_file() else weights,
        "padded": states["padded"],
        "trim_db": audio["trim_db"],
        "level": audio["level"],
        **build.audio_versions(),
        "code": fingerprint.of_modules([__name__, "emoflax.precompute.build.write_log_mel_shard"], within=_CODE),
    }
    head = build.head_of("states", corpus, build.recordings(corpus), settings, precompute)
    folder = build.cache_folder(cache_dir, head)
    if (folder / shards.MANIFEST).exists():
        logging.info("states cache found: %s", folder)
    else:
        fields = pretrained.fields("whisper", weights)
        logmels = build.log_mels(corpus, {**audio, **_group(fields, "audio.")}, cache_dir, precompute)
        encoder = load_encoder(weights, fields, states["padded"])
        _compute(folder, corpus, logmels, encoder, states["batch"], precompute)
        shards.write_manifest(folder, len(build.parts_of(corpus.clips, precompute)), head)
    return build.open_finished(folder, precompute)


def load_encoder(weights: str, fields: Mapping[str, Any], padded: bool) -> Whisper:
    """The encoder with those weights.

    Args:
      weights: an openai-whisper name, or the path of a .pt file.
      fields: the result of `pretrained.fields`.
      padded: whether clips are padded with silence to 30 s.
    """
    sizes = _group(fields, "model.whisper.") | {"padded": padded, "dropout": 0.0}
    encoder = nnx.eval_shape(
        lambda: Whisper(fields["audio.mels"], **sizes, rngs=nnx.Rngs(0))
    )  # no arrays: the weights are loaded next
    pretrained.load(encoder, "whisper", weights)
    return encoder


def _group(fields: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in fields.items() if name.startswith(prefix)}


def _compute(
    folder: Path, corpus: Corpus, logmels: ShardSet, encoder: Whisper, batch: int, precompute: Mapping[str, Any]
) -> None:
    """Writes the shards that are not there yet; log-mels are mapped, and one shard's states are in memory at a time."""
    shards.make_folder(folder)
    graph, params = nnx.split(encoder)
    compiled = jax.jit(lambda params, *inputs: nnx.merge(graph, params).states(*inputs))
    run = functools.partial(compiled, params)
    with tqdm(total=len(corpus.clips), desc="states", unit="clip", smoothing=0) as bar:
        for number, clips in enumerate(build.parts_of(corpus.clips, precompute)):
            if shards.clips_done(folder, number) != len(clips):
                rows = _rows(clips, logmels, run, encoder, batch)
                shards.write_shard(folder, number, rows, (encoder.width,), "<f4")
            bar.update(len(clips))


def _rows(
    clips: Sequence[Clip], logmels: ShardSet, run: Callable, encoder: Whisper, batch: int
) -> Iterator[Row | Failure]:
    place = {clip_id: number for number, clip_id in enumerate(logmels.ids)}
    failures = {failure["id"]: Failure(**failure) for failure in logmels.failures}
    pooled = iter(_pooled([logmels[place[clip.id]] for clip in clips if clip.id in place], run, encoder, batch))
    for clip in clips:
        if clip.id in place:
            yield Row(clip.id, next(pooled), logmels.digests[place[clip.id]])
        else:
            yield failures[clip.id]


def _pooled(clips: Sequence[np.ndarray], run: Callable, encoder: Whisper, batch: int) -> np.ndarray:
    """States [clips, 1 + layers, width] of log-mels [frames, mels].

    Clips longer than 30 s are split into windows, whose states are averaged with their lengths as weights.
    """
    windows = [(clip, start) for clip, frames in enumerate(clips) for start in range(0, len(frames), WINDOW)]
    lengths = np.array([min(WINDOW, len(clips[clip]) - start) for clip, start in windows])
    total = np.zeros((len(clips), 1 + len(encoder.layers), encoder.width), np.float32)
    order = np.argsort(lengths, kind="stable")  # by length, so that little padding is computed
    for chosen in (order[start : start + batch] for start in range(0, len(order), batch)):
        longest = int(lengths[chosen].max())
        width = WINDOW if encoder.padded else min(WINDOW, -(-longest // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE)
        logmel = np.zeros((batch, width, clips[0].shape[1]), np.float32)
        frames = np.zeros(batch, np.int32)
        for row, window in enumerate(chosen):
            (clip, start), n = windows[window], lengths[window]
            logmel[row, :n], frames[row] = clips[clip][start : start + n], n
        states = np.asarray(run(jnp.asarray(logmel), jnp.asarray(frames)))
        for row, window in enumerate(chosen):
            clip = windows[window][0]
            total[clip] += states[row] * (lengths[window] / len(clips[clip]))
    return total
