"""A closed-form model of a sentence encoder's states: one path from words to states, for training and predictions."""

import shutil

import hugging_face
import numpy as np
import pytest
import torch

import emoflax
from emoflax.configs import text_states
from emoflax.errors import UserError
from emoflax.experiment import checks, closed_form, evaluate
from emoflax.experiment.corpus import corpus_of
from emoflax.experiment.features import features_of
from emoflax.experiment.members import members
from emoflax.features.states import load, token_ids
from emoflax.inference import bundle, model, sources
from emoflax.selection import crossval

UTTERANCES = [
    ("Oh my god!", "a", "joy"),
    ("You are so crying.", "b", "sadness"),
    ("Don't go.", "c", "anger"),
    ("...", "a", "joy"),
    ("Go, go!", "b", "joy"),
    ("Oh.", "c", "anger"),
    ("So you are crying?", "a", "sadness"),
    ("Don't cry", "b", "sadness"),
]


@pytest.fixture(scope="module")
def meld(tmp_path_factory):
    folder = tmp_path_factory.mktemp("meld")
    lines = [f'"{line}",{speaker},{emotion},0,{i}\n' for i, (line, speaker, emotion) in enumerate(3 * UTTERANCES)]
    for split in ("train", "dev", "test"):
        head = "Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID\n"
        (folder / f"{split}_sent_emo.csv").write_text(head + "".join(lines))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    return folder, hugging_face.bert(folder)


def config_of(meld, weights, **fields):
    config = text_states.get_config()
    config.data.update(corpus="meld", dir=str(meld), cache_dir=str(meld / "cache"))
    config.states.update(weights=str(weights), batch=3, layers=())
    config.text.max_tokens = 12
    config.update_from_flattened_dict(fields)
    checks.prepare(config)
    return config


@pytest.fixture(scope="module")
def trained(meld, weights, tmp_path_factory):
    """(config, features, folder of a model, its predictions of the test utterances)."""
    config = config_of(meld, weights[0])
    corpus = corpus_of(config)
    features = features_of(config, corpus)
    (member,) = members(config, corpus, tmp_path_factory.mktemp("run"))
    closed_form.train_member(config, features, member)
    return config, features, member.folder, evaluate.predict_member(config, features, member)


def test_states_in_padded_batches_are_the_statistics_of_each_text_alone_by_transformers(trained, weights):
    config, features, *_ = trained
    corpus, states, theirs = features.corpus, features.shards["states"], weights[1]
    assert states.lengths.tolist() == [1] * len(corpus.clips) and not any(features.digests.values())
    lexicon = features.shards["tokens"].manifest["lexicon"]
    for place in range(len(UTTERANCES)):
        ids = [hugging_face.VOCABULARY.index(lexicon[token]) for token in features.get("tokens", place)]
        with torch.no_grad():
            hidden = theirs(torch.tensor([ids]), output_hidden_states=True).hidden_states
        wanted = np.stack([[h[0].mean(0), h[0].std(0, correction=0)] for h in hidden])
        assert hugging_face.relative_error(features.get("states", place)[0], wanted) < 1e-4


def test_a_text_without_a_token_is_one_unknown_word(weights, trained):
    encoder = load("bert", str(weights[0]), silence_s=0.0, parts=0, batch=2)
    (nothing,) = token_ids([[]], trained[0].text.tokenizer)
    assert nothing.tolist() == [1] and np.isfinite(encoder([nothing])).all()


def test_a_prediction_from_a_text_is_that_of_the_evaluation(trained, tmp_path):
    _, features, folder, tested = trained
    clips = [features.corpus.clips[i] for i in tested.clips[:4]]
    paths = [tmp_path / f"{number}.txt" for number in range(len(clips))]
    for path, clip in zip(paths, clips, strict=True):
        path.write_text(clip.text)
    one = emoflax.load(folder / "checkpoints")
    assert one.takes_text
    for prediction, log_p in zip(one.predict(paths), tested.log_p, strict=False):
        np.testing.assert_allclose(list(prediction.probabilities.values()), np.exp(log_p), atol=1e-5)
    noise = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    (predicted,) = one.predict([noise], 16_000, texts=[clips[0].text])  # the sound itself plays no part
    np.testing.assert_allclose(list(predicted.probabilities.values()), np.exp(tested.log_p[0]), atol=1e-5)


def test_a_bundle_predicts_where_the_encoders_folder_is_not_and_names_no_place(meld, weights, trained, tmp_path):
    copy = shutil.copytree(weights[0], tmp_path / "copy")
    members_of, _ = sources.members_of(trained[2])
    members_of[0].config.states.weights = str(copy)
    alone = model.Model(members_of, {}, "")
    index = {"name": "words", "notice": "", "corpus": "meld", "emoflax": emoflax.__version__}
    bundle.write(tmp_path / "bundle", members_of, index, "", model.check_signal(alone))
    (tmp_path / "line.txt").write_text(UTTERANCES[0][0])
    (expected,) = alone.predict(tmp_path / "line.txt")
    shutil.rmtree(copy)
    closed_form._encoder.cache_clear()
    (prediction,) = emoflax.load(tmp_path / "bundle").predict(tmp_path / "line.txt")
    assert prediction.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
    places = [str(folder).encode() for folder in (copy, weights[0], meld)]
    for path in (tmp_path / "bundle").rglob("*"):
        assert not path.is_file() or not any(place in path.read_bytes() for place in places), path


def test_candidates_with_other_statistics_have_features_of_their_own(meld, weights):
    shapes = [crossval.open_features(config_of(meld, weights[0], **{"states.parts": parts})).get("states", 0).shape
              for parts in (0, 2)]  # fmt: skip
    assert shapes == [(1, 3, 2, 24), (1, 3, 4, 24)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"functionals.speeds": (1.0, 0.9)}, "takes words, which have neither speeds nor disturbed copies"),
        ({"data.copies": 1}, "takes words, which have neither speeds nor disturbed copies"),
        ({"states.layers": (0, 3)}, "has layers 0 to 2"),
        ({"split.protocol": "meld+corpusnorm"}, "normalises sounds; this model takes none"),
        ({"states.weights": "nowhere"}, "there is no nowhere/config.json"),
    ],
)
def test_settings_without_sense_are_one_sentence(meld, weights, fields, message):
    with pytest.raises(UserError, match=message):
        config = config_of(meld, weights[0], **fields)
        features_of(config, corpus_of(config))
