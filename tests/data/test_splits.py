"""Protocols: which clips train, choose the epoch and test, for any corpus; leakage is refused."""

import dataclasses
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emoflax.corpora.joined import join
from emoflax.data import parts, splits
from emoflax.data.clip import Clip, Corpus
from emoflax.errors import UserError

NO_LISTS = {"train": (), "dev": (), "test": ()}
LABELS = ("angry", "calm", "sad")


def corpus_of(speakers, clips_each=6, name="voices", **fields):
    clips = [
        Clip(f"{speaker}/{i}", LABELS[i % 3], speaker, **fields) for speaker in speakers for i in range(clips_each)
    ]
    return Corpus(name, LABELS, tuple(clips))


def ravdess():
    return corpus_of([f"{actor:02d}" for actor in range(1, 25)], name="ravdess")


@pytest.mark.parametrize("protocol", ["emobox6", "luna5", "loso24", "speakers5", "random_split", "random5"])
@pytest.mark.parametrize("dev_share", [0.0, 0.15])
def test_a_fold_divides_all_clips_and_folds_test_each_clip_at_most_once(protocol, dev_share):
    corpus = ravdess()
    folds = splits.count_folds(protocol, corpus)
    tested = np.zeros(len(corpus.clips), int)
    for fold in range(1, folds + 1):
        split = splits.make_split(corpus, protocol, fold, dev_share, NO_LISTS)
        together = np.sort(np.concatenate([split.train, split.dev, split.test]))
        assert np.array_equal(together, np.arange(len(corpus.clips)))
        assert (len(split.dev) > 0) == (dev_share > 0)
        assert split.shares_speakers == protocol.startswith("random")
        tested[split.test] += 1
    assert tested.max() == 1
    assert tested.min() == (0 if protocol == "random_split" else 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 30), st.integers(1, 5), st.floats(0.01, 0.5))
def test_speaker_protocols_never_share_a_speaker_between_any_two_parts(count, fold, dev_share):
    corpus = corpus_of([f"s{i}" for i in range(count)], clips_each=3)
    split = splits.make_split(corpus, "speakers5", fold, dev_share, NO_LISTS)
    sides = [{corpus.clips[i].speaker for i in part} for part in (split.train, split.dev, split.test)]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]


def test_random_split_keeps_the_share_of_every_label():
    corpus = ravdess()
    split = splits.make_split(corpus, "random_split", 1, 0.0, NO_LISTS)
    assert len(split.test) == pytest.approx(len(corpus.clips) / 5, abs=3)
    for label in LABELS:
        share = np.mean([corpus.clips[i].label == label for i in split.test])
        assert share == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize(
    ("protocol", "published"),
    [
        ("emobox6", ["01 11 20 21", "04 10 12 14", "08 09 19 23", "03 05 07 24", "02 15 16 18", "06 13 17 22"]),
        ("luna5", ["02 05 14 15 16", "03 06 07 13 18", "10 11 12 19 20", "08 17 21 23 24", "01 04 09 22"]),
    ],
)
def test_the_folds_of_ravdess_have_the_published_actors(protocol, published):
    corpus = ravdess()
    made = [splits.make_split(corpus, protocol, fold + 1, 0.15, NO_LISTS).test for fold in range(len(published))]
    assert [" ".join(sorted({corpus.clips[i].speaker for i in test})) for test in made] == published


@pytest.mark.parametrize("dev_share", [0.05, 0.15, 0.25])
@pytest.mark.parametrize("protocol", ["emobox6", "luna5", "loso24", "loso", "speakers5"])
def test_over_all_folds_every_speaker_is_a_dev_speaker_about_equally_often(protocol, dev_share):
    corpus = ravdess()
    times = dict.fromkeys(corpus.speakers, 0)
    for fold in range(1, splits.count_folds(protocol, corpus) + 1):
        split = splits.make_split(corpus, protocol, fold, dev_share, NO_LISTS)
        for speaker in {corpus.clips[i].speaker for i in split.dev}:
            times[speaker] += 1
    assert max(times.values()) - min(times.values()) <= (0 if protocol.startswith("loso") else 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(6, 30), st.integers(1, 5), st.floats(0.05, 0.5))
def test_dev_speakers_are_the_share_of_the_training_speakers_that_was_asked_for(count, fold, dev_share):
    corpus = corpus_of([f"s{i}" for i in range(count)], clips_each=3)
    split = splits.make_split(corpus, "speakers5", fold, dev_share, NO_LISTS)
    train, dev = (len({corpus.clips[i].speaker for i in part}) for part in (split.train, split.dev))
    assert dev == max(1, round(dev_share * (train + dev)))


@pytest.mark.parametrize("dev_share", [0.1, 0.2, 0.25, 0.5])
def test_random_protocols_take_their_share_of_dev_clips_from_every_label(dev_share):
    corpus = ravdess()
    split = splits.make_split(corpus, "random5", 3, dev_share, NO_LISTS)
    for label in LABELS:
        train, dev = (sum(corpus.clips[i].label == label for i in part) for part in (split.train, split.dev))
        assert dev / (train + dev) == pytest.approx(dev_share, abs=0.03)


def test_auto_takes_the_corpus_own_split_where_it_has_one():
    assert splits.resolve_protocol("auto", ravdess()) == "emobox6"
    assert splits.resolve_protocol("auto", corpus_of("ab", split="train")) == "given"
    assert splits.resolve_protocol("auto", corpus_of("abcdef")) == "speakers5"
    assert splits.resolve_protocol("auto", corpus_of("abc")) == "loso"


@pytest.mark.parametrize(
    ("one", "other", "kinds"),
    [("train", "test", "test .* training"), ("train", "dev", "dev .* training"), ("dev", "test", "test .* dev")],
)
def test_an_identical_recording_in_two_parts_is_refused_and_named(one, other, kinds, caplog):
    corpus = corpus_of("abcdef")
    split = splits.make_split(corpus, "speakers5", 1, 0.2, NO_LISTS)
    digests = {clip.id: clip.id for clip in corpus.clips}
    splits.check_leakage(split, corpus, digests)
    assert not caplog.records
    first, second = (corpus.clips[getattr(split, part)[0]].id for part in (one, other))
    with pytest.raises(UserError, match=rf"(?s)1 {kinds} recordings .*{second} = {first}"):
        splits.check_leakage(split, corpus, digests | {second: first})


@pytest.mark.parametrize(
    ("one", "other", "kinds"),
    [("train", "test", "training and in test"), ("train", "dev", "training and in dev"), ("dev", "test", "dev and in")],
)
def test_a_speaker_in_two_parts_of_an_actor_disjoint_protocol_is_refused_and_named(one, other, kinds):
    corpus = corpus_of("abcdef")
    split = splits.make_split(corpus, "speakers5", 1, 0.2, NO_LISTS)
    moved = getattr(split, one)[:1]
    parts = {one: getattr(split, one)[1:], other: np.sort(np.concatenate([getattr(split, other), moved]))}
    split = dataclasses.replace(split, **parts, shares_speakers=other == "test")
    with pytest.raises(UserError, match=f"speakers {corpus.clips[moved[0]].speaker} are in {kinds}"):
        splits.check_leakage(split, corpus, {})


def test_identical_recordings_of_two_training_speakers_are_listed_in_a_warning(caplog):
    corpus = corpus_of("abcdef")
    split = splits.make_split(corpus, "speakers5", 1, 0.0, NO_LISTS)
    own, again = (corpus.clips[i] for i in split.train[:2])
    other = next(corpus.clips[i] for i in split.train if corpus.clips[i].speaker != own.speaker)
    splits.check_leakage(split, corpus, {own.id: "x", again.id: "x"})
    assert not caplog.records
    splits.check_leakage(split, corpus, {own.id: "x", other.id: "x"})
    assert "1 pairs of identical recordings have two speakers' names" in caplog.text
    assert f"{own.id} = {other.id}" in caplog.text


def given_corpus(train, test):
    parts = [corpus_of(train, split="train"), corpus_of(test, split="test")]
    return Corpus("given", LABELS, parts[0].clips + parts[1].clips)


def test_a_given_split_without_dev_takes_whole_training_speakers(caplog):
    corpus = given_corpus("abcdefgh", "xy")
    split = splits.make_split(corpus, "given", 1, 0.2, NO_LISTS)
    train, dev, test = ({corpus.clips[i].speaker for i in part} for part in (split.train, split.dev, split.test))
    assert test == {"x", "y"} and len(dev) == 2 and train == set("abcdefgh") - dev
    assert len(split.train) + len(split.dev) == 8 * 6
    splits.check_leakage(split, corpus, {})
    assert not caplog.records
    assert len(splits.make_split(corpus, "given", 1, 0.0, NO_LISTS).dev) == 0


def test_a_given_split_takes_single_dev_clips_where_speakers_are_too_few_and_says_so(caplog):
    corpus = given_corpus("ab", "x")
    split = splits.make_split(corpus, "given", 1, 0.2, NO_LISTS)
    assert 0 < len(split.dev) < 6
    splits.check_leakage(split, corpus, {})
    assert "the epoch is chosen on speakers who train as well (a, b)" in caplog.text


def test_a_speaker_whom_training_needs_for_a_label_or_with_most_of_the_clips_is_no_dev_speaker():
    clips = [Clip(f"only/{i}", "sad", "only", split="train") for i in range(6)]
    clips += [Clip(f"most/{i}", "calm", "most", split="train") for i in range(60)]
    clips += [Clip(f"{s}/{i}", LABELS[i], s, split="train") for s in "ab" for i in range(2)]
    clips += [Clip("x/0", "sad", "x", split="test")]
    corpus = Corpus("given", LABELS, tuple(clips))
    for dev_share in (0.02, 0.15, 0.3):
        split = splits.make_split(corpus, "given", 1, dev_share, NO_LISTS)
        dev = {corpus.clips[i].speaker for i in split.dev}
        assert dev and not dev & {"only", "most"}


def test_a_corpus_own_dev_clips_are_kept():
    corpus = given_corpus("abc", "x")
    own = dataclasses.replace(corpus, clips=corpus.clips + corpus_of("d", split="dev").clips)
    split = splits.make_split(own, "given", 1, 0.2, NO_LISTS)
    assert {own.clips[i].speaker for i in split.dev} == {"d"} and len(split.train) == 18


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({"train": (), "dev": (), "test": ()}, "test_speakers is empty"),
        ({"train": (), "dev": (), "test": ("zoe",)}, "no speaker zoe"),
        ({"train": ("a",), "dev": (), "test": ("a",)}, "both train and test"),
        ({"train": (), "dev": ("b",), "test": ("b",)}, "both dev and test"),
    ],
)
def test_wrong_speaker_lists_are_explained(lists, words):
    with pytest.raises(UserError, match=words):
        splits.make_split(corpus_of("abcdef"), "lists", 1, 0.15, lists)


def test_listed_speakers_define_the_parts():
    corpus = corpus_of("abcdef")
    lists = {"train": ("a", "b"), "dev": ("c",), "test": ("d",)}
    split = splits.make_split(corpus, "lists", 1, 0.15, lists)
    sides = [{corpus.clips[i].speaker for i in part} for part in (split.train, split.dev, split.test)]
    assert sides == [{"a", "b"}, {"c"}, {"d"}]


@pytest.mark.parametrize(
    ("protocol", "speakers", "words"),
    [("speakers5", "abc", "at least 5 speakers"), ("emobox6", "abcdef", "24 actors"), ("given", "abc", "split column")],
)
def test_a_corpus_that_does_not_fit_the_protocol_is_refused(protocol, speakers, words):
    with pytest.raises(UserError, match=words):
        splits.make_split(corpus_of(speakers), protocol, 1, 0.15, NO_LISTS)


def test_misspelt_protocols_and_folds_are_refused_with_what_exists():
    with pytest.raises(UserError, match="emobox6"):
        splits.resolve_protocol("emobox", ravdess())
    with pytest.raises(UserError, match="folds 1 to 6"):
        splits.parse_folds("7", "emobox6", ravdess())
    assert splits.parse_folds("all", "luna5", ravdess()) == (1, 2, 3, 4, 5)


def joined(**sources):
    """Corpora by name: {name: (speakers, labels)}."""
    clips = [
        Clip(f"{name}/{speaker}/{i}", labels[i % len(labels)], speaker, corpus=name)
        for name, (speakers, labels) in sources.items()
        for speaker in speakers
        for i in range(6)
    ]
    return Corpus("+".join(sources), LABELS, tuple(sorted(clips, key=lambda clip: clip.id)))


def test_one_corpus_out_shares_neither_corpus_nor_speaker_and_speakers_of_two_corpora_go_together():
    people = [f"p{i}" for i in range(8)]
    corpus = joined(talk=(people, LABELS), song=(people[1:3], LABELS[:2]), far=("xyz", LABELS[1:]), near=("uv", LABELS))
    assert parts.speaker_groups(corpus) == [("far",), ("near",), ("song", "talk")]
    assert splits.resolve_protocol("auto", corpus) == "loco" and splits.count_folds("loco", corpus) == 3
    tested = np.zeros(len(corpus.clips), int)
    for fold, own in enumerate(parts.speaker_groups(corpus), start=1):
        split = splits.make_split(corpus, "loco", fold, 0.3, NO_LISTS)
        splits.check_leakage(split, corpus, {})
        assert {corpus.clips[i].corpus for i in split.test} == set(own)
        rest = {corpus.clips[i].corpus for i in [*split.train, *split.dev]}
        assert rest.isdisjoint(own) and len(split.dev)
        assert {corpus.clips[i].corpus for i in split.train} == rest  # dev speakers leave some of each corpus
        assert not split.shares_speakers and "leave one corpus out" in split.note
        tested[split.test] += 1
    assert (tested == 1).all()


def test_clips_of_emotions_that_no_other_corpus_has_are_left_out_of_the_test():
    corpus = joined(one=("ab", LABELS), two=("cde", LABELS[:2]))
    split = splits.make_split(corpus, "loco", 1, 0.0, NO_LISTS)
    assert {corpus.clips[i].label for i in split.test} == set(LABELS[:2]) and len(split.test) == 8
    with pytest.raises(UserError, match="ravdess,emovo"):
        splits.make_split(corpus_of("ab"), "loco", 1, 0.0, NO_LISTS)


def test_folds_of_ravdess_hold_where_other_corpora_are_joined_to_it():
    speakers = [f"ravdess:{actor:02d}" for actor in range(1, 25)]
    corpus = joined(ravdess=(speakers, LABELS), ravdess_song=(speakers[:20], LABELS), far=(("far:1", "far:2"), LABELS))
    split = splits.make_split(corpus, "emobox6", 1, 0.0, NO_LISTS)
    assert {corpus.clips[i].speaker for i in split.test} == {f"ravdess:{n}" for n in ("01", "11", "20", "21")}
    assert {corpus.clips[i].corpus for i in split.train} == {"ravdess", "ravdess_song", "far"}
    assert splits.count_folds("loso24", corpus) == 24


def doubled(corpus):
    """Every clip a second time, under the same speaker, and digests that give them away."""
    copies = [dataclasses.replace(clip, id=f"copy/{clip.id}") for clip in corpus.clips]
    digests = {clip.id: clip.id.removeprefix("copy/") for clip in (*corpus.clips, *copies)}
    return dataclasses.replace(corpus, clips=(*copies, *corpus.clips)), digests


@pytest.mark.parametrize("protocol", ["random_split", "random5"])
def test_copies_are_on_one_side_of_a_random_split_and_the_test_stays_as_it_is(protocol, caplog):
    corpus, digests = doubled(corpus_of([f"s{i}" for i in range(5)]))
    split = splits.make_split(corpus, protocol, 1, 0.2, NO_LISTS)
    kept = splits.check_leakage(split, corpus, digests)
    sides = [{digests[corpus.clips[i].id] for i in side} for side in (kept.train, kept.dev, kept.test)]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert np.array_equal(kept.test, split.test) and len(kept.train) < len(split.train)
    assert f"{len(split.train) - len(kept.train)} training and" in caplog.text and "left out" in caplog.text
    assert splits.check_leakage(split, corpus, {}) is split


def parts_of_a_file(*spans, sides=("train", "test"), speakers=("a", "a")):
    clips = [Clip(f"{side}{i}", LABELS[i], speaker, f"{side}{i}.wav", split=side)
             for side, speaker in zip(sides, speakers, strict=True) for i in range(3)]  # fmt: skip
    for number, (side, speaker, start_s, end_s) in enumerate(spans):
        clips.append(Clip(f"part{number}", LABELS[0], speaker, "long.wav", None, side, start_s, end_s))
    return Corpus("voices", LABELS, tuple(clips))


@pytest.mark.parametrize(
    "one, other, alike",
    [((0, 2), (1, 3), True), ((0, None), (7, 8), True), ((5, 6), (0, None), True), ((0, 2), (2, 3), False)],
)
def test_overlapping_parts_of_one_file_count_as_one_recording(one, other, alike):
    corpus = parts_of_a_file(("train", "a", *one), ("test", "a", *other))
    split = splits.make_split(corpus, "given", 1, 0.0, NO_LISTS)
    assert len(splits.check_leakage(split, corpus, {}).train) == len(split.train) - alike
    apart = parts_of_a_file(("train", "a", *one), ("test", "b", *other), speakers=("a", "b"))
    split = splits.make_split(apart, "given", 1, 0.0, NO_LISTS)
    if alike:
        with pytest.raises(UserError, match="part1 = part0"):
            splits.check_leakage(split, apart, {})
    else:
        assert splits.check_leakage(split, apart, {}) is split


@pytest.mark.parametrize("how", ["same", "symbolic link", "hard link", "linked folder", "copy", "other sound", "gone"])
def test_overlapping_parts_of_one_file_are_one_recording_under_any_name_of_it(tmp_path, how):
    long, other = tmp_path / "a" / "long.wav", tmp_path / "b" / "talk.wav"
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    long.write_bytes(b"0123")
    if how == "same":
        other = long
    elif how == "symbolic link":
        other.symlink_to(long)
    elif how == "hard link":
        other.hardlink_to(long)
    elif how == "linked folder":
        (tmp_path / "c").symlink_to(tmp_path / "a")
        other = tmp_path / "c" / "long.wav"
    else:
        other.write_bytes(b"0123" if how == "copy" else b"4567")
    one = parts_of_a_file(("train", "a", 0, 2), ("test", "a", 1, 3))
    place = {"part0": str(long), "part1": str(other)}
    clips = tuple(dataclasses.replace(clip, path=place.get(clip.id, clip.path)) for clip in one.clips)
    corpus = dataclasses.replace(one, clips=clips)
    if how == "gone":
        shutil.rmtree(tmp_path / "b")
    split = splits.make_split(corpus, "given", 1, 0.0, NO_LISTS)
    kept = splits.check_leakage(split, corpus, {})
    assert len(kept.train) == len(split.train) - (how not in ("other sound", "gone"))


def test_a_label_of_which_nothing_is_left_to_train_on_is_refused():
    clips = [Clip(f"{side}{i}", LABELS[i % 2], "a", split=side) for side in ("train", "test") for i in range(4)]
    corpus = Corpus("voices", LABELS, tuple(clips))
    split = splits.make_split(corpus, "given", 1, 0.0, NO_LISTS)
    with pytest.raises(UserError, match="every training clip of angry is a test clip"):
        splits.check_leakage(split, corpus, {clip.id: clip.id[-1] for clip in clips if clip.label == "angry"})


@pytest.mark.parametrize("other", ["", "me"])
def test_joined_lists_of_which_one_does_not_say_who_speaks_are_not_called_actor_disjoint(other):
    lists = []
    for name, speaker in (("a", ""), ("b", other)):
        clips = [Clip(str(i), LABELS[i % 3], f"{speaker}{i % 4}" if speaker else "") for i in range(60)]
        lists.append(Corpus(name, LABELS, tuple(sorted(clips, key=lambda clip: clip.id))))
    corpus = join(lists)
    for protocol in ("random_split", "loso"):
        assert "UNKNOWN" in splits.make_split(corpus, protocol, 1, 0.0, NO_LISTS).note
        with pytest.raises(UserError, match="corpus a.* does not say who speaks"):
            splits.make_split(corpus, f"{protocol}+speakernorm", 1, 0.0, NO_LISTS)
    assert "UNKNOWN" not in splits.make_split(corpus, "loco", 1, 0.0, NO_LISTS).note


@pytest.mark.parametrize("speaker, says", [("me", "ONE speaker"), ("", "speakers are UNKNOWN")])
def test_without_two_known_speakers_random_and_given_splits_work_and_say_what_that_means(speaker, says):
    clips = [Clip(str(i), LABELS[i % 3], speaker, split="test" if i % 5 == 0 else "train") for i in range(60)]
    given = Corpus("voices", LABELS, tuple(clips))
    free = dataclasses.replace(given, clips=tuple(dataclasses.replace(clip, split=None) for clip in clips))
    for corpus, protocol in ((given, "auto"), (given, "given"), (free, "random_split"), (free, "random5")):
        split = splits.make_split(corpus, splits.resolve_protocol(protocol, corpus), 1, 0.2, NO_LISTS)
        assert says in split.note and "actor-disjoint:" not in split.note
    for protocol in ("auto", "loso", "speakers5"):
        with pytest.raises(UserError, match="random_split"):
            splits.make_split(free, splits.resolve_protocol(protocol, free), 1, 0.2, NO_LISTS)
    if not speaker:
        with pytest.raises(UserError, match="does not say who speaks"):
            splits.make_split(free, "random_split+speakernorm", 1, 0.2, NO_LISTS)
