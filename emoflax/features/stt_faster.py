"""Speech to text by faster-whisper: the same models in CTranslate2, also of 8 bits. An optional dependency."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from emoflax.errors import UserError, WeightsUnavailable, optional
from emoflax.features.stt_openai import WINDOW_SAMPLES, check_language
from emoflax.pretrained import whisper_files

FILES = ("model.bin", "config.json", "tokenizer.json")  # and vocabulary.json or .txt


class FasterWhisperEngine:
    """faster-whisper, loaded once; attributes as in `stt_openai.WhisperEngine`."""

    def __init__(self, model, language: str | None, prompt: str | None, beam: int | None):
        self.model, self.language, self.prompt, self.beam = model, language, prompt, beam

    def texts(self, waves: Sequence[np.ndarray]) -> list[str]:
        """Transcripts of waveforms, one by one; batches would gain nothing on a CPU."""
        return [self._transcribe(wave) for wave in waves]

    def _transcribe(self, wave: np.ndarray) -> str:
        # As in stt_openai: greedy or beam search, no second try at a higher temperature, windows decoded independently.
        segments, _ = self.model.transcribe(
            wave, language=self.language, temperature=0.0, initial_prompt=self.prompt, beam_size=self.beam or 1,
            condition_on_previous_text=False, without_timestamps=len(wave) <= WINDOW_SAMPLES,
        )  # fmt: skip
        return "".join(segment.text for segment in segments).strip()


def locate_weights(model: str) -> None:
    """Returns if the weights are on disk or can be downloaded.

    Raises:
      WeightsUnavailable: neither; the message names the files and their folder.
      UserError: faster-whisper is not installed; no such model, or a folder without a model.
    """
    faster_whisper = _import()
    if Path(model).is_dir():
        if missing := [name for name in FILES if not (Path(model) / name).is_file()]:
            raise UserError(
                f"text.whisper_model={model} lacks {', '.join(missing)}: it is not the folder of a CTranslate2 "
                "model with its tokenizer (ct2-transformers-converter --copy_files tokenizer.json)."
            )
        return
    if model not in faster_whisper.available_models():
        raise UserError(
            f"text.whisper_model={model!r} is neither a folder nor a model of faster-whisper; models are "
            f"{', '.join(faster_whisper.available_models())}."
        )
    if _downloaded(model):
        return
    url = f"https://huggingface.co/{faster_whisper.utils._MODELS[model]}"  # private, but nothing public has the address
    if obstacle := whisper_files.why_unreachable(f"{url}/resolve/main/model.bin"):
        raise WeightsUnavailable(
            f"The weights of faster-whisper's {model} are not on this machine, and {url} cannot be reached "
            f"({obstacle}). Put {', '.join(FILES)} and vocabulary.* from there into a folder of their own and set "
            "text.whisper_model to it."
        )


def load(text: Mapping) -> FasterWhisperEngine:
    """See `stt.load`."""
    faster_whisper = _import()
    from faster_whisper.tokenizer import _LANGUAGE_CODES

    name = text["whisper_model"]
    locate_weights(name)
    logging.info("Loading faster-whisper %s", name)
    try:
        with whisper_files.stall_timeout():
            model = faster_whisper.WhisperModel(name, local_files_only=Path(name).is_dir() or _downloaded(name))
    except Exception as error:  # CTranslate2 and the tokenizer raise bare RuntimeError and Exception
        detail = (str(error).splitlines() or ["no details"])[0]
        raise UserError(
            f"The weights of faster-whisper {name} could not be loaded: they are incomplete or no CTranslate2 model "
            f"({type(error).__name__}: {detail}). Put them there again, or set text.whisper_model."
        ) from error
    language = check_language(text["language"].lower(), _LANGUAGE_CODES, model.model.is_multilingual, name)
    return FasterWhisperEngine(model, language, text["prompt"] or None, text["beam"] or None)


def _downloaded(model: str) -> bool:
    import faster_whisper
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        faster_whisper.download_model(model, local_files_only=True)
    except LocalEntryNotFoundError:
        return False
    return True


def _import():
    with optional("config.text.engine='faster-whisper'", "whisper"):
        import faster_whisper
    return faster_whisper
