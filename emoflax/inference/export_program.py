"""A model as one function of arrays: waveforms, or features, to probabilities, for any batch and any length.

The function is plain JAX, with weights as constants: what is made of it runs without flax and emoflax.
Shape letters: B clips, W windows of a clip, T frames, C classes.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emoflax.audio.channels import channels
from emoflax.audio.frontend import LogMel, Samples
from emoflax.batch import Batch
from emoflax.data import speakernorm
from emoflax.errors import UserError
from emoflax.experiment.features import max_frames
from emoflax.experiment.model import frontend_of, functionals_of
from emoflax.inference.export_frontend import WaveformFrontEnd, rows_from
from emoflax.inference.member import Member
from emoflax.inference.model import Model
from emoflax.models import FRAME_LEVEL_MODELS, conv

KINDS = ("waveform", "features")
_FRAMES = 16  # rows are a multiple of it, so that something is left after every pooling, whatever the length


@dataclasses.dataclass(frozen=True)
class Input:
    """An argument of the function; names in `shape` stand for any length."""

    name: str
    shape: tuple[str | int, ...]
    dtype: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class Program:
    """`function` of arrays, one per input, returns probabilities float32 [batch, labels]."""

    inputs: tuple[Input, ...]
    function: Callable[..., jax.Array]
    labels: tuple[str, ...]

    def specs(self) -> list[jax.ShapeDtypeStruct]:
        """The inputs' shapes, with symbols for lengths."""
        names = sorted({size for one in self.inputs for size in one.shape if isinstance(size, str)})
        symbol = dict(zip(names, jax.export.symbolic_shape(", ".join(names)), strict=True))
        return [
            jax.ShapeDtypeStruct([symbol.get(size, size) for size in one.shape], np.dtype(one.dtype))
            for one in self.inputs
        ]


def program_of(model: Model, kind: str) -> Program:
    """The model as a function of 'waveform' or of 'features'.

    Raises:
      UserError: a member that cannot be such a function; the sentence names it and says why.
    """
    for member in model.members:
        if reason := _obstacle(member, kind):
            raise UserError(f"{model.where}: {member.name or 'the model'} {reason}")
    groups = _groups(model.members, kind)
    inputs = [one for group in groups for one in group.inputs]
    if kind == "waveform":
        rates = {group.front_end.sample_rate_hz for group in groups}
        if len(rates) > 1:
            raise UserError(
                f"{model.where}: its members take waveforms of different rates ({', '.join(map(str, sorted(rates)))} "
                "Hz); export members one by one"
            )
        inputs = _waveform_inputs(rates.pop())
    temperature = model.temperature

    def function(*arrays: jax.Array) -> jax.Array:
        given = list(arrays)
        total_BxC = 0.0
        for group in groups:
            own = given if kind == "waveform" else [given.pop(0) for _ in group.inputs]
            taken = group.front_end(*own) if kind == "waveform" else own
            for member in group.members:
                total_BxC = total_BxC + member.weight * _log_probabilities(member, taken)
        return jax.nn.softmax(jax.nn.log_softmax(total_BxC) / temperature)

    return Program(tuple(inputs), _portable(function), model.labels)


@dataclasses.dataclass(frozen=True)
class _Group:
    """Members that take the same features."""

    members: list[Member]
    inputs: tuple[Input, ...]
    front_end: WaveformFrontEnd | None


def groups_of(members: Sequence[Member]) -> list[list[Member]]:
    """Members that take the same features, together."""
    by_key: dict[str, list[Member]] = {}
    for member in members:
        vocabulary = str(member.trained.description["vocabulary"]) if member.config.model.text else ""
        by_key.setdefault(member.features_key + vocabulary, []).append(member)
    return list(by_key.values())


def _groups(members: Sequence[Member], kind: str) -> list[_Group]:
    groups = groups_of(members)
    if kind == "waveform":
        return [_Group(own, (), _front_end(own[0].config)) for own in groups]
    suffixes = [f"_{number}" if len(groups) > 1 else "" for number in range(1, len(groups) + 1)]
    return [
        _Group(own, tuple(_renamed(one, suffix) for one in _feature_inputs(own[0])), None)
        for own, suffix in zip(groups, suffixes, strict=True)
    ]


def _renamed(one: Input, suffix: str) -> Input:
    """Names of inputs and lengths that differ between groups; the batch is one for all."""
    shape = tuple(size if size == "batch" or isinstance(size, int) else size + suffix for size in one.shape)
    return dataclasses.replace(one, name=one.name + suffix, shape=shape)


def _obstacle(member: Member, kind: str) -> str:
    """Why a member cannot be such a function, as the end of a sentence; '' if it can."""
    config, description = member.config, member.trained.description
    model, audio = config.model, config.audio
    if speakernorm.suffix_of(description["protocol"]):
        return "normalises all recordings of a speaker together, which no function of single recordings can"
    if model.pcen.time_s and model.audio:
        return "has config.model.pcen, whose smoother has no form for lengths that are not known beforehand"
    if model.audio and (tuple(config.evaluate.speeds) != (1.0,) or tuple(config.evaluate.band_shifts) != (0.0,)):
        return "is predicted with test-time augmentation (config.evaluate), which is not part of an export"
    if model.functionals in FRAME_LEVEL_MODELS:
        return "aligns a recording to templates frame by frame, for which lengths must be known beforehand"
    if kind == "features":
        return ""
    if model.text:
        obstacle = "takes words, which are no function of the waveform here"
    elif model.functionals == "states":
        obstacle = f"takes the states of a pretrained {config.states.encoder}"
    elif model.functionals or audio.contours:
        obstacle = "takes pitch and formants, whose search over candidates and eigenvalues no exported program has"
    elif audio.frontend not in ("librosa", "waveform"):
        obstacle = f"has config.audio.frontend={audio.frontend!r}, which an export does not have"
    else:
        return ""
    return f"{obstacle}; --export_input=features exports it from its features on"


def _waveform_inputs(rate_hz: int) -> list[Input]:
    return [
        Input("waveform", ("batch", "samples"), "float32", f"one channel at {rate_hz} Hz, full scale 1.0"),
        Input("lengths", ("batch",), "int32", "samples of each waveform; what is beyond them has no influence"),
    ]


def _front_end(config: Any) -> WaveformFrontEnd:
    audio, stored = config.audio, frontend_of(config)
    fields = {name: audio[name] for name in ("sample_rate_hz", "window_ms", "hop_ms", "mels", "fmin_hz", "fmax_hz")}
    made = stored or (Samples() if audio.frontend == "waveform" else LogMel(**fields))
    return WaveformFrontEnd(made, audio.sample_rate_hz, audio.trim_db, audio.level, in_16_bits=stored is not None)


def _feature_inputs(member: Member) -> list[Input]:
    config, inputs = member.config, []
    speeds = len(config.functionals.speeds)
    if config.model.functionals:
        what = "states of the pretrained encoder" if config.model.functionals == "states" else "functionals"
        inputs.append(Input("functionals", ("batch", speeds, functionals_of(config)), "float32",
                            f"{what} at speeds {tuple(config.functionals.speeds)}"))  # fmt: skip
    if config.model.audio:
        inputs.append(Input("logmel", ("batch", "frames", channels(config.audio)), "float32",
                            "log-mels in the front end's unit, then contours if the model has them"))  # fmt: skip
        inputs.append(Input("frames", ("batch",), "int32", "length of each log-mel"))
    if config.model.text:
        most = f"at most {config.text.max_tokens} places in the vocabulary"
        inputs.append(Input("tokens", ("batch", "words"), "int32", f"{most}, from 2 on; 1: any other word; 0: none"))
        inputs.append(Input("n_tokens", ("batch",), "int32", "how many words each has"))
    return inputs


def _log_probabilities(member: Member, taken: Batch | list[jax.Array]) -> jax.Array:
    """[batch, classes], normalised."""
    module, config = member.trained.module(), member.config
    if config.model.functionals:
        return _closed_form(module, *taken)
    if isinstance(taken, Batch):
        return _network(module, config, taken)
    names = ["logmel", "frames"] * bool(config.model.audio) + ["tokens", "n_tokens"] * bool(config.model.text)
    return _network(module, config, Batch(**dict(zip(names, taken, strict=True))))


def _closed_form(module: Any, functionals_BxVxD: jax.Array) -> jax.Array:
    """Mean over the rows of a clip, one per speed."""
    batch, speeds, numbers = functionals_BxVxD.shape
    logits_NxC = module.logits_in_program(functionals_BxVxD.reshape(batch * speeds, numbers))
    return jax.nn.log_softmax(jax.nn.log_softmax(logits_NxC).reshape(batch, speeds, -1).mean(1))


def _network(module: Any, config: Any, batch: Batch) -> jax.Array:
    """Mean over the windows of a clip, as `data.dataset.window_starts` lays them."""
    if batch.logmel is None:
        return jax.nn.log_softmax(module(batch))
    clips, width = batch.logmel.shape[0], max_frames(config)
    frames = (batch.logmel.shape[1] + _FRAMES - 1) // _FRAMES * _FRAMES
    logmel = jnp.pad(batch.logmel, ((0, 0), (0, frames - batch.logmel.shape[1]), (0, 0)))
    windows = (frames + width - 1) // width
    count_B = jnp.maximum(-(-batch.frames // width), 1)
    step_B = (batch.frames - width).astype(jnp.float32) / jnp.maximum(count_B - 1, 1).astype(jnp.float32)
    number_1xW = jnp.arange(windows)[None]
    start_BxW = jnp.round(number_1xW.astype(jnp.float32) * jnp.maximum(step_B, 0)[:, None]).astype(jnp.int32)
    length_BxW = jnp.clip(batch.frames[:, None] - start_BxW, 0, width)
    width = jax.core.min_dim(frames, -(-width // _FRAMES) * _FRAMES)
    rows = rows_from(logmel, start_BxW, width).reshape(clips * windows, width, -1)
    rows = jnp.where((jnp.arange(width)[None] < length_BxW.reshape(-1)[:, None])[..., None], rows, 0)
    row = Batch(logmel=rows, frames=length_BxW.reshape(-1))
    if batch.tokens is not None:
        row = row.replace(tokens=_repeated(batch.tokens, windows), n_tokens=_repeated(batch.n_tokens, windows))
    log_p_BxWxC = jax.nn.log_softmax(module(row)).reshape(clips, windows, -1)
    counts_BxWx1 = (number_1xW < count_B[:, None])[..., None]
    return jax.nn.log_softmax(jnp.where(counts_BxWx1, log_p_BxWxC, 0).sum(1) / count_B[:, None].astype(jnp.float32))


def _repeated(x: jax.Array, windows: Any) -> jax.Array:
    """[batch, ...] -> [batch * windows, ...]."""
    repeated = jnp.broadcast_to(x[:, None], (x.shape[0], windows, *x.shape[1:]))
    return repeated.reshape(x.shape[0] * windows, *x.shape[1:])


def _portable(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The function, traced with operations that every platform has, not with those that suit this machine."""

    def traced(*arrays: jax.Array) -> jax.Array:
        with conv.portable(), jax.numpy_rank_promotion("allow"):
            return function(*arrays)

    return traced
