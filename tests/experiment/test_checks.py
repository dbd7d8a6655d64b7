"""Every field has a range; what cannot be is refused, before anything is computed, in one sentence that names it."""

import re

import packaged_weights
import pytest

from emoflax import command_line
from emoflax.configs import ablation, cnn2, default, functionals, fusion_early, opensmile, tiny, whisper
from emoflax.errors import UserError
from emoflax.experiment import checks, config_files
from emoflax.experiment.fields import ALLOWED
from emoflax.experiment.kinds import Each, Number
from emoflax.selection.candidates import override

NAN, INF = float("nan"), float("inf")


def refused(config, check=checks.prepare) -> str:
    """The sentence; fails if there is none, or more than one line."""
    with pytest.raises(UserError) as raised:
        check(config)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def changed(make=tiny.get_config, **fields):
    """A config with dotted fields set past ConfigDict's own check of types, as a config file can."""
    config = make()
    with config.ignore_type():
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return config


def test_every_field_of_the_default_has_what_it_may_hold_and_there_is_nothing_else():
    assert set(checks.leaves(default.get_config())) == set(ALLOWED)


def test_every_number_has_a_range_and_none_may_be_nan_or_infinite():
    for field, value in checks.leaves(default.get_config()).items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_numbers = isinstance(value, tuple) and value and not isinstance(value[0], str)
        if is_number:
            assert isinstance(ALLOWED[field], Number), field
            assert ALLOWED[field].whole == isinstance(value, int), field
        if is_numbers:
            assert isinstance(ALLOWED[field], Each) and isinstance(ALLOWED[field].kind, Number), field
        for wrong in (NAN, INF, -INF) if is_number else ((NAN,), (INF,)) if is_numbers else ():
            assert not ALLOWED[field].allows(wrong), field


@pytest.mark.parametrize("name", config_files.names())
def test_every_packaged_config_passes(name, tmp_path):
    config = config_files.load(name)
    packaged_weights.put(config, tmp_path)
    checks.prepare(config)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("train.batch_size", (0, -4, 1.5, "16", True, None)),
        ("train.save_epochs", (0, -1)),
        ("train.epochs", (0, "abc")),
        ("train.label_smoothing", (2.0, 1.0, -0.1)),
        ("train.ema", (1.0, 1, -0.5)),
        ("train.temperature", (0.0,)),
        ("train.select", ("uarr", "")),
        ("train.dtype", ("float8x", "float64")),
        ("seeds", ((), (-1,), (1.5,), (1, 1), ("a",), (2**32,), 3, (True,))),
        ("profile_steps", ((3,), (4, 2), (-1, 2), (2, 2))),
        ("split.fold", ("²", "0", "-1", "1.0", "", "every", "１")),
        ("split.dev_share", (1e-320, NAN, -0.5, 1.0)),
        ("split.protocol", ("emobox7", "+speakernorm", "", "loco+speakernorm+corpusnorm")),
        ("data.labels", ({"calm": 3}, {"calm": ""})),
        ("data.emotions", (("happy", "happy"),)),
        ("data.max_s", (0, NAN, INF, -1)),
        ("data.buckets", (0,)),
        ("data.corpus", ("tfds:", "ravdes", "", "ravdess,ravdes", "ravdess,", "ravdess,tfds:")),
        ("data.store", ("mp3",)),
        ("data.cache_dir", ("",)),
        ("audio.window_ms", (NAN, 0, INF)),
        ("audio.frontend", ("mfcc",)),
        ("audio.contours", (1, "yes")),
        ("functionals.speeds", ((), (3.0,), (NAN,), (1.0, 1.0))),
        ("functionals.kernels", (-1,)),
        ("functionals.feature_set", ("compare", "")),
        ("augment.time_masks", (-1, 0.5)),
        ("augment.noise", (1.5, -0.1)),
        ("augment.noise_snr_db", ((40.0, 5.0), (5.0,), (NAN, 5.0))),
        ("augment.wave.room_rt60_s", ((0.0, 0.6), (0.6, 0.1))),
        ("augment.wave.speed", (-1.0, 2.0)),
        ("text.engine", ("whisper",)),
        ("text.source", ("sound",)),
        ("text.whisper_batch", (0,)),
        ("precompute.shard_clips", (0,)),
        ("precompute.workers", (-1,)),
        ("precompute.runner", ("LocalRunner",)),
        ("precompute.max_bad_share", (1.5,)),
        ("states.batch", (0,)),
        ("probe.ridges", ((), (0.0,), (-1.0,), (NAN,))),
        ("model.audio", ("cnnn",)),
        ("model.fusion", ("", "both")),
        ("model.cnn.channels", ((), (0, 4), (4.0,), ("a",))),
        ("model.head", (-1,)),
        ("model.dropout", (1.5, 1.0, NAN)),
        ("model.pcen.root", (0.0,)),
        ("optimizer.learning_rate", (-1.0, INF, "fast")),
        ("optimizer.clip_norm", (-1.0,)),
        ("optimizer.warmup_epochs", (-2.0,)),
        ("optimizer.schedule", ("linear",)),
        ("optimizer.layer_decay", (0.0, 1.5)),
        ("evaluate.speeds", ((), (0.1,))),
        ("evaluate.band_shifts", ((), (11.0,))),
        ("crossval.inner_share", (NAN, 1.0, -0.25)),
        ("crossval.permute_labels", (-1,)),
        ("crossval.candidates", ({1: {}}, 3)),
        ("sweep.trials", (0,)),
        ("sweep.startup_trials", (-1,)),
        ("name", ("", "..", ".", "a/b", "../x", "a\\b", "a b", "x" * 101)),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_field_value_and_what_is_allowed(field, values):
    for value in values:
        config = changed(**{field: value})
        message, kept = refused(config, checks.check), checks.leaves(config)[field]  # a float, where 1 was given for it
        assert kept == value or value != value
        assert message == f"config.{field}={kept!r} must be {ALLOWED[field]}"


def test_ends_of_ranges_are_named_and_allowed():
    assert str(ALLOWED["train.batch_size"]) == "a whole number of at least 1"
    assert str(ALLOWED["split.dev_share"]) == "0 or a number from 0.001 to 0.9"
    assert str(ALLOWED["optimizer.layer_decay"]) == "a number above 0 and at most 1"
    assert str(ALLOWED["model.dropout"]) == "a number of at least 0 and below 1"
    assert str(ALLOWED["train.temperature"]) == "a number above 0"
    for field, value in {"split.dev_share": 0, "optimizer.layer_decay": 1, "model.dropout": 0.0, "seeds": (2**32 - 1,),
                         "seeds ": [0, 1], "data.corpus": "tfds:crema_d", "split.protocol": "auto+speakernorm",
                         "data.corpus ": "ravdess, tess,tfds:crema_d", "split.protocol ": "loco+corpusnorm",
                         "data.labels": {"calm": "neutral", "bored": None},
                         "split.fold": "12", "precompute.runner": "", "profile_steps": ()}.items():  # fmt: skip
        assert ALLOWED[field.strip()].allows(value), field


def test_more_mel_bands_than_the_fft_can_fill_are_refused_and_the_most_that_it_can_is_named():
    message = refused(changed(cnn2.get_config, **{"audio.mels": 2000}))
    most = int(re.search(r"audio.mels=2000 must be at most (\d+):", message)[1])
    checks.prepare(changed(cnn2.get_config, **{"audio.mels": most}))
    refused(changed(cnn2.get_config, **{"audio.mels": most + 1}))
    assert 300 < most < 500  # 1024 points at 16 kHz: 15.6 Hz apart, bands below 1 kHz two spacings wide
    checks.prepare(changed(whisper.get_config))  # other front ends' bands are what weights were trained on


def test_the_most_mel_bands_are_those_that_librosa_can_fill():
    librosa = pytest.importorskip("librosa")
    config = changed(cnn2.get_config, **{"audio.mels": 600})
    most = checks.most_bands(config)

    def empty(mels):
        filters = librosa.filters.mel(sr=16000, n_fft=1024, n_mels=mels, fmin=50, fmax=8000)
        return (filters.max(axis=1) == 0).any()

    with pytest.warns(UserWarning, match="Empty filters"):
        assert not empty(most) and empty(most + 1)


@pytest.mark.parametrize(
    ("make", "fields", "words"),
    [
        (tiny.get_config, {"audio.fmax_hz": 9000.0}, "fmax_hz must be at most half the sample rate"),
        (tiny.get_config, {"audio.hop_ms": 80.0}, "hop_ms"),
        (
            whisper.get_config,
            {"model.whisper.heads": 3},
            "config.model.whisper.heads=3 must divide config.model.whisper",
        ),
        (fusion_early.get_config, {"model.early.heads": 3}, "config.model.early.heads=3 must divide"),
        (tiny.get_config, {"model.audio": "attention_cnn", "model.attention_cnn.kernel": 4}, "odd"),
        (tiny.get_config, {"augment.wave.noise": 0.5}, "config.augment.wave.noise acts on waveforms"),
        (tiny.get_config, {"augment.mixup": 0.5, "train.contrastive": 1.0}, "mixup"),
        (fusion_early.get_config, {"augment.mixup": 0.5}, "mixup"),
        (tiny.get_config, {"data.store": "wave", "audio.contours": True}, "contours"),
        (functionals.get_config, {"model.audio": "cnn"}, "model of its own"),
        (opensmile.get_config, {"functionals.kernels": 10}, "config.functionals.kernels=0"),
        (opensmile.get_config, {"functionals.statistics": False}, "config.functionals.statistics=True"),
        (
            fusion_early.get_config,
            {"model.modality_dropout.audio": 0.6, "model.modality_dropout.text": 0.6},
            "together",
        ),
        (tiny.get_config, {"model.pretrained.text": "folder"}, "names no encoder"),
    ],
)
def test_fields_that_exclude_each_other_are_refused(make, fields, words):
    assert words in refused(changed(make, **fields))


def test_heads_of_what_is_not_used_do_not_matter():
    checks.prepare(changed(tiny.get_config, **{"model.bert.heads": 3, "model.early.heads": 7}))


def test_a_candidate_is_named_with_its_field():
    config = ablation.get_config()
    config.crossval.candidates = {"good": {}, "bad": {"train.batch_size": 0}}
    assert refused(config) == "candidate bad: config.train.batch_size=0 must be a whole number of at least 1"
    config.crossval.candidates = {"bad": {"train.epoch": 3}}
    assert "candidate bad: config.train.epoch does not exist; did you mean config.train.epochs" in refused(config)
    config.crossval.candidates = {"bad": {"split.fold": "2"}}
    assert "must be the same for all candidates" in refused(config)
    config.crossval.candidates = {"bad": {"train": {"epochs": 2}}}
    assert "config.train is a group of fields" in refused(config)
    config.crossval.candidates = {"bad": 3}
    assert "candidate bad" in refused(config)
    for name in ("..", "a/b", ""):
        config.crossval.candidates = {name: {}}
        assert repr(name) in refused(config)


def test_a_candidate_whose_fields_exclude_each_other_is_named_when_it_is_made():
    with pytest.raises(UserError, match="candidate both: config.train.contrastive compares"):
        override(tiny.get_config(), "both", {"train.contrastive": 1.0, "augment.mixup": 0.5})


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"train.epoch": ("int", 1, 3)}, "config.train.epoch does not exist"),
        ({"model.dropout": ("uniform", 0.0, 1.5)}, "config.model.dropout=1.5 must be"),
        ({"train.batch_size": ("int", 0, 3)}, "config.train.batch_size=0 must be"),
        ({"model.cnn.channels": ("choice", (4, 8), ())}, "config.model.cnn.channels=() must be"),
        ({"name": ("choice", "a")}, "must be the same for all"),
        ({"train.epochs": 3}, "must be a tuple"),
    ],
)
def test_what_a_search_may_try_is_checked_before_it_begins(space, words):
    config = tiny.get_config()
    config.sweep.space = space
    message = refused(config)
    assert words in message and message.startswith("config.sweep.space[")


def test_a_field_that_a_config_file_misspells_is_named_with_the_close_ones():
    config = tiny.get_config()
    config.train.epoch = 3  # as a file can: ConfigDict adds what it does not know
    assert "config.train.epoch does not exist; did you mean config.train.epochs" in refused(config)
    config = tiny.get_config()
    del config.train.ema
    assert "config.train.ema" in refused(config)


def test_an_encoder_of_somebodys_own_may_have_fields_of_its_own():
    config = tiny.get_config()
    config.model.mine = {"width": 3}
    checks.prepare(config)


def test_old_fields_are_gone_and_say_what_to_do():
    for field, text in checks.OLD_FIELDS.items():
        assert field not in ALLOWED
        config = changed(**{})
        config.update_from_flattened_dict({field: 8})
        assert text in refused(config) and f"config.{field}" in refused(config)


def test_a_checkpoint_that_sets_an_old_field_is_refused_and_a_newer_field_has_its_default():
    values = tiny.get_config().to_dict()
    del values["train"]["ema"]
    assert checks.config_of(values).train.ema == default.get_config().train.ema
    assert checks.config_of(values).name == "tiny"
    values["model"]["aligned"]["rivals"] = 8
    with pytest.raises(UserError, match="rivals does not exist any more"):
        checks.config_of(values)


def test_labels_are_written_on_the_command_line_as_in_python():
    parse = command_line.DictParser().parse
    assert parse("{'calm': 'neutral', 'bored': None}") == {"calm": "neutral", "bored": None}
    for text in ("calm=neutral", "('calm',)", "{'calm'", "__import__('os')"):
        with pytest.raises(ValueError, match="must be a dictionary"):
            parse(text)
