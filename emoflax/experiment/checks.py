"""Checks of a config, before anything is computed: every field by itself, then fields that depend on each other.

What depends on the corpus, on weights or on a model's layers is checked where those are known.
"""

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from emoflax.configs import default
from emoflax.data import speakernorm
from emoflax.errors import UserError
from emoflax.experiment.fields import ALLOWED, BEFORE, NAME
from emoflax.experiment.kinds import Number, Table
from emoflax.files import expanded

# Fields that there were once -> what to write instead.
OLD_FIELDS = {
    "model.aligned.rivals": "the aligned model has no competing kernels any more; leave it out",
    "model.whisper.padded": "set config.model.whisper.silence_s to 30 in the place of True, to 0 in that of False",
    "states.padded": "set config.states.silence_s to 30 in the place of True, to 0 in that of False",
}
# Fields of config.augment that do to log-mels what makes no sense of a waveform's samples.
ONLY_OF_LOG_MELS = ("stretch", "vtlp", "shift_bands", "tilt_db", "gain_db", "noise", "band_masks")
# Fields that name a file or a folder; data.dir, one of each corpus.
PLACES = (
    "data.dir", "data.root", "data.cache_dir", "text.file", "text.tokenizer", "text.whisper_model", "states.weights",
    "model.pretrained.audio", "model.pretrained.text", "log.mlflow",
)  # fmt: skip
# A candidate or a search cannot change these: they say which run it is, or belong to all candidates.
FIXED = (
    "name", "seeds", "data.corpus", "data.dir", "data.root", "data.labels", "data.emotions", "data.speakers",
    "data.cache_dir", "split", "crossval", "fit", "sweep", "precompute", "report", "log",
)  # fmt: skip


def prepare(config: ConfigDict) -> None:
    """Checks the config and sets the fields that pretrained weights and tokenizers decide.

    Raises:
      UserError: one sentence that names the field, its value, and what is allowed.
    """
    from emoflax.experiment.model import resolve  # JAX comes with it

    check(config)
    resolve(config)
    check_together(config)


def check(config: ConfigDict) -> None:
    """Every field by itself, those of candidates and of a search, too. `~` in the name of a place is replaced."""
    fields = leaves(config)
    for field, value in fields.items():
        check_field(field, value, config)
    if missing := [field for field in ALLOWED if field not in fields]:
        raise UserError(
            f"the config has no config.{missing[0]}; begin with get_config of configs/default.py, which has"
        )
    several = "," in fields["data.corpus"]
    places = {
        field: _expanded(field, fields[field], several and field == "data.dir") for field in PLACES if fields[field]
    }
    config.update_from_flattened_dict(places)
    for name, changes in config.crossval.candidates.items():
        check_candidate(name, changes, config)
    for field, space in config.sweep.space.items():
        check_space(field, space, config)


def _expanded(field: str, value: str, several: bool) -> str:
    parts = [part.strip() for part in value.split(",")] if several else [value]
    try:
        return ",".join(str(expanded(part)) if part.startswith("~") else part for part in parts)
    except UserError as error:
        raise UserError(f"--config.{field}={error}") from error


def check_candidate(name: str, changes: Mapping[str, Any], config: ConfigDict) -> None:
    """A candidate's name, and every field that it changes."""
    if not NAME.allows(name):
        raise UserError(f"config.crossval.candidates: the name {name!r} must be {NAME}")
    if not isinstance(changes, Mapping):
        raise UserError(
            f"candidate {name}: {changes!r} must be a dictionary of fields, {{'optimizer.weight_decay': 0}}"
        )
    for field, value in changes.items():
        _check_changed(field, f"candidate {name}: ")
        check_field(field, value, config, f"candidate {name}: ")


def check_space(field: str, space: Any, config: ConfigDict) -> None:
    """The values that a search may try; how a space is written is checked where it is searched."""
    where = f"config.sweep.space[{field!r}]: "
    _check_changed(field, where)
    if not isinstance(space, tuple | list) or not space:
        raise UserError(f"{where}{space!r} must be a tuple such as ('log', 1e-4, 1e-2) or ('choice', 0, 1)")
    for value in space[1:]:
        check_field(field, value, config, where)


def _check_changed(field: str, where: str) -> None:
    if any(field == fixed or field.startswith(f"{fixed}.") for fixed in FIXED):
        raise UserError(f"{where}{field} must be the same for all candidates; set it in the config")


def check_field(field: str, value: Any, config: ConfigDict, where: str = "") -> None:
    """Raises UserError for a field that does not exist, or a value that it may not have."""
    check_name(field, config, where)
    if not (ALLOWED[field].allows(value) if field in ALLOWED else not _is_group(field)):
        raise UserError(f"{where}{sentence(field, repr(value))}")


def sentence(field: str, value: str) -> str:
    """Why a value is refused. `value`: as it was written."""
    if field in ALLOWED:
        return f"config.{field}={value} must be {ALLOWED[field]}"
    first = next((name for name in ALLOWED if name.startswith(f"{field}.")), "train.epochs")
    return f"config.{field}={value}: config.{field} is a group of fields; set one of them, such as config.{first}"


def check_name(field: str, config: ConfigDict, where: str = "") -> None:
    """Raises UserError for a field that neither configs/default.py has nor an encoder of somebody's own."""
    if field in ALLOWED or _is_group(field) or _is_own(field, config):
        return
    if field in OLD_FIELDS:
        raise UserError(f"{where}config.{field} does not exist any more: {OLD_FIELDS[field]}")
    last = field.rpartition(".")[2]
    same_end = [name for name in ALLOWED if name.rpartition(".")[2] == last]
    close = [*difflib.get_close_matches(field, ALLOWED, n=3, cutoff=0.8), *same_end]
    hint = (
        f"; did you mean {' or '.join(f'config.{name}' for name in list(dict.fromkeys(close))[:3])}?" if close else ""
    )
    raise UserError(f"{where}config.{field} does not exist{hint or '.'} configs/default.py lists every field")


def check_flag(field: str, config: ConfigDict) -> None:
    """Raises UserError for a field that cannot be set on the command line."""
    check_name(field, config)
    if isinstance(ALLOWED.get(field), Table):
        raise UserError(
            f"config.{field} is a dictionary: set it in a config file, as ablation.py and sweep.py in configs/ do"
        )


def _is_group(field: str) -> bool:
    return any(name.startswith(f"{field}.") for name in ALLOWED)


def _is_own(field: str, config: ConfigDict) -> bool:
    """Whether a field belongs to an encoder that somebody added: config.model.<its name>, with fields as it likes."""
    kind, _, rest = field.partition(".")
    group = rest.partition(".")[0]
    return kind == "model" and group != rest and group in config.model and not _is_group(f"model.{group}")


def leaves(config: ConfigDict) -> dict[str, Any]:
    """Dotted name -> value; what data.labels, crossval.candidates and sweep.space hold stays whole."""

    def is_leaf(path: tuple[str, ...], _: Any) -> bool:
        return path in (("data", "labels"), ("crossval", "candidates"), ("sweep", "space"))

    return flatten_dict(config.to_dict(), sep=".", is_leaf=is_leaf)


def config_of(values: Mapping[str, Any]) -> ConfigDict:
    """The config that a checkpoint describes itself by; fields that came later are what they were `BEFORE`.

    Raises:
      UserError: it sets a field that there is no more.
    """
    config = default.get_config()
    config.update_from_flattened_dict(BEFORE)
    config.update(values)
    for field in leaves(config):
        check_name(field, config, "this checkpoint is of another version of EmoFlax, train again: ")
    return config


def check_together(config: ConfigDict) -> None:
    """Fields that exclude or need each other. Raises UserError."""
    check_audio(config)
    check_model(config)
    check_augmentation(config)
    if config.crossval.shared and config.train.population > 1:
        raise UserError(
            "config.crossval.shared divides single models among processes: set "
            "config.train.population=0, or shared=False for populations of models in one process"
        )


def check_audio(config: ConfigDict) -> None:
    """Settings that no spectrogram can be made with, and those that its later steps cannot use."""
    from emoflax.features.log_mel import check_settings

    fields = config.audio
    check_wave_encoder(config)
    check_settings(**fields.to_dict())
    if fields.frontend == "librosa" and (most := most_bands(config)) < fields.mels:
        raise UserError(
            f"config.audio.mels={fields.mels} must be at most {most}: with window_ms={fields.window_ms:g}, "
            f"fmin_hz={fields.fmin_hz:g} and fmax_hz={fields.fmax_hz:g}, more bands are so narrow that some would hold "
            "no frequency of the FFT, and be empty"
        )
    if config.data.store == "wave" and fields.frontend not in ("librosa", "waveform"):
        raise UserError("config.data.store='wave' needs config.audio.frontend='librosa' or 'waveform'")
    if config.data.store == "wave" and fields.contours:
        raise UserError("config.data.store='wave' keeps no contours; set config.audio.contours=False or store='logmel'")
    if config.model.audio and config.model.pcen.time_s and fields.frontend != "librosa":
        raise UserError("config.model.pcen is made of dB: it needs config.audio.frontend='librosa'")


def check_wave_encoder(config: ConfigDict) -> None:
    """An encoder of waveforms has the front end 'waveform', and no other has; what changes log-mels is off with it."""
    from emoflax import models  # JAX comes with it
    from emoflax.audio.wave_frames import WAVE_FRAME

    wave = models.takes_waveform(config.model.audio)
    if wave != (config.audio.frontend == "waveform") and config.model.audio:
        needed = "needs config.audio.frontend='waveform'" if wave else "takes log-mels, not frontend='waveform'"
        raise UserError(
            f"config.model.audio={config.model.audio!r} {needed} (with window_ms=20, hop_ms=20, mels={WAVE_FRAME}: "
            f"configs/wav2vec2_pretrained.py); these take waveforms: {', '.join(models.WAVE_ENCODERS)}"
        )
    if not wave:
        return
    fields = {f"augment.{name}": value for name, value in config.augment.items() if name in ONLY_OF_LOG_MELS}
    usual = {"evaluate.speeds": (1.0,), "evaluate.band_shifts": (0.0,)}
    fields |= {name: tuple(config.evaluate[name.partition(".")[2]]) != value for name, value in usual.items()}
    if acts := [name for name, value in fields.items() if value]:
        raise UserError(
            f"config.{acts[0]} changes log-mels, of which {config.model.audio!r} makes none; set it back, and use "
            "config.augment.wave with config.data.store='wave'"
        )


def most_bands(config: ConfigDict) -> int:
    """How many mel bands, config.audio.mels at most, can all hold at least one frequency of the FFT."""
    from emoflax.audio.frontend import LogMel, band_edges_hz

    fields = config.audio.to_dict()
    for other in ("frontend", "contours", "trim_db", "level"):
        del fields[other]
    step_hz = fields["sample_rate_hz"] / LogMel(**fields).n_fft

    def filled(mels: int) -> bool:
        edges_hz = band_edges_hz(mels, fields["fmin_hz"], fields["fmax_hz"])
        first_above_hz = step_hz * (np.floor(edges_hz[:-2] / step_hz) + 1)
        return bool((first_above_hz < edges_hz[2:]).all())

    return next((mels for mels in range(fields["mels"], 0, -1) if filled(mels)), 0)


def import_own(config: ConfigDict) -> None:
    """Imports encoders that are named 'module:Class'. Raises UserError where they cannot be."""
    from emoflax.models import own  # JAX comes with it

    for name in filter(own.is_own, (config.model.audio, config.model.text)):
        own.load(name)


def check_model(config: ConfigDict) -> None:
    model = config.model
    import_own(config)
    if model.functionals:
        _check_closed_form(config)
    _check_tuning(config)
    if sum(model.modality_dropout.values()) > 1:
        raise UserError("config.model.modality_dropout: audio and text are shares of the clips, 1 together at most")
    used = [name for name in (model.audio, model.text) if name]
    if model.audio and model.text:
        used.append(model.fusion)
    for name in used:
        sizes = model.get(name, {})
        if "heads" in sizes and sizes.width % sizes.heads:
            raise UserError(
                f"config.model.{name}.heads={sizes.heads} must divide config.model.{name}.width={sizes.width}"
            )
    if "attention_cnn" in used and not (model.attention_cnn.kernel % 2 and model.attention_cnn.stem_kernel % 2):
        raise UserError("config.model.attention_cnn: kernel and stem_kernel must be odd, like 3 or 5")


def _check_tuning(config: ConfigDict) -> None:
    """What fine-tuning has: layers side by side, a head in closed form, adapters."""
    model = config.model
    if model.layers and not model.audio:
        raise UserError(f"config.model.layers={tuple(model.layers)} needs an audio encoder; set config.model.audio")
    if model.layers and model.get(model.audio, {}).get("dropout", 0.0):
        raise UserError(f"config.model.layers goes without dropout; set config.model.{model.audio}.dropout=0")
    if model.pooling == "mean_std" and model.audio and model.text:
        raise UserError("config.model.pooling='mean_std' is for one modality; set config.model.text or .audio to ''")
    if config.train.start == "ridge" and (model.pooling != "mean_std" or model.head):
        raise UserError("config.train.start='ridge' needs config.model.pooling='mean_std' and config.model.head=0")
    if model.lora.rank and not config.optimizer.freeze:
        raise UserError(
            f"config.model.lora.rank={model.lora.rank} adapts weights that stay as they are; set "
            "config.optimizer.freeze='encoders', or the rank to 0"
        )


def _check_closed_form(config: ConfigDict) -> None:
    from emoflax.experiment import closed_form

    model = config.model
    if model.audio or model.text:
        raise UserError(
            "config.model.functionals is a model of its own: set config.model.audio and .text to ''; to join it "
            "with others, make each a candidate of --mode=crossval, whose ensemble weighs their probabilities"
        )
    if model.aligned.states % model.aligned.parts:
        raise UserError(
            f"config.model.aligned.parts={model.aligned.parts} must divide config.model.aligned.states="
            f"{model.aligned.states}"
        )
    closed_form.check(config)


def check_augmentation(config: ConfigDict) -> None:
    train, augment = config.train, config.augment
    if config.data.copies and config.data.store == "wave":
        raise UserError(
            "config.data.copies are made with config.data.store='logmel'; with 'wave' use config.augment.wave"
        )
    if config.data.copies and (suffix := speakernorm.suffix_of(config.split.protocol)):
        raise UserError(f"config.data.copies would count among a speaker's recordings; set it to 0 with {suffix}")
    if train.contrastive and augment.mixup:
        raise UserError("config.train.contrastive compares clips of one emotion; set config.augment.mixup to 0 with it")
    if augment.mixup and config.model.audio and config.model.text:
        raise UserError("config.augment.mixup mixes sounds and cannot mix words; set it to 0 for a model of both")
    acts = [
        name for name, value in augment.wave.items() if isinstance(ALLOWED[f"augment.wave.{name}"], Number) and value
    ]
    if acts and config.data.store != "wave":
        raise UserError(f"config.augment.wave.{acts[0]} acts on waveforms; set config.data.store='wave' to keep those")
