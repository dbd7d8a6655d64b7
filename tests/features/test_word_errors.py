"""Word error rates: jiwer's on plain words, summed over clips."""

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emoflax.configs.default import get_config
from emoflax.data.clip import Clip, Corpus
from emoflax.data.features import Features
from emoflax.experiment import facts
from emoflax.features import word_errors
from emoflax.precompute import build

WORDS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat"]), max_size=6).map(" ".join)


@pytest.mark.parametrize(
    "reference, transcript, errors, words",
    [
        ("Kids are talking by the door.", "kids ARE talking, by the door!", 0, 6),
        ("Kids are talking by the door", "Kids talking by the store door", 2, 6),
        ("Don't - you know...", "Don’t you know", 0, 3),
        ("dogs", "", 1, 1),
        ("", "some words", 2, 0),
        ("...", "!", 0, 0),
        ("two dogs", "2 dogs", 1, 2),
    ],
)
def test_case_and_punctuation_do_not_count_and_every_wrong_missing_or_extra_word_does(
    reference, transcript, errors, words
):
    assert word_errors.count([reference], [transcript]) == [(errors, words)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=5))
def test_sums_over_clips_give_jiwers_rate(pairs):
    reference, transcript = map(list, zip(*pairs, strict=True))
    errors, words = np.sum(word_errors.count(reference, transcript), axis=0)
    assert errors / words == pytest.approx(jiwer.wer(reference, transcript))


def test_clips_without_words_keep_their_places():
    assert word_errors.count(["", "a b", "", "c"], ["x", "a", "", "d"]) == [(1, 0), (1, 2), (0, 0), (1, 1)]


@pytest.mark.parametrize("source, compared", [("file", True), ("reference", False)])
def test_a_corpus_reports_the_errors_of_its_tested_clips_where_transcripts_are_not_the_reference(
    tmp_path, source, compared
):
    references = ["the cat sat", "on the mat", None]
    clips = tuple(Clip(str(i), "x", "s", f"{i}.wav", text) for i, text in enumerate(references))
    table = tmp_path / "transcripts.csv"
    table.write_text("id,text\n0,the bat sat\n1,on a mat\n2,whatever\n")
    text = get_config().text.to_dict() | {"source": source, "file": str(table)}
    settings_ = {"workers": 1, "shard_clips": 2, "max_bad_share": 0.5, "runner": ""}
    corpus = Corpus("toy", ("x",), clips)
    features = Features(corpus, {"tokens": build.tokens(corpus, text, str(tmp_path), settings_)})
    assert facts.word_errors(features, {0, 1, 2}) == ((2, 6) if compared else None)
    assert facts.word_errors(features, {0, 2}) == ((1, 3) if compared else None)
    assert facts.word_errors(features, {2}) is None
