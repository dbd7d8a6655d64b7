"""Normalisation by speaker: its scale, whose recordings it needs, and the separate name of its protocol."""

import dataclasses

import numpy as np
import pytest
from test_data import OPTIONS, Shards
from test_splits import NO_LISTS, corpus_of

from emoflax.configs import tiny
from emoflax.data import dataset as data
from emoflax.data import speakernorm, splits
from emoflax.data.clip import Clip, Corpus
from emoflax.data.features import Features, permute_labels
from emoflax.errors import UserError
from emoflax.experiment import features as experiment_features
from emoflax.inference import utterances
from emoflax.reporting import ledger
from emoflax.reporting.metrics import METRICS

SPEAKERS = ("a", "a", "b", "a", "b", "b")


def features_of(kind="logmel", own_scale="speaker", change=lambda speaker, x: x):
    rng = np.random.default_rng(2)
    sequences = [rng.normal(-40, 9, (n, 3)).astype(np.float32) for n in (7, 12, 9, 5, 30, 2)]
    sequences = [change(speaker, x) for speaker, x in zip(SPEAKERS, sequences, strict=True)]
    clips = tuple(Clip(str(i), "xy"[i % 2], speaker) for i, speaker in enumerate(SPEAKERS))
    shards = {kind: Shards([clip.id for clip in clips], sequences)}
    return Features(Corpus("c", ("x", "y"), clips), shards, own_scale)


@pytest.mark.parametrize("kind", speakernorm.KINDS)
def test_a_voice_that_is_louder_and_livelier_is_the_same_and_no_other_speaker_has_a_say(kind):
    features = features_of(kind)
    changed = features_of(kind, change=lambda speaker, x: 2 * x + 30 if speaker == "a" else x)
    for position in range(len(SPEAKERS)):
        np.testing.assert_allclose(changed.get(kind, position), features.get(kind, position), atol=1e-3)
    spoken = np.concatenate([features.get(kind, i) for i, speaker in enumerate(SPEAKERS) if speaker == "b"])
    np.testing.assert_allclose([spoken.mean(0), spoken.std(0)], [[0] * 3, [10] * 3], atol=1e-3)
    plain = features_of(kind, own_scale="")
    assert not np.allclose(plain.get(kind, 0), features.get(kind, 0))


@pytest.mark.parametrize("kind", speakernorm.KINDS)
def test_a_corpus_recorded_louder_is_the_same_and_its_speakers_keep_their_differences(kind):
    def by_corpus(change=lambda speaker, x: x):
        features = features_of(kind, "corpus", change)
        clips = tuple(dataclasses.replace(clip, corpus=f"c{clip.speaker}") for clip in features.corpus.clips)
        return Features(dataclasses.replace(features.corpus, clips=clips), features.shards, "corpus")

    features, louder = by_corpus(), by_corpus(lambda speaker, x: 3 * x + 10 if speaker == "a" else x)
    for position in range(len(SPEAKERS)):
        np.testing.assert_allclose(louder.get(kind, position), features.get(kind, position), atol=1e-3)
    one = features_of(kind, "corpus")  # one corpus of two speakers: one scale
    spoken = np.concatenate([one.get(kind, i) for i in range(len(SPEAKERS))])
    np.testing.assert_allclose([spoken.mean(0), spoken.std(0)], [[0] * 3, [10] * 3], atol=1e-3)


def test_labels_have_no_influence_on_the_scale():
    features = features_of()
    shuffled = permute_labels(features, np.arange(6), 1)
    assert shuffled.corpus != features.corpus
    np.testing.assert_array_equal(shuffled.get("logmel", 4), features.get("logmel", 4))


def test_what_never_changes_becomes_zero():
    level = speakernorm.level_of([np.full((4, 2), 7.1, np.float32), np.full((3, 2), 7.1, np.float32)])
    np.testing.assert_allclose(level(np.full((1, 2), 7.1, np.float32)), 0, atol=1e-3)


@pytest.mark.parametrize("suffix", speakernorm.SUFFIXES)
@pytest.mark.parametrize("protocol", ["speakers5", "random5", "loso"])
def test_the_protocol_has_the_folds_of_the_one_it_is_named_after_and_says_what_it_needs(protocol, suffix):
    corpus = corpus_of([f"s{i}" for i in range(7)])
    name = splits.resolve_protocol(f"{protocol}{suffix}", corpus)
    assert splits.parse_folds("all", name, corpus) == splits.parse_folds("all", protocol, corpus)
    ours, plain = (splits.make_split(corpus, p, 2, 0.2, NO_LISTS) for p in (name, protocol))
    assert all(np.array_equal(getattr(ours, part), getattr(plain, part)) for part in ("train", "dev", "test"))
    splits.check_leakage(ours, corpus, {})
    assert ours.protocol == name and speakernorm.NOTES[suffix] in ours.note and plain.note in ours.note
    assert splits.resolve_protocol(f"auto{suffix}", corpus) == f"speakers5{suffix}"


@pytest.mark.parametrize("suffix", speakernorm.SUFFIXES)
def test_results_have_a_table_of_their_own(suffix):
    scores = {"mean": 0.5, "low": 0.4, "high": 0.6, "spread": 0.0}
    facts = {"config": "x", "corpus": "c", "seeds": [0], "ensemble": 1, "command": "python", "minutes": 1.0,
             "commit": "", "machine": "m", "date": "d"}  # fmt: skip
    protocols = ("speakers5", f"speakers5{suffix}")
    entries = [facts | scores | {"protocol": p, "metric": name} for p in protocols for name in METRICS]
    plain, normed = ledger.tables(entries).split(f"`speakers5{suffix}`")
    assert speakernorm.NOTES[suffix] in normed and speakernorm.NOTES[suffix] not in plain


@pytest.mark.parametrize("fields", [{"data.store": "wave"}, {"audio.frontend": "whisper"},
                                    {"model.audio": "", "model.text": "gru"}])  # fmt: skip
def test_what_it_cannot_normalise_is_refused(fields):
    config = tiny.get_config()
    config.split.protocol = "speakers5+speakernorm"
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=r"config\.split\.protocol='speakers5\+speakernorm'"):
        experiment_features.features_of(config, corpus_of(["s"], path="none.wav"))


def test_recordings_to_predict_count_as_one_speaker_s_and_a_single_one_is_refused():
    features, plain = features_of(), features_of(own_scale="")
    mine = [i for i, speaker in enumerate(SPEAKERS) if speaker == "a"]
    spoken = [utterances.Utterance(str(i), plain.get("logmel", i), []) for i in mine]
    wordy = utterances.Utterance("words.txt", np.zeros((0, 3), np.float32), ["hello"])
    normalised = utterances.of_one_speaker([*spoken, wordy])
    for one, position in zip(normalised, mine, strict=False):
        np.testing.assert_allclose(one.logmel, features.get("logmel", position), atol=1e-4)
    assert normalised[-1] == dataclasses.replace(wordy, logmel=normalised[-1].logmel) and not len(normalised[-1].logmel)
    with pytest.raises(UserError, match="give more of that speaker's recordings"):
        utterances.of_one_speaker([spoken[0], wordy])


def test_rows_on_the_device_are_on_their_speaker_s_scale():
    features = features_of()
    dataset = data.load(features, np.arange(6), max_frames=99, vocabulary=(), **OPTIONS)
    frames = np.concatenate([np.asarray(bucket.rows.logmel) for bucket in dataset.buckets], axis=0).sum()
    assert abs(frames) < 0.1  # a mean of 0 for each speaker; padding is 0
