"""A trained model in a program: recordings or arrays in, labels and probabilities out.

model = emoflax.load("bundle")
for prediction in model.predict(["a.wav", "b.wav"]):
    print(prediction.file, prediction.label, prediction.probabilities)
"""

import contextlib
import dataclasses
import os
import pathlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from emoflax import fingerprint
from emoflax.data import speakernorm
from emoflax.errors import UserError
from emoflax.experiment import identity
from emoflax.experiment.model import takes_words
from emoflax.inference import bundle, compile_cache, notices, recordings, sources, windows
from emoflax.inference.member import Member
from emoflax.inference.recordings import Recording
from emoflax.inference.utterances import Gaps, Utterance, of_one_speaker, utterances_of
from emoflax.inference.windows import Activity, Windows
from emoflax.reporting import calibration

Source = str | os.PathLike[str] | npt.NDArray[Any]
_CHECK_TOLERANCE = 1e-3  # of probabilities, between machines and versions of libraries
_AT_ONCE = 64  # recordings whose features are in memory
_NOTHING = contextlib.nullcontext()


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says of a recording, or of a window of it.

    Attributes:
      label: the likeliest emotion; '' for a part without speech.
      probabilities: of every emotion, in the model's order; empty for a part without speech.
      start_s, end_s: the part of the recording.
      file: its path, or None for an array.
      silent: the window holds next to no sound, so it was not predicted.
      speech: the share of this part that is speech, where `vad` was asked for; below 0.1 it was not predicted.
      unsure: the likeliest emotion's probability is under `Model.least_confidence`.
      notices: in which ways the recording is unlike those that the model was trained on, in words.
    """

    label: str
    probabilities: Mapping[str, float]
    start_s: float
    end_s: float
    file: str | None = None
    silent: bool = False
    speech: float | None = None
    unsure: bool = False
    notices: tuple[str, ...] = ()


class Model:
    """One trained model or an ensemble of several. Any number of threads may use it at once.

    A model by itself is calibrated by its checkpoint's temperature, a bundle by the one that a cross-validation's
    held-out predictions gave (`selection/fit.py`). Other ensembles are not: their models were not when their weights
    were chosen.

    Attributes:
      labels: names of the emotions.
      corpus: that it was trained on.
      notice: what every use of it should say, such as that its training voices are synthetic; or ''.
      takes_text: whether any of it takes words.
      by_speaker: whether all recordings of one call are normalised together, as one speaker's.
      temperature: that log-probabilities are divided by; 1 for an ensemble.
      least_confidence: with less the label is called unsure (config.evaluate.unsure); 0: it never is.
      index: bundle.json as a dictionary, with scores and licences; empty for a checkpoint or a run.
    """

    def __init__(self, members: Sequence[Member], index: Mapping[str, Any], where: str):
        first = members[0].trained.description
        if any(member.trained.description["labels"] != first["labels"] for member in members):
            raise UserError(f"the models in {where} have different emotions and cannot be one ensemble")
        self.members, self.index, self.where = tuple(members), dict(index), where
        self.labels: tuple[str, ...] = tuple(first["labels"])
        self.corpus: str = first["corpus"]
        self.notice: str = first["notice"]
        self._speech_to_text = threading.Lock()  # Whisper's engines are not made for several threads
        self.takes_text = any(takes_words(member.config) for member in members)
        self.by_speaker = any(map(_by_speaker, members))
        calibrated = index.get("calibration") or (first.get("calibration") if len(members) == 1 else None)
        self.temperature = calibration.temperature_of({"calibration": calibrated})
        self.least_confidence = calibration.threshold(calibrated, members[0].config.evaluate.unsure)

    @property
    def name(self) -> str:
        """A bundle's, or that of the config that trained it."""
        return self.index.get("name") or str(self.members[0].config.name)

    def predict(
        self, inputs: Source | Sequence[Source], rate_hz: int | None = None, *, texts: Sequence[str] | None = None,
        window_s: float = 0.0, hop_s: float = 0.0, smooth_s: float = 0.0, vad: bool = False,
    ) -> list[Prediction]:  # fmt: skip
        """One prediction per input, in their order; with `window_s`, one per window.

        Args:
          inputs: a path of a sound file, an array [samples] or [samples, channels] (floats of full scale 1.0, or
            integers), or a sequence of them.
          rate_hz: sample rate of arrays; files have their own.
          texts: what is said in each input, for models that take words; else Whisper transcribes.
          window_s: length of windows; 0: the whole input.
          hop_s: from one window's beginning to the next one's; 0: windows do not overlap.
          smooth_s: log-probabilities are averaged over the windows whose middles are within half of this; 0: off.
          vad: marks what is not speech, such as noise (Silero's detector; `pip install 'emoflax[vad]'`).

        Raises:
          UserError: an input that cannot be read or used; the message names it.
        """
        cut, gaps, predictions = Windows(window_s, hop_s, smooth_s, vad), Gaps(), []
        opened = self._open(inputs, rate_hz, texts)
        at_once = len(opened) if self.by_speaker else _AT_ONCE
        for begin in range(0, len(opened), max(1, at_once)):
            for rows in self.score(opened[begin : begin + at_once], cut, gaps):
                if isinstance(rows, UserError):
                    raise rows
                predictions += rows
        gaps.warn()
        return predictions

    def embed(
        self, inputs: Source | Sequence[Source], rate_hz: int | None = None, *, texts: Sequence[str] | None = None
    ) -> list[dict[str, npt.NDArray[np.float32]]]:
        """Of each input, by member: the vector that the model's last layer classifies, float32 [width].

        A network's pooled vector, averaged over windows; a closed-form model's functionals, averaged over speeds.
        Arguments and errors as of `predict`.
        """
        opened = self._open(inputs, rate_hz, texts)
        vectors: list[dict[str, npt.NDArray[np.float32]]] = [{} for _ in opened]
        gaps = Gaps()
        for member, utterances, places, failures in self.features(opened, gaps):
            if failures:
                raise next(iter(failures.values()))
            for place, vector in zip(places, member.embed(utterances), strict=True):
                vectors[place][member.name] = vector
        gaps.warn()
        return vectors

    def predict_stream(
        self, chunks: Iterable[npt.NDArray[Any]], rate_hz: int, *, window_s: float = 3.0, hop_s: float = 1.0,
        vad: bool = False,
    ) -> Iterator[Prediction]:  # fmt: skip
        """Predictions of windows as soon as their sound has arrived, and at the end of what is left.

        Args:
          chunks: arrays [samples] or [samples, channels] of any length, as a microphone gives them.
          rate_hz: sample rate of the chunks.
          window_s: as of `predict`. Memory holds about one window and one chunk. A window is silent by the loudest
            one so far.
          hop_s: as of `predict`.
          vad: as of `predict`.

        Raises:
          UserError: a chunk that is no sound.
        """
        cut, gaps = Windows(window_s, hop_s, vad=vad), Gaps()
        width, hop = round(cut.window_s * rate_hz), round(cut.step_s * rate_hz)
        held, first, start, loudest_db = np.zeros(0, np.float32), 0, 0, -np.inf  # first: place of held[0]

        def prediction(begin: int) -> Prediction:
            nonlocal loudest_db
            window = Recording("stream", held[begin - first : begin - first + width], rate_hz)
            loudest_db = max(loudest_db, windows.loud_db(windows.levels_db(window.samples, rate_hz)))
            return self._of_window(window, begin, loudest_db, gaps, cut)

        for number, chunk in enumerate(chunks):
            held = np.concatenate([held, recordings.to_mono(chunk, f"chunk {number}")])
            while first + len(held) >= start + width:
                yield prediction(start)
                start += hop
            drop = max(0, min(start, first + len(held) - width) - first)
            held, first = held[drop:], first + drop
        end, covered = first + len(held), start - hop + width if start else 0
        if end > covered and len(held) >= recordings.SHORTEST_S * rate_hz:
            yield prediction(max(first, end - width))
        gaps.warn()

    def warm_up(self) -> None:
        """Compiles, or reads from the compile cache, every program that `predict` can need; else the first calls do."""
        for member in self.members:
            member.warm_up()

    def log_probabilities(
        self, opened: Sequence[Recording], gaps: Gaps | None = None
    ) -> tuple[npt.NDArray[np.float64], dict[int, UserError]]:
        """[recordings, classes] of the ensemble, and why some have none (their rows are nan), by place.

        A logarithmic opinion pool: log-probabilities are added up with the members' weights and normalised.

        Args:
          gaps: gets the recordings that lack sound or words, for the caller's warning.
        """
        total = np.zeros((len(opened), len(self.labels)))
        failed: dict[int, UserError] = {}
        for member, utterances, places, failures in self.features(opened, gaps or Gaps()):
            failed |= failures
            if places:
                total[places] += member.weight * member.log_probabilities(utterances)
        total[list(failed)] = np.nan
        log_p: npt.NDArray[np.float64] = total - np.logaddexp.reduce(total, axis=1, keepdims=True)
        return calibration.tempered(log_p, self.temperature), failed

    def score(self, opened: Sequence[Recording], cut: Windows, gaps: Gaps) -> list[list[Prediction] | UserError]:
        """Of each recording, the predictions of its windows, or why there are none."""
        spans = [cut.spans(len(one.samples), one.rate_hz) for one in opened]
        activities = [
            dict(zip(own, windows.activities(one.samples, one.rate_hz, own, cut), strict=True))
            for one, own in zip(opened, spans, strict=True)
        ]
        parts, owner = [], []
        for number, one in enumerate(opened):
            spoken = [span for span, activity in activities[number].items() if activity.is_speech]
            parts += [(s, one.part(*s) if cut.window_s else one) for s in spoken]
            owner += [number] * len(spoken)
        log_p, failed = self.log_probabilities([part for _, part in parts], gaps) if parts else (np.zeros((0, 0)), {})
        made: list[list[Prediction] | UserError] = []
        for number, (one, own) in enumerate(zip(opened, spans, strict=True)):
            places = [place for place, of in enumerate(owner) if of == number]
            if errors := [failed[place] for place in places if place in failed]:
                made.append(errors[0])
                continue
            kept = [parts[place][0] for place in places]
            known = dict(zip(kept, _smooth(log_p[places], kept, one, cut), strict=True))
            unlike = self._unlike_training(one, windowed=bool(cut.window_s))
            made.append(
                [self._prediction(one, span, known.get(span), activities[number][span], unlike) for span in own]
            )
        return made

    def _unlike_training(self, one: Recording, *, windowed: bool) -> tuple[str, ...]:
        """`Prediction.notices` of a recording; the members of an ensemble were trained on the same ones."""
        member = self.members[0]
        if not len(one.samples) or not member.trained.description.get("conditions"):
            return ()
        conditions = dict(one.shaped(member.config)[1])
        if windowed:  # the model never gets all of it at once
            del conditions["duration_s"]
        return tuple(notices.unusual(member.trained.description, conditions))

    def _of_window(self, window: Recording, first: int, loudest_db: float, gaps: Gaps, cut: Windows) -> Prediction:
        start_s, span = first / window.rate_hz, (0, len(window.samples))
        (activity,) = windows.activities(window.samples, window.rate_hz, [span], Windows(vad=cut.vad))
        silent = windows.is_silent(windows.levels_db(window.samples, window.rate_hz), loudest_db)
        activity = dataclasses.replace(activity, silent=silent)
        log_p = None
        if activity.is_speech:
            rows, failed = self.log_probabilities([window], gaps)
            if failed:
                raise failed[0]
            log_p = rows[0]
        made = self._prediction(window, span, log_p, activity)
        return dataclasses.replace(made, start_s=start_s, end_s=start_s + window.seconds)

    def _prediction(
        self, one: Recording, span: tuple[int, int], log_p: npt.NDArray[np.float64] | None, activity: Activity,
        unlike: tuple[str, ...] = (),
    ) -> Prediction:  # fmt: skip
        start_s, end_s = (sample / one.rate_hz for sample in span)
        file = str(one.path) if one.path else None
        if log_p is None:
            return Prediction("", {}, start_s, end_s, file, activity.silent, activity.speech, notices=unlike)
        probabilities = dict(zip(self.labels, np.exp(log_p).tolist(), strict=True))
        unsure = bool(np.exp(log_p.max()) < self.least_confidence)
        label = self.labels[int(log_p.argmax())]
        return Prediction(label, probabilities, start_s, end_s, file, False, activity.speech, unsure, unlike)

    def features(
        self, opened: Sequence[Recording], gaps: Gaps
    ) -> Iterator[tuple[Member, list[Utterance], list[int], dict[int, UserError]]]:
        """Each member with its features, their places, and why other recordings have none; alike ones are made once."""
        made: dict[str, tuple[list[Utterance], list[int], dict[int, UserError]]] = {}
        for member in self.members:
            key = member.features_key
            if key not in made:
                with self._speech_to_text if takes_words(member.config) else _NOTHING:
                    utterances, places, failures = utterances_of(member.config, opened, gaps)
                if utterances and _by_speaker(member):
                    utterances = of_one_speaker(utterances)
                made[key] = utterances, places, failures
            yield member, *made[key]

    def _open(
        self, inputs: Source | Sequence[Source], rate_hz: int | None, texts: Sequence[str] | None
    ) -> list[Recording]:
        listed = [inputs] if isinstance(inputs, str | os.PathLike | np.ndarray) else list(inputs)
        if texts is not None and len(texts) != len(listed):
            raise UserError(f"there are {len(texts)} texts for {len(listed)} inputs; give one of each")
        opened = []
        for number, one in enumerate(listed):
            text = None if texts is None else texts[number]
            if isinstance(one, np.ndarray):
                if rate_hz is None:
                    raise UserError("an array needs its sample rate: predict(array, rate_hz=16000)")
                opened.append(recordings.of_array(one, rate_hz, f"input {number}", text))
            else:
                read = recordings.read(pathlib.Path(one))
                opened.append(read if text is None else dataclasses.replace(read, text=text))
        return opened


def _by_speaker(member: Member) -> bool:
    return bool(speakernorm.suffix_of(member.trained.description["protocol"]))


def _smooth(
    log_p: npt.NDArray[np.float64], spans: Sequence[tuple[int, int]], one: Recording, cut: Windows
) -> npt.NDArray[np.float64]:
    if not cut.smooth_s or not len(spans):
        return log_p
    middle_s: npt.NDArray[np.float64] = np.array(spans).mean(1) / one.rate_hz
    return windows.smoothed(log_p, middle_s, cut.smooth_s)


def load(path: str | os.PathLike[str], *, cache_dir: str | os.PathLike[str] | None = None) -> Model:
    """The model of a bundle, of a checkpoint such as RUN/seed0-fold1, or the pooled models of a run.

    Args:
      cache_dir: keeps compiled programs and transcripts; None: $EMOFLAX_CACHE_DIR, else the user's cache folder, else
        nothing is kept. JAX's own setting, $JAX_COMPILATION_CACHE_DIR or jax.config, is left as it is.

    Raises:
      UserError: there is no model, a file of it is damaged, or this version of EmoFlax predicts other than that which
        made it.
    """
    folder = pathlib.Path(path)
    cache = compile_cache.folder() if cache_dir is None else pathlib.Path(cache_dir)
    compile_cache.keep(cache)
    members, index = sources.members_of(folder)
    for member in members:
        if cache and (index or cache_dir is not None):  # a checkpoint's own cache may hold transcripts
            member.config.data.cache_dir = str(cache)
    model = Model(members, index, str(folder))
    if index:
        _check(model, folder)
    return model


def from_checkpoint(run: str | os.PathLike[str], *, cache_dir: str | os.PathLike[str] | None = None) -> Model:
    """As `load`, of a checkpoint or a run alone.

    Raises:
      UserError: as of `load`, or `run` is a bundle.
    """
    if bundle.is_bundle(pathlib.Path(run)):
        raise UserError(f"{run} is a bundle, not a checkpoint: emoflax.load reads it")
    return load(run, cache_dir=cache_dir)


def check_signal(model: Model) -> dict[str, npt.NDArray[Any]]:
    """What `bundle.CHECK` holds: two seconds of a gliding tone with noise, and the ensemble's probabilities for it."""
    rng, t = np.random.default_rng(0), np.arange(32_000) / 16_000
    tone = np.sin(2 * np.pi * (180 * t + 30 * t**2)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))
    wave = np.round(8_000 * tone + 500 * rng.standard_normal(len(t))).astype(np.int16)
    return {"wave": wave, "probabilities": _probabilities_of(model, wave)}


def _probabilities_of(model: Model, wave: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
    """Of the check signal; of two copies at different levels where a model normalises by speaker."""
    both = [recordings.of_array(wave // part, 16_000, "check", "I am not sure what to say") for part in (1, 3)]
    probabilities: npt.NDArray[np.float64] = np.exp(model.log_probabilities(both)[0])
    return probabilities


def _check(model: Model, folder: pathlib.Path) -> None:
    """Where code is another one than that which fitted, the check signal must have the same probabilities.

    Raises:
      UserError: it has others.
    """
    code = [member.trained.description["code"][part] for member in model.members for part in identity.PREDICTION_CODE]
    changed = sorted({name for modules in code for name in fingerprint.changed(modules)})
    if not changed:
        return
    check = bundle.check_of(folder)
    apart = float(np.abs(_probabilities_of(model, check["wave"]) - check["probabilities"]).max())
    if not apart <= _CHECK_TOLERANCE:
        raise UserError(
            f"{folder} was fitted with other code ({', '.join(changed[:4])} changed since), and this version's "
            f"probabilities differ by {apart:.2g}; use version {model.index['emoflax']} of emoflax, or fit it again"
        )
    logging.info("%s: fitted with other code; its check signal has the same probabilities", folder)
