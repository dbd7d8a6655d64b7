"""The words: cleaning, tokens, sources, and how much information about the label they carry."""

import json

import pytest
from absl import logging
from hypothesis import example, given
from hypothesis import strategies as st

from emoflax.configs.default import get_config
from emoflax.data.clip import Clip, Corpus
from emoflax.errors import UserError
from emoflax.features import text as words
from emoflax.reporting import text_check

FIELDS = get_config().text.to_dict() | {"source": "reference"}
ANYTHING = st.text(max_size=40)
# Every kind of accident at close quarters, where one repair can lay bare the next.
ACCIDENTS = st.text(
    alphabet="aâ\u0302€\x80\x81\x92\x99™œ\x9d’‘“”´`'\"….!?-–—\u2011\u200b\xad\ud800\x00 \t\nİſﬁ½5,:é", max_size=15
)
EITHER = st.one_of(ANYTHING, ACCIDENTS)


def corpus(texts, path=None):
    clips = tuple(Clip(f"c{i}", "joy", "s", path, text) for i, text in enumerate(texts))
    return Corpus("toy", ("joy",), clips)


@given(EITHER)
@example("aĚ€œ")
def test_normalising_twice_is_normalising_once(text):
    once = words.normalise(text)
    assert words.normalise(once) == once
    once.encode("utf-8")


@given(EITHER, st.booleans())
def test_no_token_is_empty_or_holds_a_blank_and_none_is_lost(text, lowercase):
    tokens = words.tokenise(text, lowercase)
    assert all(token and not any(char.isspace() for char in token) for token in tokens)
    if not lowercase:
        assert "".join(tokens) == words.normalise(text).replace(" ", "")


@given(EITHER)
def test_lowercase_changes_the_case_of_tokens_and_nothing_else(text):
    assert words.tokenise(text, True) == [token.lower() for token in words.tokenise(text, False)]


@given(EITHER)
def test_tokens_joined_by_blanks_give_the_same_tokens(text):
    tokens = words.tokenise(text, False)
    assert words.tokenise(" ".join(tokens), False) == tokens


@pytest.mark.parametrize("apostrophe", ["'", "’", "\x92", "â€™", "â\x80\x99", "´", "\u2032"])
def test_contractions_stay_whole_however_their_apostrophe_was_spoilt(apostrophe):
    assert words.tokenise(f"Don{apostrophe}t", True) == ["don't"]


def test_marks_that_differ_between_emotions_are_tokens():
    assert words.tokenise("So… So... WHAT?! You—you-you . . . 3,000.5!", True) == (
        ["so", "...", "so", "...", "what", "?", "!", "you", "-", "you", "-", "you", "...", "3,000.5", "!"]
    )
    assert words.tokenise("नमस्ते दुनिया", True) == ["नमस्ते", "दुनिया"]


@given(EITHER)
@example("WHAT?! 3,000.5...")
def test_without_punctuation_the_other_tokens_are_the_same(text):
    every = words.cutter(FIELDS)(text)
    alone = words.cutter(FIELDS | {"punctuation": False})(text)
    assert alone == [token for token in every if any(letter.isalnum() for letter in token)]


def test_a_correct_text_is_left_as_it_is():
    honest = 'Nestlé? "Adiós", he said: 5 € at 27:30.'
    assert words.normalise(honest) == honest


def test_reference_text_comes_in_the_order_of_the_clips(tmp_path):
    assert words.transcripts(corpus(["b", "a"]), FIELDS, str(tmp_path)) == ["b", "a"]


def test_auto_on_a_text_only_corpus_is_the_reference_without_a_word(tmp_path, caplog):
    assert words.transcripts(corpus(["a"]), FIELDS | {"source": "auto"}, str(tmp_path)) == ["a"]
    assert not caplog.records


def test_clips_without_words_are_counted_and_listed_in_a_file(tmp_path, caplog):
    logging.set_verbosity(logging.WARNING)
    assert words.transcripts(corpus(["a", None]), FIELDS, str(tmp_path)) == ["a", None]
    assert "1 of 2 clips" in caplog.text and "c1" in caplog.text
    assert (tmp_path / "transcripts" / "toy-without-reference-text.txt").read_text().startswith("c1: ")


@pytest.mark.parametrize(
    "source, texts, path, message",
    [
        ("wisper", ["a"], None, "auto, whisper, reference, file"),
        ("whisper", ["a"], None, "no recordings"),
        ("reference", [None], "x.wav", "no reference text"),
        ("auto", [None], None, "neither"),
        ("file", ["a"], None, "needs text.file"),
    ],
)
def test_an_unavailable_source_is_one_clear_error(tmp_path, source, texts, path, message):
    with pytest.raises(UserError, match=message):
        words.transcripts(corpus(texts, path), FIELDS | {"source": source}, str(tmp_path))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("key", ["id", "file"])
def test_a_file_gives_each_clip_its_own_text(tmp_path, kind, key):
    clips = [Clip(f"c{i}", "joy", "s", str(tmp_path / f"c{i}.wav")) for i in range(3)]
    rows = [("c1", 'say "oh, é"'), ("c0", "zero")]
    file = tmp_path / f"table.{kind}"
    names = {"id": "{}", "file": "{}.wav"}[key]
    if kind == "csv":
        table = [f"{key},text", *(f'{names.format(i)},"{t.replace(chr(34), chr(34) * 2)}"' for i, t in rows)]
    else:
        table = [json.dumps({key: names.format(i), "text": t}) for i, t in rows]
    file.write_text("\n".join(table) + "\n", encoding="utf-8")
    assert words.read_transcripts(clips, str(file)) == ["zero", 'say "oh, é"', None]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.csv", b"name,text\nc0,a\n", "columns id"),
        ("t.csv", b"id,words\nc0,a\n", "columns id"),
        ("t.csv", b"", "is empty"),
        ("t.csv", b"id,text\nother,a\n", "for any of the 1 clips"),
        ("t.csv", b"id,text\nc0,a\nc0,b\n", "two different texts"),
        ("t.csv", b"id,text\nc0,\xff\xfe\n", "line 2 is not UTF-8"),
        ("t.jsonl", b'{"id": "c0", "te', "line 1 is not valid JSON"),
        ("t.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("t.txt", b"id,text\nc0,a\n", r"must end in \.csv or \.jsonl"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        words.read_transcripts([Clip("c0", "joy", "s")], str(tmp_path / name))


def test_null_is_no_text_and_an_empty_text_is_one_without_words(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"id": "c0", "text": null}\n{"id": "c1", "text": ""}\n{"id": "c2", "text": 7}\n')
    clips = [Clip(f"c{i}", "joy", "s") for i in range(3)]
    assert words.read_transcripts(clips, str(tmp_path / "t.jsonl")) == [None, "", "7"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.csv"):
        words.read_transcripts([Clip("c0", "joy", "s")], str(tmp_path / "nowhere.csv"))


SENTENCES = ("Kids are talking by the door.", "Dogs are sitting by the door.")


@pytest.mark.parametrize("grouped", [True, False])
def test_two_sentences_in_every_emotion_carry_no_information(grouped):
    rows = [(s, e, a) for a in range(24) for e in "ABCDEFGH" for s in SENTENCES for _ in range(1 if e == "A" else 2)]
    texts, labels, speakers = zip(*rows, strict=True)
    found = text_check.label_information(texts, labels, speakers if grouped else None)
    assert not found["informative"] and abs(found["information_bits"]) < 0.02
    assert found["distinct_texts"] == 2 and set(found["distinct_texts_by_label"].values()) == {2}
    assert "at chance" in text_check.sentence(found)


def test_unique_transcripts_without_information_are_not_taken_for_information():
    texts = [f"take{i} word{i * 7 % 50} word{i * 11 % 43}" for i in range(600)]
    found = text_check.label_information(texts, ["ABC"[i * i % 7 % 3] for i in range(600)], None)
    assert found["distinct_texts"] == 600 and not found["informative"]


def test_words_that_decide_carry_nearly_all_information():
    cues = {"joy": "great", "anger": "damn", "sadness": "sorry"}
    rows = [(f"well {cues[e]} thing{i % 30}", e, i % 10) for i in range(100) for e in cues]
    found = text_check.label_information(*zip(*rows, strict=True))
    assert found["informative"] and found["accuracy"] > 0.95
    assert 0.5 * found["label_entropy_bits"] < found["information_bits"] <= found["label_entropy_bits"] + 1e-9
    assert "most of it" in text_check.sentence(found)


@pytest.mark.parametrize(
    "texts, labels, groups",
    [(["a"], ["x"], None), (["", "", ""], ["x", "y", "x"], None), (["a"] * 9, ["x"] * 9, ["s"] * 9),
     ([""] * 30, list("xyz") * 10, ["s"] * 30), (["a", "b"] * 20, ["x"] * 39 + ["y"], ["s", "t"] * 20)],
)  # fmt: skip
def test_few_clips_one_class_or_no_words_are_no_information_and_no_crash(texts, labels, groups):
    found = text_check.label_information(texts, labels, groups)
    assert not found["informative"] and text_check.sentence(found)
