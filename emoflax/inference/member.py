"""One model of an ensemble: features of recordings -> log-probabilities, by programs of a few fixed shapes.

A network's rows are padded to one of WIDTH_SHARES of its longest window and put into batches of one of BATCHES rows, so
that at most nine programs are ever compiled, whatever the lengths of recordings; padding costs at most four times the
arithmetic of a row. Batches of 16 are sharded over all devices: two halves of a processor take them in 0.8 of the
time; 2-D convolutions gain nothing by it. Closed-form models are numpy, or round their shapes up themselves.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from flax import nnx

from emoflax import models
from emoflax.audio.channels import channels
from emoflax.batch import Batch
from emoflax.data import dataset as data
from emoflax.data.rows import round_up
from emoflax.experiment import closed_form
from emoflax.experiment.evaluate import Trained
from emoflax.experiment.features import max_frames
from emoflax.inference import recordings
from emoflax.inference.utterances import Utterance
from emoflax.parallel import mesh as devices
from emoflax.training import scoring
from emoflax.training.step import apply

WIDTH_SHARES, BATCHES = (4, 2, 1), (1, 4, 16)  # parts of the longest window; rows


class Member:
    """A trained model, its name and its weight in the ensemble. Holds nothing that a prediction changes.

    Attributes:
      features_key: equal for members that take the same features of a recording.
    """

    def __init__(self, name: str, weight: float, trained: Trained):
        self.name, self.weight, self.trained, self.config = name, weight, trained, trained.config
        self._score = _ClosedForm(trained) if self.config.model.functionals else _Network(trained)
        self.features_key = recordings.key_of(self.config)

    def log_probabilities(self, utterances: Sequence[Utterance]) -> np.ndarray:
        """[utterances, classes] float64."""
        return self._score.log_probabilities(utterances)

    def warm_up(self) -> None:
        """Compiles a network's programs of all shapes; closed-form models compile theirs when they are needed."""
        self._score.warm_up()

    def embed(self, utterances: Sequence[Utterance]) -> np.ndarray:
        """[utterances, width] float32: what the last layer classifies, averaged over windows or speeds."""
        return self._score.embed(utterances)

    @property
    def has_attention(self) -> bool:
        """Whether it weighs moments of the sound, and of nothing else, and tells which."""
        return isinstance(self._score, _Network) and self._score.has_attention

    def attention(self, utterance: Utterance) -> np.ndarray:
        """At every frame, relative to its mean over the sound, [frames]: the mean over heads and windows."""
        assert isinstance(self._score, _Network)
        return self._score.attention(utterance)


class _ClosedForm:
    def __init__(self, trained: Trained):
        self._module = trained.module()
        self._stack = trained.config.model.functionals not in models.FRAME_LEVEL_MODELS

    def log_probabilities(self, utterances: Sequence[Utterance]) -> np.ndarray:
        return closed_form.log_probabilities(self._module, *self._rows(utterances))

    def embed(self, utterances: Sequence[Utterance]) -> np.ndarray:
        rows, place = self._rows(utterances)
        return _mean_of_rows(self._module.embed(rows), place)

    def warm_up(self) -> None:
        pass

    def _rows(self, utterances: Sequence[Utterance]):
        """One row per speed, and each row's utterance."""
        rows = [row for utterance in utterances for row in utterance.logmel]
        place = np.repeat(np.arange(len(utterances)), [len(utterance.logmel) for utterance in utterances])
        return np.stack(rows) if self._stack else rows, place


class _Network:
    def __init__(self, trained: Trained):
        config, description = trained.config, trained.description
        self._audio, self._text = bool(config.model.audio), bool(config.model.text)
        self._channels, self._frames = channels(config.audio), max_frames(config)
        self._tokens = round_up(config.text.max_tokens, data.WIDTH_MULTIPLE)
        self._most_tokens = config.text.max_tokens
        self._widths = [round_up(-(-self._frames // share), data.WIDTH_MULTIPLE) for share in WIDTH_SHARES]
        self._ids = {word: place + 2 for place, word in enumerate(description["vocabulary"])}
        self._mesh = devices.all_devices()
        # Flat lists: going through a tree of variables takes a tenth of the time of one clip's program.
        weights, structure = jax.tree.flatten((trained.state.evaluated, trained.state.statistics))
        self._everywhere = devices.replicate(jax.device_put(weights), self._mesh)
        self._here = [leaf.addressable_shards[0].data for leaf in self._everywhere]
        self._programs = _programs(trained.model, structure)
        alone = self._audio and not self._text  # words would have to be transcribed once more
        attentive = config.model.pooling == "attention" and alone
        self._encoder = trained.module().audio if attentive else None
        self.has_attention = hasattr(self._encoder, "centres")

    def log_probabilities(self, utterances: Sequence[Utterance]) -> np.ndarray:
        rows, place = self._run(self._programs[0], utterances)
        return scoring.mean_over_rows(rows.astype(np.float64), place)

    def embed(self, utterances: Sequence[Utterance]) -> np.ndarray:
        return _mean_of_rows(*self._run(self._programs[1], utterances))

    def attention(self, utterance: Utterance) -> np.ndarray:
        from emoflax.inference import explain

        windows, _ = self._run(self._programs[2], [utterance])
        frames = len(utterance.logmel)
        starts, centres = data.window_starts(frames, self._frames), self._encoder.centres(windows.shape[1])
        return explain.over_time(list(windows), centres, starts, frames, self._frames).mean(1)

    def warm_up(self) -> None:
        for width in self._widths if self._audio else self._widths[:1]:
            one = Utterance("", np.zeros((min(width, self._frames), self._channels), np.float32), [])
            for count in BATCHES:
                self.log_probabilities([one] * count)
                if self.has_attention:
                    self._run(self._programs[2], [one] * count)

    def _run(self, program: Callable, utterances: Sequence[Utterance]) -> tuple[np.ndarray, np.ndarray]:
        """What the program makes of every row, [rows, ...], and each row's utterance."""
        made, places = [], []
        for batch, place in self._batches(utterances):
            made.append(np.asarray(self._call(program, batch))[: len(place)])
            places.append(place)
        return np.concatenate(made), np.concatenate(places)

    def _call(self, program: Callable, batch: Batch) -> jax.Array:
        """On all devices where each gets four rows or more; with two each, all rows on one take no longer."""
        rows = len(batch.frames if self._audio else batch.n_tokens)
        if self._mesh is None or rows < 4 * self._mesh.size or rows % self._mesh.size:
            return program(self._here, batch)
        return program(self._everywhere, devices.shard_rows(batch, self._mesh))

    def _batches(self, utterances: Sequence[Utterance]) -> Iterator[tuple[Batch, np.ndarray]]:
        """Batches of one of the shapes, and the utterances of their first rows; the last row fills a batch up."""
        by_width: dict[int, list[tuple[int, np.ndarray]]] = {width: [] for width in self._widths}
        for place, utterance in enumerate(utterances):
            length = len(utterance.logmel) if self._audio else 0
            for start in data.window_starts(length, self._frames):
                window = utterance.logmel[start : start + self._frames]
                by_width[next(w for w in self._widths if w >= min(length, self._frames))].append((place, window))
        for width, rows in by_width.items():
            for begin in range(0, len(rows), BATCHES[-1]):
                own = rows[begin : begin + BATCHES[-1]]
                count = next(size for size in BATCHES if size >= len(own))
                filled = own + [own[-1]] * (count - len(own))
                yield self._batch(filled, width, utterances), np.array([place for place, _ in own])

    def _batch(self, rows: list[tuple[int, np.ndarray]], width: int, utterances: Sequence[Utterance]) -> Batch:
        arrays: dict[str, np.ndarray] = {}
        if self._audio:
            logmel = np.zeros((len(rows), width, self._channels), np.float32)
            for into, (_, window) in zip(logmel, rows, strict=True):
                into[: len(window)] = window
            arrays |= {"logmel": logmel, "frames": np.array([len(window) for _, window in rows], np.int32)}
        if self._text:
            tokens = np.zeros((len(rows), self._tokens), np.int32)
            known = [self._token_ids(utterances[place].words) for place, _ in rows]
            for into, ids in zip(tokens, known, strict=True):
                into[: len(ids)] = ids
            arrays |= {"tokens": tokens, "n_tokens": np.array([len(ids) for ids in known], np.int32)}
        return Batch(**arrays)

    def _token_ids(self, words: Sequence[str]) -> list[int]:
        """As in training: without sound, an utterance without a word is one unknown word."""
        ids = [self._ids.get(word, data.UNK) for word in words[: self._most_tokens]]
        return ids or ([] if self._audio else [data.UNK])


@functools.lru_cache(maxsize=32)
def _programs(model: nnx.GraphDef, structure: jax.tree_util.PyTreeDef) -> tuple[Callable, Callable, Callable]:
    """(log-probabilities, embeddings, attention to the sound) of a batch; models that differ in weights share them.

    `structure`: of the tree (weights, statistics), whose leaves the programs take.
    """

    def log_p(leaves: Sequence[jax.Array], batch: Batch) -> jax.Array:
        params, statistics = jax.tree.unflatten(structure, leaves)
        return jax.nn.log_softmax(apply(model, params, statistics, batch, None))

    def embedding(leaves: Sequence[jax.Array], batch: Batch) -> jax.Array:
        return nnx.merge(model, *jax.tree.unflatten(structure, leaves), copy=True).embed(batch)

    def attention(leaves: Sequence[jax.Array], batch: Batch) -> jax.Array:
        return nnx.merge(model, *jax.tree.unflatten(structure, leaves), copy=True).attention(batch)["audio"]

    return jax.jit(log_p), jax.jit(embedding), jax.jit(attention)


def _mean_of_rows(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """[rows, width] and each row's utterance -> [utterances, width] float32."""
    total = np.zeros((place.max() + 1, values.shape[1]))
    np.add.at(total, place, values)
    return (total / np.bincount(place)[:, None]).astype(np.float32)
