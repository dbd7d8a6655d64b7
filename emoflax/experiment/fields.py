"""What every field of configs/default.py may hold: one line each, which `checks` applies."""

import dataclasses

from emoflax.experiment.kinds import (
    Each,
    Kind,
    Number,
    OneOf,
    Renaming,
    Several,
    Table,
    Text,
    TrueOrFalse,
    names,
    whole,
)

OWN = (r"\w+(\.\w+)*:\w+", "MODULE:CLASS, an encoder of your own")


def _registry(name: str, *, none: bool = False, own: bool = False) -> OneOf:
    def read() -> tuple[str, ...]:
        from emoflax import models  # JAX comes with it

        return (*getattr(models, name), *([""] if none else []))

    return OneOf(read, own=OWN if own else ("", ""))


def _corpora() -> tuple[str, ...]:
    from emoflax import corpora

    return tuple(name.removesuffix("NAME") for name in corpora.NAMES)


def _protocols() -> tuple[str, ...]:
    from emoflax.data import splits

    return ("auto", *splits.PROTOCOLS)


def _metrics() -> tuple[str, ...]:
    from emoflax.reporting import metrics

    return metrics.METRICS


def _frontends() -> tuple[str, ...]:
    from emoflax.audio.frontend import UNIT_DB

    return tuple(UNIT_DB)


def _feature_sets() -> tuple[str, ...]:
    from emoflax.features import opensmile_sets

    return ("own", *opensmile_sets.SETS)


def _functional_kinds() -> tuple[str, ...]:
    from emoflax.features import functional_kinds

    return functional_kinds.KINDS


def _adapted() -> tuple[str, ...]:
    from emoflax.models import lora

    return lora.TARGETS


def _text_sources() -> tuple[str, ...]:
    from emoflax.features import text

    return text.SOURCES


def _engines() -> tuple[str, ...]:
    from emoflax.features import stt

    return tuple(stt.ENGINES)


def _runners() -> tuple[str, ...]:
    from emoflax.precompute import beam

    return (*beam.RUNNERS, "")


TEXT, FLAG = Text(), TrueOrFalse()
NAME = Text(
    r"(?!\.)[\w.+=-]{1,100}", "1 to 100 letters, digits and . + = - _, not beginning with a dot: it names a folder"
)
PATH = Text(r".+", "the path of a folder")
SPEAKERS = Each(Text(), least=0, order="distinct")
SHARE, DROPOUT = Number(0, 1), Number(0, 1, below=True)
COUNT, SIZE, AMOUNT = whole(0), whole(1), Number(0)  # 0 or more; 1 or more; 0 or more, not whole
DB = Number(0, 100)
SPEEDS = Each(Number(0.5, 2), example="(0.9, 1.0, 1.1); (1.0,) is what was recorded")
RIDGES = Each(Number(0, above=True), order="distinct", example="(0.1, 1.0)")
SNR_DB = Each(Number(-100, 200), (2,), order="not falling", example="(5.0, 40.0)")
HZ = Each(Number(1, 400_000), (2,), order="not falling", example="(3400.0, 8000.0)")
SIZES = Each(SIZE, example="(32, 64)")
WAVE_ENCODER = {
    "width": SIZE, "layers": SIZE, "heads": SIZE, "hidden": SIZE, "dropout": DROPOUT, "norm_first": FLAG,
    "channels": SIZES, "kernels": SIZES, "strides": SIZES, "extractor_norm": names("group", "layer"),
    "extractor_bias": FLAG, "projection_norm": FLAG, "positions": Each(SIZE, (3,), example="(128, 16, 1)"),
    "positions_norm": FLAG, "normalise": FLAG,
}  # fmt: skip

# Fields that came later, and whose default is not what was done before: what checkpoints without them were made with.
BEFORE = {"audio.level": "absolute", "model.absent_db": 0.0}

ALLOWED: dict[str, Kind] = {
    "name": NAME,
    # JAX takes seeds modulo 2^32: a larger one would train the model of another seed.
    "seeds": Each(whole(0, 2**32 - 1), order="distinct", example="(0, 1)"),
    "profile_steps": Each(COUNT, (0, 2), order="rising", example="(10, 20)"),
    "data.corpus": Several(OneOf(_corpora)),
    "data.dir": TEXT,
    "data.root": TEXT,
    "data.labels": Renaming(),
    "data.emotions": Each(Text(), least=0, order="distinct"),
    "data.speakers": SPEAKERS,
    "data.cache_dir": PATH,
    "data.store": names("logmel", "wave"),
    "data.copies": whole(0, 20),
    "data.max_s": Number(0.1, 86_400),
    "data.resident": names("auto", "yes", "no"),
    "data.buckets": SIZE,
    "split.protocol": OneOf(_protocols, suffixes=("+speakernorm", "+corpusnorm")),
    "split.fold": Text(r"all|[1-9][0-9]*", "'all' or the number of a fold: '1', '2', ..."),
    "split.dev_share": Number(0.001, 0.9, or_zero=True),
    "split.train_speakers": SPEAKERS,
    "split.dev_speakers": SPEAKERS,
    "split.test_speakers": SPEAKERS,
    "audio.frontend": OneOf(_frontends),
    "audio.sample_rate_hz": whole(1_000, 768_000),
    "audio.level": names("normalised", "absolute"),
    "audio.trim_db": Number(0, 200),
    "audio.window_ms": Number(0, 10_000, above=True),
    "audio.hop_ms": Number(0, 10_000, above=True),
    "audio.mels": whole(1, 4_096),
    "audio.fmin_hz": AMOUNT,
    "audio.fmax_hz": Number(0, above=True),
    "audio.contours": FLAG,
    "functionals.feature_set": OneOf(_feature_sets),
    "functionals.statistics": FLAG,
    "functionals.kernels": COUNT,
    "functionals.leave_out": Each(OneOf(_functional_kinds), least=0, order="distinct"),
    "functionals.speeds": dataclasses.replace(SPEEDS, order="distinct"),
    "augment.crop": Number(0, 0.9),
    "augment.stretch": Number(0, 4),
    "augment.vtlp": SHARE,
    "augment.shift_bands": Number(0, 1_000),
    "augment.tilt_db": DB,
    "augment.gain_db": DB,
    "augment.noise": SHARE,
    "augment.noise_snr_db": SNR_DB,
    "augment.band_limit": SHARE,
    "augment.band_limit_hz": HZ,
    "augment.mixup": Number(0, 100),
    "augment.contour_shift": Number(0, 100),
    "augment.contour_drop": SHARE,
    "augment.time_masks": whole(0, 100),
    "augment.time_mask_share": SHARE,
    "augment.band_masks": whole(0, 100),
    "augment.band_mask_share": SHARE,
    "augment.wave.crop": Number(0, 0.9),
    "augment.wave.speed": SHARE,
    "augment.wave.pitch_semitones": Number(0, 12),
    "augment.wave.room": SHARE,
    "augment.wave.room_rt60_s": Each(Number(0.01, 60), (2,), order="not falling", example="(0.1, 0.6)"),
    "augment.wave.room_direct_db": Each(Number(-100, 100), (2,), order="not falling", example="(0.0, 15.0)"),
    "augment.wave.noise": SHARE,
    "augment.wave.noise_snr_db": SNR_DB,
    "augment.wave.babble": SHARE,
    "augment.wave.babble_snr_db": SNR_DB,
    "augment.wave.band": SHARE,
    "augment.wave.band_top_hz": HZ,
    "augment.wave.gain_db": DB,
    "augment.wave.polarity": SHARE,
    "text.source": OneOf(_text_sources),
    "text.file": TEXT,
    "text.engine": OneOf(_engines),
    "text.whisper_model": Text(r".+", "the name of a Whisper model, or the path of one"),
    "text.whisper_batch": SIZE,
    "text.language": Text(r".+", "a language's code, such as en"),
    "text.prompt": TEXT,
    "text.beam": whole(0, 100),
    "text.tokenizer": TEXT,
    "text.lowercase": FLAG,
    "text.punctuation": FLAG,
    "text.min_count": SIZE,
    "text.max_tokens": SIZE,
    "precompute.workers": COUNT,
    "precompute.runner": OneOf(_runners),
    "precompute.runner_options": Each(TEXT, least=0),
    "precompute.shard_clips": SIZE,
    "precompute.max_bad_share": SHARE,
    "states.weights": TEXT,
    "states.encoder": names("bert", "data2vec_audio", "hubert", "wav2vec2", "wavlm", "whisper"),
    "states.silence_s": Number(0, 30),
    "states.parts": whole(0, 64),
    "states.layers": Each(COUNT, least=0, order="rising", example="(1, 2, 3)"),
    "states.batch": SIZE,
    "states.width": COUNT,
    "states.depth": COUNT,
    "probe.ridges": RIDGES,
    "model.audio": _registry("AUDIO_ENCODERS", none=True, own=True),
    "model.text": _registry("TEXT_ENCODERS", none=True, own=True),
    "model.absent_db": Number(1, 79, or_zero=True),  # the floor is 80 dB under the loudest cell
    "model.pcen.time_s": AMOUNT,
    "model.pcen.gain": SHARE,
    "model.pcen.bias": AMOUNT,
    "model.pcen.root": Number(0, 1, above=True),
    "model.functionals": _registry("FUNCTIONALS_MODELS", none=True),
    "model.ridge.ridges": RIDGES,
    "model.ridge.scale_power": Number(0, 4),
    "model.states.ridges": RIDGES,
    "model.layer_sum.layers": COUNT,
    "model.layer_sum.hidden": COUNT,
    "model.layer_sum.penalties": RIDGES,
    "model.aligned.states": SIZE,
    "model.aligned.parts": SIZE,
    "model.aligned.kernels": SIZE,
    "model.aligned.texts": SIZE,
    "model.aligned.ridges": RIDGES,
    "model.layers": Each(COUNT, least=0, order="rising", example="(1, 2, 3)"),
    "model.pooling": _registry("POOLINGS"),
    "model.fusion": _registry("FUSIONS"),
    "model.modality_dropout.audio": SHARE,
    "model.modality_dropout.text": SHARE,
    "model.head": COUNT,
    "model.dropout": DROPOUT,
    "model.cnn.channels": SIZES,
    "model.attention_cnn.width": SIZE,
    "model.attention_cnn.kernel": SIZE,
    "model.attention_cnn.stem_kernel": SIZE,
    "model.attention_cnn.stride": SIZE,
    "model.attention_cnn.dilations": dataclasses.replace(SIZES, example="(1, 2, 4, 1)"),
    "model.attention_cnn.dropout": DROPOUT,
    "model.attention.heads": SIZE,
    "model.attention.hidden": SIZE,
    "model.early.width": SIZE,
    "model.early.layers": SIZE,
    "model.early.heads": SIZE,
    "model.early.dropout": DROPOUT,
    "model.late.combine": names("logits", "probabilities"),
    "model.hybrid.width": SIZE,
    "model.hybrid.heads": SIZE,
    "model.hybrid.dropout": DROPOUT,
    "model.ast.width": SIZE,
    "model.ast.layers": SIZE,
    "model.ast.heads": SIZE,
    "model.ast.hidden": SIZE,
    "model.ast.patch": SIZE,
    "model.ast.stride": SIZE,
    "model.ast.max_frames": SIZE,
    "model.ast.dropout": DROPOUT,
    "model.whisper.width": SIZE,
    "model.whisper.layers": SIZE,
    "model.whisper.heads": SIZE,
    "model.whisper.dropout": DROPOUT,
    "model.whisper.silence_s": Number(0, 30),
    **{
        f"model.{encoder}.{name}": kind
        for encoder in ("data2vec_audio", "hubert", "wav2vec2", "wavlm")
        for name, kind in WAVE_ENCODER.items()
    },
    "model.wavlm.buckets": whole(4),
    "model.wavlm.distance": whole(2),
    "model.bert.width": SIZE,
    "model.bert.layers": SIZE,
    "model.bert.heads": SIZE,
    "model.bert.hidden": SIZE,
    "model.bert.positions": SIZE,
    "model.bert.epsilon": Number(0, 1, above=True),
    "model.bert.dropout": DROPOUT,
    "model.bert.token_dropout": DROPOUT,
    "model.pretrained.audio": TEXT,
    "model.pretrained.text": TEXT,
    "model.lora.rank": whole(0, 1_024),
    "model.lora.alpha": Number(0, 1_000, above=True),
    "model.lora.targets": Each(OneOf(_adapted), order="distinct"),
    "model.gru.embedding": SIZE,
    "model.gru.hidden": SIZE,
    "model.gru.dropout": DROPOUT,
    "model.gru.token_dropout": DROPOUT,
    "optimizer.learning_rate": Number(0, 100),
    "optimizer.warmup_epochs": AMOUNT,
    "optimizer.schedule": names("cosine", "constant"),
    "optimizer.weight_decay": Number(0, 100),
    "optimizer.clip_norm": AMOUNT,
    "optimizer.freeze": TEXT,
    "optimizer.layer_decay": Number(0, 1, above=True),
    "optimizer.unfreeze_epochs": AMOUNT,
    "train.epochs": SIZE,
    "train.batch_size": SIZE,
    "train.dtype": OneOf(lambda: _registry("DTYPES").names()),
    "train.balance_corpora": FLAG,
    "train.class_weighting": Number(0, 10),
    "train.leave_out": names("speaker", "corpus"),
    "train.select": OneOf(_metrics),
    "train.label_smoothing": DROPOUT,
    "train.contrastive": AMOUNT,
    "train.start": names("random", "ridge"),
    "train.temperature": Number(0, above=True),
    "train.projection": SIZE,
    "train.ema": DROPOUT,
    "train.population": COUNT,
    "train.save_epochs": SIZE,
    "evaluate.speeds": SPEEDS,
    "evaluate.unsure": SHARE,
    "evaluate.band_shifts": Each(Number(-10, 10), example="(-1.0, 0.0, 1.0)"),
    "crossval.candidates": Table(),
    "crossval.inner_share": Number(0.001, 0.9, or_zero=True),
    "crossval.final": FLAG,
    "crossval.choose_epoch": FLAG,
    "crossval.calibrate": FLAG,
    "crossval.workers": COUNT,
    "crossval.shared": FLAG,
    "crossval.permute_labels": whole(0, 2**32 - 1),
    "log.mlflow": TEXT,
    "report.html": FLAG,
    "report.audio": FLAG,
    "fit.members": names("ensemble", "best"),
    "fit.licence": TEXT,
    "sweep.space": Table(),
    "sweep.trials": SIZE,
    "sweep.batch": SIZE,
    "sweep.startup_trials": COUNT,
    "sweep.prune_after_epochs": COUNT,
}
