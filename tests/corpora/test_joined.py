"""Several corpora as one: nobody is confused with anybody, emotions meet under one name, choices say what they are."""

import dataclasses

import numpy as np
import pytest
import soundfile

from emoflax import corpora
from emoflax.corpora import joined
from emoflax.data.clip import Clip, Corpus
from emoflax.errors import UserError


def corpus_of(name, labels, speakers=("1", "2"), **fields) -> Corpus:
    clips = tuple(Clip(f"{speaker}-{label}", label, speaker, f"{name}.wav") for speaker in speakers for label in labels)
    return Corpus(name, tuple(labels), tuple(sorted(clips, key=lambda clip: clip.id)), **fields)


SPEECH = corpus_of("ravdess", ("neutral", "calm", "happy", "sad"))
SONG = corpus_of("ravdess_song", ("calm", "happy"), people="ravdess")
OTHER = corpus_of("manifest-mine", ("joy", "boredom", "sad"))


def test_one_corpus_stays_what_it_is():
    assert joined.join([SPEECH]) is SPEECH
    assert joined.choose(SPEECH, {}, (), ()) is SPEECH


def test_ids_and_speakers_are_told_apart_unless_the_people_are_the_same():
    corpus = joined.join([SPEECH, SONG, OTHER])
    assert len({clip.id for clip in corpus.clips}) == len(corpus.clips) == 8 + 4 + 6
    assert corpus.speakers == ("manifest-mine:1", "manifest-mine:2", "ravdess:1", "ravdess:2")
    assert {clip.speaker for clip in corpus.clips if clip.corpus == "ravdess_song"} == {"ravdess:1", "ravdess:2"}
    assert [clip.id for clip in corpus.clips] == sorted(clip.id for clip in corpus.clips)
    assert corpus.name == "ravdess+ravdess_song+manifest-mine" and corpus.sources == (SPEECH, SONG, OTHER)


def test_emotions_of_several_names_are_one_and_the_corpus_tells_which_source_has_which():
    corpus = joined.join([SPEECH, OTHER])
    assert corpus.labels == ("neutral", "calm", "happy", "sad", "bored")
    assert corpus.labels_of == {
        "ravdess": ("neutral", "calm", "happy", "sad"),
        "manifest-mine": ("happy", "sad", "bored"),
    }


def test_the_same_name_twice_is_two_corpora():
    corpus = joined.join([OTHER, OTHER, dataclasses.replace(OTHER, notice="synthetic")])
    assert [source.name for source in corpus.sources] == ["manifest-mine", "manifest-mine-2", "manifest-mine-3"]
    assert len(corpus.speakers) == 6 and corpus.notice == "synthetic"


def test_labels_are_renamed_left_out_and_chosen_and_the_name_says_so():
    chosen = joined.choose(SPEECH, {"calm": "neutral"}, (), ())
    assert chosen.labels == ("neutral", "happy", "sad") and len(chosen.clips) == 8
    assert chosen.sources == (SPEECH,) and chosen.name == "ravdess-calm=neutral"
    both = joined.join([SPEECH, OTHER])
    chosen = joined.choose(both, {"boredom": None, "calm": None}, ("sad", "joy"), ("ravdess:1", "manifest-mine:2"))
    assert chosen.labels == ("happy", "sad") and len(chosen.clips) == 4
    assert set(chosen.speakers) == {"ravdess:1", "manifest-mine:2"} and chosen.sources == both.sources
    names = {joined.choose(SPEECH, {}, emotions, ()).name for emotions in ((), ("sad", "calm"), ("sad", "happy"))}
    assert len(names) == 3


@pytest.mark.parametrize(
    "choice, message",
    [
        (({"anger": "angry"}, (), ()), r"config\.data\.labels.*'anger'.*neutral, calm, happy, sad"),
        (({}, ("angry",), ()), r"config\.data\.emotions.*'angry'"),
        (({}, (), ("3",)), r"config\.data\.speakers.* no speaker 3; it has 1, 2"),
        (({}, ("sad",), ()), "two emotions"),
        (({"calm": None, "happy": None, "sad": "neutral"}, (), ()), "two emotions"),
    ],
)
def test_a_choice_that_does_not_fit_is_one_sentence(choice, message):
    with pytest.raises(UserError, match=message):
        joined.choose(SPEECH, *choice)


def write(folder, name, speakers):
    folder.mkdir()
    rows = ["file,emotion,speaker"]
    for speaker in speakers:
        for label in ("happy", "sad"):
            soundfile.write(folder / f"{speaker}-{label}.wav", np.zeros(80), 8000)
            rows.append(f"{speaker}-{label}.wav,{label},{speaker}")
    (folder / name).write_text("\n".join(rows))
    return folder / name


def test_a_list_of_corpora_has_a_list_of_places(tmp_path):
    mine, hers = (write(tmp_path / who, f"{who}.csv", "ab") for who in ("mine", "hers"))
    load = lambda names, dirs: corpora.load_chosen(names, dirs, "", {}, (), ())  # noqa: E731
    corpus = load("manifest, manifest", f"{mine}, {hers}")
    assert corpus.name == "manifest-mine+manifest-hers" and len(corpus.speakers) == 4
    with pytest.raises(UserError, match=r"names 2 corpora .* and --config.data.dir 1 places"):
        load("manifest,manifest", str(mine))
    with pytest.raises(UserError, match="'auto' stands alone"):
        load("auto,manifest", f",{mine}")
