"""Rows, buckets and the statistics that come from training clips alone."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emoflax.audio.frontend import LogMel
from emoflax.data import dataset as data
from emoflax.data.clip import Clip, Corpus
from emoflax.data.features import Features, build_vocabulary, logmel_statistics
from emoflax.experiment.features import SCORED

OPTIONS = {"max_tokens": 50, "batch_size": 4, "buckets": 3}


class Shards:
    """What Features needs of a ShardSet, in memory."""

    def __init__(self, ids, sequences, lexicon=None):
        self.ids, self._sequences, self.digests = tuple(ids), sequences, tuple(ids)
        self.lengths = np.array([len(sequence) for sequence in sequences])
        self.manifest = {"settings": {}} | ({"lexicon": lexicon} if lexicon else {})

    def __getitem__(self, row):
        return self._sequences[row]


def features_of(logmels, labels="ab"):
    clips = [Clip(str(i), labels[i % 2], f"s{i % 3}") for i in range(len(logmels))]
    return Features(Corpus("c", tuple(labels), tuple(clips)), {"logmel": Shards([c.id for c in clips], logmels)})


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=40), st.integers(1, 5), st.integers(1, 7))
def test_every_frame_of_every_clip_is_in_some_row_and_padding_is_zero(lengths, buckets, batch_size):
    logmels = [np.full((n, 3), i + 1, np.float32) + np.arange(n)[:, None] / 128 for i, n in enumerate(lengths)]
    dataset = data.from_arrays(
        logmels, None, np.zeros(len(lengths), np.int32),
        max_frames=37, max_tokens=5, batch_size=batch_size, buckets=buckets,
    )  # fmt: skip
    seen = [set() for _ in lengths]
    weight = np.zeros(len(lengths))
    for bucket, clips in zip(dataset.buckets, dataset.row_clips, strict=True):
        rows = jax.tree.map(np.asarray, bucket.rows)
        assert bucket.batch_size <= batch_size
        for logmel, frames, clip, w in zip(rows.logmel, rows.frames, clips, rows.weight, strict=True):
            assert not logmel[frames:].any()
            seen[clip] |= {round((float(v) - clip - 1) * 128) for v in logmel[:frames, 0]}
            weight[clip] += w
    assert all(seen[i] == set(range(n)) for i, n in enumerate(lengths))
    np.testing.assert_allclose(weight, 1, rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 4), st.integers(1, 7))
def test_no_other_buckets_of_texts_would_compute_less_padding(lengths, buckets, batch_size):
    texts = [np.full(n, i + 1, np.int32) for i, n in enumerate(lengths)]
    labels = np.zeros(len(lengths), np.int32)
    options = {"max_frames": 1, "max_tokens": 40, "batch_size": batch_size, "buckets": buckets}
    made = data.from_arrays(None, texts, labels, **options)
    assert sorted(np.concatenate(made.row_clips)) == list(range(len(lengths)))
    assert len(made.buckets) == 1 or all(len(bucket) >= batch_size for bucket in made.buckets)
    computed = sum(len(bucket) * bucket.rows.tokens.shape[1] for bucket in made.buckets)
    width, most = 8 * -(-np.array(lengths) // 8), 8 * -(-max(lengths) // 8)
    for inner in itertools.chain(*(itertools.combinations(range(8, most, 8), n) for n in range(buckets))):
        ends = np.array([*inner, most])
        sizes = np.bincount(np.searchsorted(ends, width), minlength=len(ends))
        if len(ends) == 1 or sizes.min() >= batch_size:
            assert computed <= (sizes * ends).sum()


def test_of_recordings_few_of_which_are_long_buckets_compute_less_padding_than_one_block():
    rng = np.random.default_rng(0)
    logmels = [np.ones((n, 2), np.float32) for n in rng.lognormal(4, 0.4, 64).astype(int)]
    padded = [
        sum(
            bucket.rows.logmel.shape[0] * bucket.rows.logmel.shape[1]
            for bucket in data.from_arrays(
                logmels, None, np.zeros(64, np.int32), max_frames=500, max_tokens=5, batch_size=8, buckets=buckets
            ).buckets
        )
        for buckets in (1, 4)
    ]
    assert padded[1] < 0.7 * padded[0]


def test_dev_and_test_clips_of_a_fold_are_scored_by_one_program_whatever_their_number():
    rng = np.random.default_rng(2)
    shapes = set()
    for clips in (70, 90, 128):
        logmels = [np.ones((n, 2), np.float32) for n in rng.integers(40, 60, clips)]
        options = {"max_frames": 99, "max_tokens": 5, "batch_size": 16, "buckets": 1, "shapes": SCORED}
        (bucket,) = data.from_arrays(logmels, None, np.zeros(clips, np.int32), **options).buckets
        shapes.add((bucket.rows.logmel.shape, bucket.batch_size, bucket.most_steps))
    assert len(shapes) == 1


def test_statistics_come_from_the_training_clips_alone():
    rng = np.random.default_rng(1)
    logmels = [rng.normal(i, 2, (11, 3)).astype(np.float32) for i in range(6)]
    train = np.array([0, 2, 3])
    mean, std = logmel_statistics(features_of(logmels), train)
    poisoned = [x if i in train else x * np.nan for i, x in enumerate(logmels)]
    again = logmel_statistics(features_of(poisoned), train)
    np.testing.assert_array_equal((mean, std), again)
    frames = np.concatenate([logmels[i] for i in train])
    np.testing.assert_allclose(mean, frames.mean(0), rtol=1e-5)
    np.testing.assert_allclose(std, frames.std(0), rtol=1e-4)


def test_the_vocabulary_is_built_on_training_clips_and_the_rest_is_unknown():
    lexicon = ["a", "b", "c"]
    ids = ["0", "1", "2"]
    tokens = [np.array([0, 0, 1], np.int32), np.array([0, 1, 1], np.int32), np.array([2, 2, 2, 1], np.int32)]
    corpus = Corpus("c", ("x",), tuple(Clip(i, "x", "s") for i in ids))
    features = Features(corpus, {"tokens": Shards(ids, tokens, lexicon)})
    vocabulary = build_vocabulary(features, np.array([0, 1]), min_count=2)
    assert vocabulary == ("a", "b")
    dataset = data.load(features, np.array([2]), max_frames=9, vocabulary=vocabulary, **OPTIONS)
    row = jax.tree.map(np.asarray, dataset.buckets[0].rows)
    assert row.tokens[0, :4].tolist() == [data.UNK, data.UNK, data.UNK, 3] and row.n_tokens[0] == 4


def test_a_clip_without_a_transcript_stays_with_a_sound_beside_it_as_a_row_without_words():
    corpus = Corpus("c", ("x",), tuple(Clip(i, "x", "s") for i in "012"))
    sounds = Shards("012", [np.full((n, 2), n, np.float32) for n in (3, 4, 5)])
    words = Shards("02", [np.array([1, 0], np.int32), np.array([1], np.int32)], ["a", "b"])
    both, alone = Features(corpus, {"logmel": sounds, "tokens": words}), Features(corpus, {"tokens": words})
    everyone = np.arange(3)
    assert both.readable(everyone).tolist() == [0, 1, 2] and alone.readable(everyone).tolist() == [0, 2]
    assert build_vocabulary(both, everyone, min_count=1) == ("a", "b")
    dataset = data.load(both, everyone, max_frames=9, vocabulary=("a", "b"), **OPTIONS)
    rows = jax.tree.map(np.asarray, dataset.buckets[0].rows)
    assert rows.frames.tolist() == [3, 4, 5] and rows.n_tokens.tolist() == [2, 0, 1]
    silent = Features(corpus, {"logmel": Shards("02", [np.ones((3, 2), np.float32)] * 2), "tokens": sounds})
    assert silent.readable(everyone).tolist() == [0, 2]  # a sound that cannot be read is missed in training


def test_a_clip_without_words_is_one_unknown_word():
    dataset = data.from_arrays(None, [np.array([], np.int32)], np.zeros(1, np.int32), max_frames=9, **OPTIONS)
    row = jax.tree.map(np.asarray, dataset.buckets[0].rows)
    assert row.tokens[0, 0] == data.UNK and row.n_tokens[0] == 1


def test_class_weights_make_every_class_count_the_same():
    labels = np.array([0] * 10 + [1] * 5 + [3])
    weights = data.class_weights(labels, 4, power=1.0)
    totals = np.bincount(labels, weights[labels], 4)
    assert totals[0] == pytest.approx(totals[1]) == pytest.approx(totals[3])
    assert weights[labels].mean() == pytest.approx(1)
    assert data.class_weights(labels, 4, power=0.0)[labels].tolist() == [1.0] * len(labels)


def test_the_rows_of_a_clip_share_the_weight_of_its_class():
    rng = np.random.default_rng(3)
    logmels = [np.ones((n, 2), np.float32) for n in rng.integers(1, 90, 20)]
    labels, weights = rng.integers(0, 3, 20).astype(np.int32), np.array([0.5, 1.0, 4.0], np.float32)
    dataset = data.from_arrays(logmels, None, labels, max_frames=30, weights=weights[labels], **OPTIONS)
    clip = np.concatenate(dataset.row_clips)
    weight = np.concatenate([np.asarray(bucket.rows.weight) for bucket in dataset.buckets])
    assert len(clip) > 20
    np.testing.assert_allclose(np.bincount(clip, weight), weights[labels], rtol=1e-6)


def test_rows_belong_to_the_clips_that_were_asked_for_with_their_sounds_and_labels():
    features = features_of([np.full((n, 2), n, np.float32) for n in (5, 50, 11, 23, 8, 17)], labels="ab")
    wanted = np.array([4, 1, 3, 5])
    dataset = data.load(features, wanted, max_frames=20, vocabulary=(), **OPTIONS)
    assert dataset.clips.tolist() == wanted.tolist()
    for bucket, places in zip(dataset.buckets, dataset.row_clips, strict=True):
        rows = jax.tree.map(np.asarray, bucket.rows)
        for position, logmel, label in zip(dataset.clips[places], rows.logmel, rows.label, strict=True):
            assert logmel[0, 0] == features.lengths("logmel", [position])[0]
            assert features.corpus.labels[label] == features.corpus.clips[position].label


def test_every_row_of_a_waveform_has_the_scale_of_its_clip():
    frontend = LogMel(16_000, 64.0, 16.0, 4, 50.0, 8000.0)
    waves = [np.full(n, n, np.int16) for n in (3000, 9000, 700, 12_000)]
    scales = np.array([0.5, 2.0, 8.0, 0.25], np.float32)
    dataset = data.from_arrays(
        waves, None, np.zeros(4, np.int32), max_frames=20, frontend=frontend, scales=scales, **OPTIONS
    )
    clip = np.concatenate(dataset.row_clips)
    assert len(clip) > 4
    scale = np.concatenate([np.asarray(bucket.rows.scale) for bucket in dataset.buckets])
    np.testing.assert_array_equal(scale, scales[clip])


def test_clips_that_precompute_could_not_read_are_left_out():
    features = features_of([np.ones((5, 2), np.float32)] * 4)
    features = Features(features.corpus, {"logmel": Shards(["0", "2", "3"], [np.ones((5, 2), np.float32)] * 3)})
    assert features.readable(np.array([0, 1, 3])).tolist() == [0, 3]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_balanced_corpora_weigh_the_same_and_their_classes_as_the_power_says(power):
    labels = np.array([0] * 9 + [1] * 1 + [0] * 2 + [1] * 3 + [2] * 25)
    corpora = ["a"] * 10 + ["b"] * 30
    weights = data.clip_weights(labels, 3, power, corpora)
    of = np.array(corpora)
    assert weights.mean() == pytest.approx(1)
    assert weights[of == "a"].sum() == pytest.approx(weights[of == "b"].sum())
    if power == 1:
        assert weights[:9].sum() == pytest.approx(weights[9])
        assert weights[10:12].sum() == pytest.approx(weights[15:].sum())
    np.testing.assert_allclose(data.clip_weights(labels, 3, power), data.class_weights(labels, 3, power)[labels])
