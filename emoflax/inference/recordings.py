"""Decoded recordings -> what a model takes of them: the same features as in training, and the words."""

import dataclasses
import json
import pathlib
import types
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from emoflax import models
from emoflax.audio.channels import channels
from emoflax.errors import UserError
from emoflax.experiment import closed_form
from emoflax.experiment.model import frontend_of, takes_sound, takes_words

TEXT_SUFFIXES = (".txt",)  # one utterance per file, for a model of words
SHORTEST_S = 0.01


@dataclasses.dataclass(frozen=True, eq=False)
class Recording:
    """Sound in memory, or an utterance without sound.

    Attributes:
      name: what messages call it; a file's path.
      samples: float32 [samples], one channel, full scale 1.0; none for a text.
      text: what is said, where it is known; else Whisper transcribes, for models that take words.
      path: of the file; None for an array.
    """

    name: str
    samples: np.ndarray
    rate_hz: int = 16_000
    text: str | None = None
    path: pathlib.Path | None = None
    _shaped: dict = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __str__(self) -> str:
        return self.name

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate_hz

    def part(self, first: int, last: int) -> "Recording":
        """The samples from `first` to before `last`; the words of a part are not known."""
        return dataclasses.replace(self, samples=self.samples[first:last], text=None, path=None)

    def shaped(self, config: ConfigDict) -> tuple[np.ndarray, dict[str, float]]:
        """Its wave as the config's features take it, and how it was recorded, by name (`channels.CONDITIONS`).

        The last one is kept: features and notices both need it, and it takes as long as all that follows.
        """
        from emoflax.features import recording

        fields = {name: config.audio[name] for name in recording.FIELDS}
        key = tuple(fields.values())
        if key not in (kept := dict(self._shaped)):
            kept = {key: recording.shaped(self.samples, self.rate_hz, **fields)}
            self._shaped.clear()
            self._shaped.update(kept)
        return kept[key]


def read(path: pathlib.Path) -> Recording:
    """A sound file, decoded, or a text file. Raises UserError for one that cannot be used."""
    from emoflax.features import containers, untrusted

    if path.suffix.lower() not in TEXT_SUFFIXES:
        return Recording(str(path), *untrusted.decode(str(path)), path=path)
    containers.check_regular(str(path))
    try:
        return Recording(str(path), np.zeros(0, np.float32), text=path.read_text(encoding="utf-8"), path=path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no UTF-8 text file: {error}") from error


def of_array(samples: np.ndarray, rate_hz: int, name: str, text: str | None = None) -> Recording:
    """A recording of an array, see `to_mono`.

    Raises:
      UserError: an array of another shape or type, too short, silent, or with numbers that are not finite.
    """
    from emoflax.features.decode import SILENT_FINE_PEAK, SILENT_PEAK

    silent_peak = SILENT_PEAK if np.asarray(samples).dtype.itemsize < 4 else SILENT_FINE_PEAK
    samples = to_mono(samples, name)
    if rate_hz < 1 or len(samples) < SHORTEST_S * rate_hz:
        raise UserError(
            f"{name} has {len(samples)} samples at {rate_hz} Hz, less than {1000 * SHORTEST_S:g} ms of sound"
        )
    if np.ptp(samples) < 2 * silent_peak:
        raise UserError(f"{name} is silent: it stays below {20 * np.log10(silent_peak):.0f} dB of full scale")
    return Recording(name, samples, int(rate_hz), text)


def to_mono(samples: np.ndarray, name: str) -> np.ndarray:
    """[samples] or [samples, channels], floats of full scale 1.0 or integers of their type's -> float32 [samples].

    Raises:
      UserError: an array of another shape or type, or with numbers that are not finite.
    """
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu":
        shape = f"{samples.dtype} of shape {samples.shape}"
        raise UserError(f"{name} is {shape}; give numbers [samples] or [samples, channels]")
    if samples.dtype.kind in "iu":
        info = np.iinfo(samples.dtype)
        middle = 0 if info.min < 0 else (info.max + 1) / 2
        samples = (samples.astype(np.float64) - middle) / (info.max + 1 - middle)
    samples = samples.astype(np.float32)
    if not np.isfinite(samples).all():
        raise UserError(f"{name} holds samples that are not numbers (NaN or infinite)")
    return samples if samples.ndim == 1 else samples.mean(axis=1)


def key_of(config: ConfigDict) -> str:
    """Equal for configs that take the same features of a recording."""
    own = {name: config[name].to_dict() for name in ("audio", "functionals", "text", "states")}
    model = config.model
    kinds = [bool(model.audio), bool(model.text), model.functionals, config.data.store, config.split.protocol]
    return json.dumps([own, kinds], sort_keys=True, default=list)


def sound_of(config: ConfigDict, recording: Recording) -> np.ndarray | list[np.ndarray]:
    """What a config's model takes of a recording's sound: the one way from decoded sound to features.

    Log-mel [frames, channels], a list of them, one per speed, or functionals or states [speeds, numbers]; no frames for
    a model of words, and for a text.
    """
    if not takes_sound(config) or not len(recording.samples):
        return np.zeros((0, channels(config.audio)), np.float32)
    from emoflax.features import functionals, opensmile_sets
    from emoflax.features.log_mel import in_16_bits, of_wave

    wave, _ = recording.shaped(config)
    if config.model.functionals in models.STATES_MODELS:
        encoder = closed_form.encoder_of(config)
        return closed_form.chosen_states(config, encoder(_at_speeds(config, wave, encoder.audio)))
    if config.model.functionals in models.FRAME_LEVEL_MODELS:
        return _at_speeds(config, wave)
    if config.model.functionals:
        make = functionals if config.functionals.feature_set == "own" else opensmile_sets
        return make.of_wave(wave, config.audio.sample_rate_hz, **closed_form.functionals_of(config))
    if frontend := frontend_of(config):
        return frontend.alone(*in_16_bits(wave))
    return of_wave(wave, **_of_wave(config.audio))


def _at_speeds(config: ConfigDict, wave: np.ndarray, audio: Mapping = types.MappingProxyType({})) -> list[np.ndarray]:
    """Log-mels of float32 [samples], one per speed. `audio`: fields of config.audio that are to differ."""
    from emoflax.features.log_mel import of_wave

    return [of_wave(wave, **_of_wave(fields | audio)) for fields in closed_form.audio_of_speeds(config).values()]


def _of_wave(audio: Mapping) -> dict:
    """Of the fields of config.audio, those that log_mel.of_wave takes."""
    return {name: value for name, value in audio.items() if name not in ("trim_db", "level")}


def words_of(config: ConfigDict, recording: Recording) -> list[str]:
    """Words of the text that is known, or of Whisper's transcript."""
    from emoflax.features import text

    if not takes_words(config):
        return []
    said = recording.text
    if said is None:
        said = text.transcribe(recording.samples, recording.rate_hz, config.text.to_dict(), config.data.cache_dir)
    return text.cutter(config.text.to_dict())(said)


def states_of_words(config: ConfigDict, words: Sequence[str]) -> np.ndarray:
    """States of the tokens, as a closed-form model of words takes them, float32 [1, numbers]."""
    from emoflax.features.states import token_ids

    encoder = closed_form.encoder_of(config)
    return closed_form.chosen_states(config, encoder(token_ids([words], config.text.tokenizer)))
