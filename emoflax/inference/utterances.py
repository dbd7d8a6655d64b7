"""Recordings and texts as a model takes them: features of the sound, words, or of both what there is."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from emoflax.data import speakernorm
from emoflax.errors import UserError, WeightsUnavailable
from emoflax.experiment.model import takes_states_of_words, takes_words
from emoflax.inference import recordings
from emoflax.inference.recordings import Recording


@dataclasses.dataclass(frozen=True)
class Utterance:
    """Features of one recording.

    Attributes:
      name: what messages call it; a file's path.
      logmel: of `recordings.sound_of`; empty without sound, or for a network of words alone. Of a closed-form model of
        words, `recordings.states_of_words`.
      words: empty without words, or for a model of sound alone.
    """

    name: str
    logmel: np.ndarray | list[np.ndarray]
    words: list[str]


class Gaps:
    """Recordings of which a model of sound and words gets one of the two. One warning tells of all with one reason."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], dict[str, None]] = {}
        self._no_whisper: dict[str, WeightsUnavailable] = {}

    def check_whisper(self, config: ConfigDict) -> None:
        """Raises again what loading Whisper raised: to try it for every recording would take seconds each time."""
        if config.text.whisper_model in self._no_whisper:
            raise self._no_whisper[config.text.whisper_model]

    def no_words(self, config: ConfigDict, name: str, reason: UserError) -> None:
        if isinstance(reason, WeightsUnavailable):
            self._no_whisper[config.text.whisper_model] = reason
        self._add(f"predicted from the sound alone{_untrained(config, 'text')}: ", name, f": {reason}")

    def no_sound(self, config: ConfigDict, name: str) -> None:
        self._add(f"predicted from the words alone{_untrained(config, 'audio')}: ", name, "")

    def warn(self) -> None:
        for sentence in self.sentences():
            logging.warning("%s", sentence)

    def sentences(self) -> list[str]:
        """One per reason, with the names of the first recordings."""
        mores = [f" and {len(names) - 3} more" if len(names) > 3 else "" for names in self._names.values()]
        return [
            f"{before}{', '.join(list(names)[:3])}{more}{after}"
            for ((before, after), names), more in zip(self._names.items(), mores, strict=True)
        ]

    def _add(self, before: str, name: str, after: str) -> None:
        self._names.setdefault((before, after), {})[name] = None


def _untrained(config: ConfigDict, missing: str) -> str:
    if config.model.modality_dropout[missing]:
        return ""
    return ", for which the model was not trained (config.model.modality_dropout)"


def utterance_of(config: ConfigDict, recording: Recording, gaps: Gaps) -> Utterance:
    """One recording or text; for a model of sound and words one of the two is enough.

    Raises:
      UserError: it has neither.
      WeightsUnavailable: words alone are wanted, and Whisper is not there.
    """
    sound = recordings.sound_of(config, recording)
    if not takes_words(config) and not len(sound):
        raise UserError(f"{recording} is a text, and the model takes sound")
    try:
        if recording.text is None and len(sound):
            gaps.check_whisper(config)
        words = recordings.words_of(config, recording)
        if config.model.audio and config.model.text and not words:
            raise UserError(f"{recording} holds no words")
    except UserError as error:
        if not len(sound):
            raise
        gaps.no_words(config, recording.name, error)
        words = []
    if config.model.audio and not len(sound):
        gaps.no_sound(config, recording.name)
    states = recordings.states_of_words(config, words) if takes_states_of_words(config) else sound
    return Utterance(recording.name, states, words)


def utterances_of(
    config: ConfigDict, opened: Sequence[Recording], gaps: Gaps
) -> tuple[list[Utterance], list[int], dict[int, UserError]]:
    """Features of every recording that has any, the places of those, and why the others have none, by place."""
    made: dict[int, Utterance] = {}
    failures: dict[int, UserError] = {}
    for place, one in enumerate(opened):
        try:
            made[place] = utterance_of(config, one, gaps)
        except WeightsUnavailable:  # every other one would fail in the same way
            raise
        except UserError as error:
            failures[place] = error
    return list(made.values()), list(made), failures


def of_one_speaker(utterances: Sequence[Utterance]) -> list[Utterance]:
    """The features normalised by their mean and deviation over all utterances, as under a protocol '...+speakernorm'.

    Raises:
      UserError: a single recording, whose statistics would not be the speaker's.
    """
    sounds = [utterance.logmel for utterance in utterances if len(utterance.logmel)]
    if len(sounds) < 2:
        raise UserError(
            f"the model was trained with {speakernorm.SUFFIX}: a recording is normalised by all recordings of its "
            "speaker; give more of that speaker's recordings to --inputs, or train without"
        )
    logging.warning(
        "the %d given recordings are normalised as one speaker's: predictions are right only if they are, and better "
        "the more there are, in many emotions", len(sounds),
    )  # fmt: skip
    level = speakernorm.level_of(sounds)
    return [dataclasses.replace(one, logmel=level(one.logmel) if len(one.logmel) else one.logmel) for one in utterances]
