"""A bundle of models of a pretrained encoder's states holds the encoder, and predicts where its weights are not."""

import json
import shutil

import numpy as np
import pytest
import tiny_whisper

import emoflax
from emoflax.configs import whisper_states
from emoflax.corpora import licences, synthetic
from emoflax.data import splits
from emoflax.errors import UserError
from emoflax.experiment import checks, closed_form
from emoflax.experiment.corpus import corpus_of
from emoflax.experiment.features import features_of
from emoflax.experiment.members import Member
from emoflax.inference import bundle, model, sources
from emoflax.reporting import calibration
from emoflax.selection import fit
from emoflax.training import checksums


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(bundle of one model, bundle of two that share the encoder, a recording, its probabilities, config, corpus)."""
    folder = tmp_path_factory.mktemp("states")
    weights = tiny_whisper.write(folder / "tiny.pt", audio_layers=2, weight_scale=0.3)
    synthetic.make(folder / "voices", speakers=3, clips_per_emotion=1)
    config = whisper_states.get_config()
    config.data.update(corpus="synthetic", dir=str(folder / "voices"), cache_dir=str(folder / "cache"))
    config.states.update(weights=str(weights), layers=(1, 2), silence_s=0.2)
    config.functionals.speeds, config.precompute.workers = (1.0, 0.9), 1
    checks.prepare(config)
    corpus = corpus_of(config)
    trained = Member(0, splits.everyone(corpus, "loso"), folder / "model")
    closed_form.train_member(config, features_of(config, corpus), trained)
    members, _ = sources.members_of(trained.folder)
    alone = model.Model(members, {}, "")
    (expected,) = alone.predict(corpus.clips[0].path)
    index = {"name": "states", "notice": "", "corpus": corpus.name, "emoflax": emoflax.__version__}
    bundle.write(folder / "one", members, index, "", model.check_signal(alone))
    two = [type(members[0])(name, 0.5, members[0].trained) for name in ("a", "b")]
    bundle.write(folder / "two", two, index, "", model.check_signal(model.Model(two, {}, "")))
    weights.unlink()
    closed_form._encoder.cache_clear()
    return folder / "one", folder / "two", corpus.clips[0].path, expected, config, corpus


def test_it_predicts_what_the_checkpoint_did_without_the_weights_that_were_published(made):
    one, _, path, expected, *_ = made
    (prediction,) = emoflax.load(one).predict(path)
    assert prediction.probabilities == pytest.approx(expected.probabilities, abs=1e-6)


def test_a_model_by_itself_is_calibrated_and_an_ensemble_is_mixed_as_it_was_weighed(made):
    one, two, path, *_ = made
    alone, both = emoflax.load(one), emoflax.load(two)
    temperature = calibration.temperature_of(alone.members[0].trained.description)
    assert abs(temperature - 1) > 0.01
    calibrated, mixed = (np.log(list(each.predict(path)[0].probabilities.values())) for each in (alone, both))
    np.testing.assert_allclose(calibration.tempered(mixed[None], temperature)[0], calibrated, atol=1e-5)


def test_members_share_the_encoder_and_no_path_of_the_machine_is_in_the_bundle(made):
    one, two, *_ = made
    for folder in (one, two):
        assert len(list((folder / "encoders").iterdir())) == 1
    for path in one.rglob("*"):
        assert not path.is_file() or str(one.parent).encode() not in path.read_bytes(), path


@pytest.mark.parametrize("place", ["", "/etc", "encoders/../../elsewhere"])
def test_an_encoder_elsewhere_is_refused(made, tmp_path, place):
    copy = shutil.copytree(made[0], tmp_path / "copy")
    (description,) = (copy / "members").glob("*.json")
    content = json.loads(description.read_text())
    content["config"]["states"]["weights"] = place
    description.write_text(json.dumps(content))
    (copy / checksums.NAME).unlink()
    checksums.write(copy)
    with pytest.raises(UserError, match="has no encoder at"):
        emoflax.load(copy)


def test_the_card_names_the_encoder_and_its_licence(made):
    *_, config, corpus = made
    chosen = fit.Chosen({config.name: 1.0}, {config.name: None}, {}, None)
    config.states.update(weights=str(next((made[0] / "encoders").iterdir())))
    index = fit.index_of(config, corpus, chosen, {})
    assert index["pretrained"] == ["whisper"]
    assert licences.licence_of_weights("whisper") in index["licences"] and "MIT" in index["licences"][0]
