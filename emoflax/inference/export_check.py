"""Recordings of random lengths that an exported program and its model must give the same probabilities."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from emoflax.data import dataset as data
from emoflax.inference.export_program import groups_of
from emoflax.inference.model import Model
from emoflax.inference.recordings import Recording, of_array
from emoflax.inference.utterances import Gaps, Utterance

CLIPS = 16
_SHORTEST_S, _LONGEST_WINDOWS = 0.3, 2.2  # windows: longer clips are cut, which is part of what is compared
_TOLERANCE = 1e-5
# A waveform that is rounded to 16 bits twice differs in single bits: what is between two of them falls either way.
_TOLERANCE_16_BITS = 1e-3

Run = Callable[[Sequence[np.ndarray]], np.ndarray]


def tolerance(model: Model) -> float:
    """How far probabilities may differ."""
    rounded = any(member.config.data.store == "wave" and member.config.model.audio for member in model.members)
    return _TOLERANCE_16_BITS if rounded else _TOLERANCE


def difference(model: Model, taken: str, run: Run) -> float:
    """The largest difference between the probabilities of `run` and those of the model.

    Args:
      taken: a name from `export_program.KINDS`.
      run: arrays of the program's inputs -> probabilities [batch, labels].
    """
    apart, opened = 0.0, recordings_for(model)
    for part in (opened[:1], opened[1:]):  # two shapes: each is compiled
        arrays = waveforms(part) if taken == "waveform" else features(model, part)
        apart = max(apart, _apart(run(arrays), model, part))
    return apart


def difference_of_models(model: Model, other: Model) -> float:
    """The largest difference between the probabilities of two models."""
    opened = recordings_for(model)
    return _apart(np.exp(other.log_probabilities(opened)[0]), model, opened)


def _apart(probabilities: np.ndarray, model: Model, opened: Sequence[Recording]) -> float:
    return float(np.abs(probabilities - np.exp(model.log_probabilities(opened)[0])).max())


def recordings_for(model: Model, count: int = CLIPS) -> list[Recording]:
    """The same ones each time: harmonics that glide, come and go, in some noise, with silence around, at any level."""
    random, longest_s = np.random.default_rng(0), max(member.config.data.max_s for member in model.members)
    rate_hz = model.members[0].config.audio.sample_rate_hz
    words = [word for member in model.members for word in member.trained.description["vocabulary"]]
    opened = []
    for number in range(count):
        lasts_s = random.uniform(_SHORTEST_S, longest_s * (_LONGEST_WINDOWS if number % 4 == 3 else 1))
        text = " ".join(random.choice(words, random.integers(1, 12))) if words else None
        opened.append(of_array(voice(random, round(lasts_s * rate_hz), rate_hz), rate_hz, f"clip {number}", text))
    return opened


def voice(random: np.random.Generator, samples: int, rate_hz: int) -> np.ndarray:
    t = np.arange(samples) / rate_hz
    phase = 2 * np.pi * (random.uniform(90, 300) * t + random.uniform(-20, 20) * t**2)
    tones = sum(np.sin(k * phase + k) / k ** random.uniform(0.5, 2) for k in range(1, 12))
    loud = np.clip(np.sin(2 * np.pi * random.uniform(1, 4) * t + random.uniform(0, 6)) + 0.3, 0, None)
    wave = tones * loud + 0.01 * random.standard_normal(samples)
    wave[: samples // 10] *= 1e-3
    return (wave / np.abs(wave).max() * 10 ** random.uniform(-2, -0.05)).astype(np.float32)


def waveforms(opened: Sequence[Recording]) -> list[np.ndarray]:
    """The inputs of a program of waveforms."""
    return padded([one.samples for one in opened])


def features(model: Model, opened: Sequence[Recording]) -> list[np.ndarray]:
    """The inputs of a program of features, as the model computes them."""
    made = {id(member): utterances for member, utterances, _, _ in model.features(opened, Gaps())}
    return [array for group in groups_of(model.members) for array in _inputs(group[0], made[id(group[0])])]


def _inputs(member: Any, utterances: Sequence[Utterance]) -> list[np.ndarray]:
    config, arrays = member.config, []
    if config.model.functionals:
        arrays += [np.stack([np.asarray(one.logmel, np.float32) for one in utterances])]
    if config.model.audio:
        arrays += padded([one.logmel for one in utterances])
    if config.model.text:
        place = {word: number + 2 for number, word in enumerate(member.trained.description["vocabulary"])}
        kept = [one.words[: config.text.max_tokens] for one in utterances]
        arrays += padded([np.array([place.get(word, data.UNK) for word in words] or [data.UNK], np.int32)
                           for words in kept])  # fmt: skip
    return arrays


def padded(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """[batch, longest, ...] with zeros behind each row's end, and lengths int32 [batch]."""
    longest = max(map(len, rows))
    whole = np.zeros((len(rows), longest, *rows[0].shape[1:]), rows[0].dtype)
    for into, row in zip(whole, rows, strict=True):
        into[: len(row)] = row
    return [whole, np.array([len(row) for row in rows], np.int32)]
