"""Speech to text by openai-whisper.

whisper pulls in torch and takes about 3 s to import, so it is imported inside the functions that need it: a run whose
transcripts are cached never pays for it.
"""

import pickle
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from absl import logging

from emoflax.errors import UserError
from emoflax.pretrained import whisper_files as whisper_weights

SAMPLE_RATE_HZ = 16_000
WINDOW_SAMPLES = 30 * SAMPLE_RATE_HZ  # what Whisper's encoder hears at once; shorter clips are padded to it
# Whisper's own rule for windows without speech (transcribe.py), where it would otherwise make words up.
NO_SPEECH_PROBABILITY = 0.6
NO_SPEECH_LOG_PROBABILITY = -1.0
FIELD = "text.whisper_model"


class WhisperEngine:
    """openai-whisper, loaded once.

    Attributes:
      model: the `whisper.Whisper` module, on the GPU where torch sees one.
      language: code, or None: Whisper guesses it for every clip.
      prompt: words that are said to have come before, or None.
      beam: width of the beam search, or None: greedy.
    """

    def __init__(self, model, language: str | None, prompt: str | None, beam: int | None):
        self.model = model
        self.language = language
        self.prompt = prompt
        self.beam = beam
        self.fp16 = model.device.type == "cuda"

    def texts(self, waves: Sequence[np.ndarray]) -> list[str]:
        """Transcripts of waveforms (float32 [samples], 16 kHz, mono, any length): '' where nobody speaks.

        Waves of up to 30 s go through the model as one batch; a longer one goes alone, window by window.
        """
        short = [index for index, wave in enumerate(waves) if len(wave) <= WINDOW_SAMPLES]
        batch = dict(zip(short, self._decode([waves[index] for index in short]), strict=True)) if short else {}
        return [batch[index] if index in batch else self._transcribe(wave) for index, wave in enumerate(waves)]

    def _decode(self, waves: Sequence[np.ndarray]) -> list[str]:
        import torch
        import whisper

        # One by one: log_mel_spectrogram clips at 80 dB under the loudest value of all it is given, so in one call a
        # clip's transcript would depend on its neighbours in the batch.
        mels = [
            whisper.log_mel_spectrogram(whisper.pad_or_trim(wave), self.model.dims.n_mels, device=self.model.device)
            for wave in waves
        ]
        options = whisper.DecodingOptions(
            language=self.language, temperature=0.0, prompt=self.prompt, beam_size=self.beam,
            without_timestamps=True, fp16=self.fp16,
        )  # fmt: skip
        # One clip at a time where beams are searched: with more, whisper 20250625 stops at a misshapen cross-attention
        # (openai/whisper pull request 2197).
        groups = [[mel] for mel in mels] if self.beam else [mels]
        results = [result for group in groups for result in whisper.decode(self.model, torch.stack(group), options)]
        return [_spoken(result) for result in results]

    def _transcribe(self, wave: np.ndarray) -> str:
        # With timestamps, which let the next window begin where the last whole sentence ended. Windows do not
        # condition on each other's text: that is how Whisper falls into repeating itself.
        result = self.model.transcribe(
            wave, language=self.language, temperature=0.0, initial_prompt=self.prompt, beam_size=self.beam,
            fp16=self.fp16, condition_on_previous_text=False,
        )  # fmt: skip
        return result["text"].strip()


def _spoken(result) -> str:
    silent = result.no_speech_prob > NO_SPEECH_PROBABILITY and result.avg_logprob < NO_SPEECH_LOG_PROBABILITY
    return "" if silent else result.text.strip()


def locate_weights(model: str) -> None:
    """See `whisper_weights.locate`. Raises NotInstalled where openai-whisper is missing."""
    whisper_weights.openai_whisper()
    whisper_weights.locate(model, FIELD)


def load(text: Mapping) -> WhisperEngine:
    """See `stt.load`."""
    whisper = whisper_weights.openai_whisper()
    from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE

    name = text["whisper_model"]
    locate_weights(name)
    logging.info("Loading Whisper %s", name)
    try:
        with whisper_weights.stall_timeout():
            model = whisper.load_model(name)
    except (RuntimeError, LookupError, TypeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        detail = (str(error).splitlines() or ["no details"])[0]
        raise UserError(
            f"Whisper's weights {name} could not be loaded: they are incomplete or no openai-whisper checkpoint "
            f"({type(error).__name__}: {detail}). Delete the file and run again, or set text.whisper_model."
        ) from error
    spoken = TO_LANGUAGE_CODE.get(text["language"].lower(), text["language"].lower())
    language = check_language(spoken, LANGUAGES, model.is_multilingual, name)
    return WhisperEngine(model.eval(), language, text["prompt"] or None, text["beam"] or None)


def check_language(language: str, known: Collection[str], multilingual: bool, model: str) -> str | None:
    """The code that a model wants; None: it guesses for every clip. Raises UserError for one that it does not know."""
    if language and language not in known:
        raise UserError(
            f"text.language={language!r} is unknown to Whisper; allowed are '' (guess), {', '.join(known)}."
        )
    if not multilingual and language not in ("", "en"):
        raise UserError(
            f"Whisper {model} knows English only, text.language is {language!r}; take a model without '.en'."
        )
    return (language or None) if multilingual else "en"
