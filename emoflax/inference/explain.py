"""The weights of attention pooling, drawn over the spectrogram and over the words: one picture per input."""

import functools
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from emoflax.audio.frontend import band_edges_hz
from emoflax.batch import Batch
from emoflax.data import dataset as data
from emoflax.data.rows import batch_of
from emoflax.errors import UserError
from emoflax.experiment import evaluate
from emoflax.experiment.features import max_frames
from emoflax.inference.utterances import Utterance
from emoflax.reporting import report
from emoflax.reporting.pictures import plain

WIDTH_MULTIPLE = 64  # frames that a batch's width is rounded up to, so that calls share compiled programs
INCH = 0.42  # of the picture's width for each word
INCH_OF_S, MOST_WIDTH = 0.4, 24.0  # inches for each second, as long as the picture has room
TICKS_HZ = (125, 250, 500, 1000, 2000, 4000, 8000)


def check(config: ConfigDict) -> None:
    """Raises UserError for a model whose pooling has no weights to draw."""
    if config.model.pooling != "attention":
        raise UserError(
            f"--explain draws the weights of attention pooling, but {config.name!r} was trained with config.model."
            f"pooling={config.model.pooling!r}; train configs/attention_cnn.py (sound), attention_gru.py (words) or "
            "fusion_late.py (both), or any config with --config.model.pooling=attention"
        )


@functools.partial(jax.jit, static_argnums=(0, 3))
def attention(model: nnx.GraphDef, params: Any, statistics: Any, batch_size: int, rows: Batch) -> dict[str, jax.Array]:
    """Modality -> attention weights [rows, steps, heads] of a bucket's rows, in their order."""
    count = len(rows.label)

    def weights_of(slot):
        batch = batch_of(rows, jnp.arange(count), count, slot, batch_size, None)
        return nnx.merge(model, params, statistics, copy=True).attention(batch)

    stacked = jax.lax.map(weights_of, jnp.arange(-(-count // batch_size)))
    return jax.tree.map(lambda w: w.reshape(-1, *w.shape[2:])[:count], stacked)


def rows(trained: evaluate.Trained, dataset: data.Dataset) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(clip, modality -> weights [steps, heads]) of every row; the windows of a long clip come in their order."""
    variables = trained.state.evaluated, trained.state.statistics
    for bucket, clips in zip(dataset.buckets, dataset.row_clips, strict=True):
        weights = jax.device_get(attention(trained.model, *variables, bucket.batch_size, bucket.rows))
        for row, clip in enumerate(clips):
            yield int(clip), {name: own[row] for name, own in weights.items()}


def over_time(
    windows: Sequence[np.ndarray], centres: np.ndarray, starts: Sequence[int], frames: int, max_frames: int
) -> np.ndarray:
    """Attention at every frame relative to its mean over the clip, [frames, heads]: 1 is the mean.

    Args:
      windows: weights [steps, heads] of each window.
      centres: frame in the middle of each step, [steps]; several steps may share one; nan: a step without a place in
        time.
      starts: first frame of each window.
    """
    moments, step = np.unique(centres[np.isfinite(centres)], return_inverse=True)
    total, count = np.zeros((frames, windows[0].shape[1])), np.zeros((frames, 1))
    for weights, start in zip(windows, starts, strict=True):
        at_moment = np.zeros((len(moments), weights.shape[1]))
        np.add.at(at_moment, step, weights[np.isfinite(centres)])
        length = min(frames - start, max_frames)
        nearest = np.abs(np.arange(length)[:, None] + 0.5 - moments).argmin(1)
        total[start : start + length] += at_moment[nearest]
        count[start : start + length] += 1
    curve = total / count
    return curve / np.maximum(curve.mean(0, keepdims=True), 1e-12)


def dataset_of(trained: evaluate.Trained, utterances: Sequence[Utterance]) -> data.Dataset:
    config, vocabulary = trained.config, trained.description["vocabulary"]
    return data.from_arrays(
        [x.logmel for x in utterances] if config.model.audio else None,
        [data.token_ids(x.words, vocabulary) for x in utterances] if config.model.text else None,
        np.zeros(len(utterances), np.int32),
        max_frames=max_frames(config),
        max_tokens=config.text.max_tokens,
        batch_size=config.train.batch_size,
        buckets=config.data.buckets,
        shapes=data.Shapes(frames=WIDTH_MULTIPLE),
    )


def draw(
    trained: evaluate.Trained, utterances: Sequence[Utterance], p: np.ndarray, folder: pathlib.Path,
    taken: Sequence[pathlib.Path] = (),
) -> list[pathlib.Path]:  # fmt: skip
    """Writes `<name of the input>-attention.png` into the folder for every utterance; returns the files.

    Args:
      p: probabilities [clips, classes].
      taken: pictures of this command so far, which are not overwritten.
    """
    config, labels = trained.config, trained.description["labels"]
    written = []
    for utterance, (curve, words), row in zip(utterances, attentions(trained, utterances), p, strict=True):
        source = pathlib.Path(utterance.name)
        path = free(folder / f"{source.stem}-attention.png", [*taken, *written])
        title = plain(f"{source.name}: {labels[int(row.argmax())]}, {100 * row.max():.0f} %\n{_trained_how(trained)}")
        bands = utterance.logmel[:, : config.audio.mels]  # contours may follow
        picture(path, title, config, bands, curve, utterance.words, words)
        written.append(path)
    return written


def attentions(
    trained: evaluate.Trained, utterances: Sequence[Utterance]
) -> list[tuple[np.ndarray | None, np.ndarray | None]]:
    """Of every utterance: `over_time` of its sound [frames, heads], weights of its words [words, heads]; or None."""
    encoder = nnx.merge(trained.model, trained.state.evaluated, trained.state.statistics).audio
    windows: list[list[dict[str, np.ndarray]]] = [[] for _ in utterances]
    for clip, weights in rows(trained, dataset_of(trained, utterances)):
        windows[clip].append(weights)
    made = []
    for utterance, of_windows in zip(utterances, windows, strict=True):
        curve = words = None
        if len(utterance.logmel):
            sounds = [weights["audio"] for weights in of_windows]
            curve = _curve(encoder, sounds, len(utterance.logmel), trained.config)
        if utterance.words:
            words = of_windows[0]["text"][: len(utterance.words)]
        made.append((curve, words))
    return made


def _curve(encoder: nnx.Module, windows: list[np.ndarray], frames: int, config: ConfigDict) -> np.ndarray:
    if not hasattr(encoder, "centres"):
        raise UserError(
            f"--explain: the audio encoder {config.model.audio!r} has no method `centres`, which places its steps in "
            "time (see emoflax/models/__init__.py)"
        )
    longest = max_frames(config)
    centres = encoder.centres(len(windows[0]))
    return over_time(windows, centres, data.window_starts(frames, longest), frames, longest)


def _trained_how(trained: evaluate.Trained) -> str:
    known = trained.description
    return (
        f"{trained.config.name} on {known['corpus']}, {known['protocol']}, fold {known['fold']}, seed {known['seed']}"
    )


def free(path: pathlib.Path, taken: Sequence[pathlib.Path]) -> pathlib.Path:
    """The path, numbered where another input of this command has the same name."""
    candidates = (path.with_stem(f"{path.stem}-{n}" if n > 1 else path.stem) for n in itertools.count(1))
    return next(candidate for candidate in candidates if candidate not in taken)


def picture(
    path: pathlib.Path,
    title: str,
    config: ConfigDict,
    logmel: np.ndarray,
    curve: np.ndarray | None,
    words: Sequence[str],
    weights: np.ndarray | None,
) -> None:
    """Spectrogram with attention over time above, words with their attention below; a part that is None is left out.

    Args:
      logmel: [frames, mels].
      curve: of `over_time`, [frames, heads].
      weights: of the words, [words, heads].
    """
    plt = report.pyplot()
    heights = [] if curve is None else [3.0]
    heights += [] if weights is None else [0.9 + 0.25 * weights.shape[1]]
    width = 7.0 if weights is None else max(7.0, 2.0 + INCH * len(words))
    if curve is not None:
        width = max(width, min(MOST_WIDTH, 1.5 + INCH_OF_S * len(logmel) * config.audio.hop_ms / 1000))
    figure, axes = plt.subplots(
        len(heights), figsize=(width, 1.0 + sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    panels = list(axes[:, 0])
    if curve is not None:
        _draw_sound(panels.pop(0), config, logmel, curve)
    if weights is not None:
        _draw_words(panels.pop(0), words[: len(weights)], weights)
    figure.suptitle(title, size=11)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_sound(axes, config: ConfigDict, logmel: np.ndarray, curve: np.ndarray) -> None:
    hop_s = config.audio.hop_ms / 1000
    seconds = len(logmel) * hop_s
    if config.audio.frontend == "waveform":
        axes.plot(np.linspace(0, seconds, logmel.size), logmel.ravel(), color="grey", linewidth=0.5)
        axes.set(xlabel="seconds", ylabel="sound pressure, 1 is full scale")
    else:
        axes.imshow(logmel.T, origin="lower", aspect="auto", cmap="Greys", extent=(0, seconds, 0, config.audio.mels))
        centres_hz = band_edges_hz(config.audio.mels, config.audio.fmin_hz, config.audio.fmax_hz)[1:-1]
        ticks_hz = [hz for hz in TICKS_HZ if centres_hz[0] <= hz <= centres_hz[-1]]
        axes.set_yticks(np.interp(ticks_hz, centres_hz, np.arange(len(centres_hz)) + 0.5), ticks_hz)
        axes.set(xlabel="seconds", ylabel="Hz")
    over = axes.twinx()
    times = (np.arange(len(curve)) + 0.5) * hop_s
    for head in range(curve.shape[1]):
        over.plot(times, curve[:, head], color=f"C{head}", linewidth=1, drawstyle="steps-mid", label=f"head {head + 1}")
    over.plot(
        times, curve.mean(1), color="black", linewidth=2.5 if seconds < 15 else 1.5, drawstyle="steps-mid", label="mean"
    )
    over.set(ylabel="attention (1: a mean frame)", xlim=(0, seconds), ylim=(0, 1.2 * curve.max()))
    over.legend(fontsize=7, ncols=5, loc="upper right")
    axes.xaxis.get_major_locator().set_params(nbins=max(6, round(seconds / 5)), steps=[1, 2, 5, 10])


def _draw_words(axes, words: Sequence[str], weights: np.ndarray) -> None:
    heads = weights.shape[1]
    shares = np.concatenate([weights.mean(1, keepdims=True), weights], axis=1).T
    darkest = max(shares.max(), 3 / len(words))  # equal attention to all words stays pale
    axes.imshow(shares, aspect="auto", cmap="Oranges", vmin=0, vmax=darkest)
    for row, column in np.ndindex(shares.shape):
        dark = shares[row, column] > 0.6 * darkest
        text = f"{100 * shares[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", size=7, color="white" if dark else "black")
    axes.set_xticks(range(len(words)), words, rotation=40, ha="right")
    axes.set_yticks(range(heads + 1), ["mean", *(f"head {head + 1}" for head in range(heads))])
    axes.set_title("attention to each word, %", size=9)
