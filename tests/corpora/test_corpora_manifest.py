"""A user's own recordings: every good manifest is read the same, every bad one is one clear error with its line."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from emoflax import corpora
from emoflax.corpora import labels, manifest
from emoflax.errors import UserError

HEADER = ["file", "emotion", "speaker"]
ROWS = [["a/1.wav", "happy", "ann"], ["a/2.wav", "sad", "ann"], ["b/3.wav", "sad", "bob"], ["b/4.wav", "happy", "bob"]]


def write_csv(folder: Path, rows=ROWS, header=HEADER, name="mine.csv", delimiter=",", encoding="utf-8") -> Path:
    path = folder / name
    path.write_bytes("\n".join(delimiter.join(row) for row in [header, *rows]).encode(encoding))
    return path


def write_jsonl(folder: Path, records, name="mine.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records))
    return path


def load(path: Path):
    return corpora.load("manifest", str(path), "")


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        load(path)
    return str(error.value)


def changed(line: int, column: int, value: str) -> list[list[str]]:
    """ROWS with one cell changed; lines count from 1 and the header is the first."""
    rows = [list(row) for row in ROWS]
    rows[line - 2][column] = value
    return rows


def test_the_columns_become_clips(folder):
    corpus = load(write_csv(folder))
    assert (corpus.name, corpus.labels, corpus.speakers) == ("manifest-mine", ("happy", "sad"), ("ann", "bob"))
    assert [clip.id for clip in corpus.clips] == ["a/1", "a/2", "b/3", "b/4"]
    assert [clip.label for clip in corpus.clips] == ["happy", "sad", "sad", "happy"]
    assert [clip.path for clip in corpus.clips] == [str(folder / row[0]) for row in ROWS]
    assert corpus.has_audio and not corpus.has_text
    assert {(clip.split, clip.start_s, clip.end_s) for clip in corpus.clips} == {(None, 0.0, None)}


@pytest.mark.parametrize("file", manifest.COLUMNS["file"])
@pytest.mark.parametrize("emotion, speaker", [("label", "speaker_id"), ("emo", "actor"), (" Emotion ", "SPEAKER")])
def test_usual_column_names_mean_the_same(folder, file, emotion, speaker):
    expected = load(write_csv(folder)).clips
    assert load(write_csv(folder, header=[file, emotion, speaker])).clips == expected


def test_the_way_it_is_written_does_not_matter(folder):
    expected = load(write_csv(folder)).clips
    assert load(write_csv(folder, encoding="utf-8-sig")).clips == expected
    assert load(write_csv(folder, delimiter=";")).clips == expected
    assert load(write_csv(folder, delimiter="\t")).clips == expected
    assert load(write_csv(folder, delimiter="|")).clips == expected
    assert load(write_csv(folder, encoding="utf-16")).clips == expected
    assert load(write_csv(folder, rows=[[" a/1.wav ", " HAPPY", "ann "], *ROWS[:0:-1], ["", "", ""]])).clips == expected
    assert load(write_csv(folder, rows=[[str(folder / row[0]), *row[1:]] for row in ROWS])).clips == expected
    assert load(write_csv(folder, name="mine.CSV")).clips == expected
    records = [dict(zip(HEADER, row, strict=True)) for row in ROWS]
    assert load(write_jsonl(folder, [*records, ""])).clips == expected
    assert (
        load(write_jsonl(folder, [{**record, "extra": [1, {}], "text": None} for record in records])).clips == expected
    )


def test_an_emotion_column_wins_over_a_numeric_label_beside_it(folder):
    rows = [["7", *row] for row in ROWS]
    assert load(write_csv(folder, rows, header=["label", *HEADER])).labels == ("happy", "sad")


def test_ids_stay_when_the_recordings_move(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("lists")
    outside = load(write_csv(elsewhere, [[str(folder / row[0]), *row[1:]] for row in ROWS]))
    assert [clip.id for clip in outside.clips] == [clip.id for clip in load(write_csv(folder)).clips]


def test_text_split_and_parts_of_a_file_are_read(folder):
    header = [*HEADER, "text", "split", "start_s", "end_s"]
    rows = [
        ["a/1.wav", "happy", "1", '"well, yes"', "train", "0", "1.5"],
        ["a/1.wav", "sad", "2", "no", "VAL", "1.5", ""],
        ["b/3.wav", "sad", "2", "no", "test", "", ""],
    ]
    corpus = load(write_csv(folder, rows, header))
    read = [(clip.text, clip.split, clip.start_s, clip.end_s) for clip in corpus.clips]
    assert read == [("well, yes", "train", 0.0, 1.5), ("no", "dev", 1.5, None), ("no", "test", 0.0, None)]
    assert len({clip.id for clip in corpus.clips}) == 3
    names = ["file", "emotion", "speaker", "text", "split", "start_s", "end_s"]
    values = [["a/1.wav", "happy", 1, "well, yes", "train", 0, 1.5], ["a/1.wav", "sad", 2, "no", "VAL", 1.5, None]]
    records = [dict(zip(names, row, strict=True)) for row in values]
    assert load(write_jsonl(folder, records)).clips == corpus.clips[:2]


@pytest.mark.parametrize("with_empty_file_column", [False, True])
def test_words_alone_make_a_corpus_in_which_people_may_say_the_same(tmp_path, with_empty_file_column):
    rows = [["what?", "happy", "ann"], ["what?", "happy", "ann"], ["oh", "sad", "bob"]]
    header = ["text", "emotion", "speaker"]
    if with_empty_file_column:
        header, rows = [*header, "file"], [[*row, ""] for row in rows]
    corpus = load(write_csv(tmp_path, rows, header))
    assert corpus.has_text and not corpus.has_audio
    assert len({clip.id for clip in corpus.clips}) == 3
    rows[1][0] = ""
    assert "line 3 has no text" in refused(write_csv(tmp_path, rows, header))


def test_some_empty_texts_are_counted_in_a_warning(folder, caplog):
    corpus = load(write_csv(folder, [[*row, "" if row[0] == "a/2.wav" else "yes"] for row in ROWS], [*HEADER, "text"]))
    assert [clip.text for clip in corpus.clips] == ["yes", "", "yes", "yes"]
    assert "1 clips without a text (line 3)" in caplog.text


@pytest.mark.parametrize("column", ["file", "emotion"])
def test_a_missing_column_is_named(folder, column):
    path = write_csv(folder, header=["other" if name == column else name for name in HEADER])
    assert f"line 1 has no column '{column}'" in refused(path)


@pytest.mark.parametrize("column", HEADER)
def test_an_empty_cell_is_named_with_its_line(folder, column):
    assert f"line 4 has no {column}" in refused(write_csv(folder, changed(4, HEADER.index(column), "  ")))
    records = [dict(zip(HEADER, row, strict=True)) for row in ROWS]
    del records[2][column]
    assert f"line 3 has no {column}" in refused(write_jsonl(folder, records))


@pytest.mark.parametrize(
    "label, expected",
    [("hapy", "did you mean 'happy'"), ("Saad", "did you mean 'sad'"), ("banana", "others are happy, sad")],
)
def test_an_unknown_label_is_named_with_its_line(folder, label, expected):
    message = refused(write_csv(folder, changed(3, 1, label)))
    assert f"line 3 has the unknown label '{label.lower()}'" in message and expected in message


def test_unknown_labels_are_accepted_and_typing_errors_in_them_are_not():
    assert labels.typos({"class1": 100, "class2": 3, "yes": 2, "no": 50, "disgusto": 40, "calma": 10}) == {}
    assert labels.typos({"happy": 30, "hapy": 2}) == {"hapy": "happy"}
    assert labels.typos({"happy": 300, "hapy": 30}) == {"hapy": "happy"}
    assert labels.typos({"happy": 30, "hapy": 2}, known=["hapy"]) == {}
    assert labels.typos({"happy": 30, "unhappy": 4, "content": 3, "tearful": 9, "ang": 9, "sad": 30}) == {}
    assert labels.typos({"agitated": 100, "agitted": 5}) == {"agitted": "agitated"}
    assert labels.typos({"happiness": 1, "sad": 30}) == {}


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(labels.EMOTION_OF)), st.integers(1, 9), min_size=1))
def test_known_emotions_are_never_typing_errors_and_one_emotion_gets_one_name(counts):
    assert labels.typos(counts) == {}
    names = labels.merged(counts)
    assert set(names.values()) <= set(counts)
    for one in counts:
        for other in counts:
            assert (names[one] == names[other]) == (labels.EMOTION_OF[one] == labels.EMOTION_OF[other])


def test_two_words_for_one_emotion_become_the_more_frequent_one_with_a_warning(folder, caplog):
    rows = [
        ["a/1.wav", "anger", "ann"],
        ["a/2.wav", "angry", "bob"],
        ["b/3.wav", "anger", "bob"],
        ["b/4.wav", "sad", "ann"],
    ]
    corpus = load(write_csv(folder, rows))
    assert corpus.labels == ("anger", "sad")
    assert "'angry' and 'anger'" in caplog.text


def test_missing_files_are_counted_and_the_first_three_named(folder):
    rows = [*ROWS, *([f"gone{n}.wav", "happy", "ann"] for n in range(5)), ["a", "sad", "ann"]]
    message = refused(write_csv(folder, rows))
    assert "6 of the 10 files" in message
    assert all(f"gone{n}.wav (line {n + 6})" in message for n in range(3)) and "gone3" not in message
    assert str(folder) in message


@pytest.mark.parametrize(
    "column, value, expected",
    [
        ("split", "training", "the split 'training'; allowed are train, dev (val) and test"),
        ("split", "", "has no split"),
        ("start_s", "1,5", None),
        ("start_s", "soon", "start_s 'soon', which is no number"),
        ("start_s", "-1", "start_s '-1'"),
        ("start_s", "0 days 00:01", "start_s '0 days 00:01'"),
        ("end_s", "inf", "end_s 'inf'"),
        ("end_s", "0.25", "starts at 0.25 s and ends at 0.25 s"),
        ("end_s", "0", "starts at 0.25 s and ends at 0 s"),
    ],
)
def test_a_bad_value_is_named_with_its_line(folder, column, value, expected):
    good = {"split": "train", "start_s": "0.25", "end_s": "1"}
    rows = [[*row, *({**good, column: value} if row[0] == "b/3.wav" else good).values()] for row in ROWS]
    message = refused(write_csv(folder, rows, [*HEADER, *good]))
    assert "line 4" in message and (expected or "cells") in message


def test_a_recording_listed_twice_is_named_with_both_lines(folder):
    assert "lines 2 and 6 name the same recording, a/1" in refused(
        write_csv(folder, [*ROWS, ["a/../a/1.wav", "sad", "bob"]])
    )
    soundfile.write(folder / "a/1.flac", np.zeros(80), 8000)
    assert "lines 2 and 6" in refused(write_csv(folder, [*ROWS, ["a/1.flac", "sad", "bob"]]))


def test_one_emotion_is_too_few(folder):
    assert "one emotion only, 'sad'" in refused(write_csv(folder, [[row[0], "sad", row[2]] for row in ROWS]))


def test_a_file_that_is_no_table_is_refused(folder):
    (folder / "empty.csv").write_bytes(b"")
    (folder / "empty.jsonl").write_bytes(b"\n\n")
    (folder / "mine.txt").write_text("file,emotion,speaker\n")
    assert "is empty" in refused(folder / "empty.csv")
    assert "is empty" in refused(folder / "empty.jsonl")
    assert "is empty" in refused(write_csv(folder, rows=[]))
    assert "must end in .csv or .jsonl" in refused(folder / "mine.txt")
    assert "does not exist" in refused(folder / "nowhere.csv")
    assert "is a folder" in refused(folder)
    message = refused(write_csv(folder, changed(3, 2, "André"), encoding="latin-1"))
    assert "line 3 is not UTF-8" in message and "Latin-1" in message
    (folder / "half.csv").write_bytes("file,emotion".encode("utf-16")[:-1])
    assert "UTF-16" in refused(folder / "half.csv")
    deep = '{"file": ' + "[" * 100_000 + "]" * 100_000 + "}"
    assert "line 1 is not valid JSON" in refused(write_jsonl(folder, [deep], "deep.jsonl"))
    assert "line 1 is not valid JSON" in refused(write_jsonl(folder, ['{"file": ' + "1" * 9999 + "}"], "long.jsonl"))
    assert "line 3 has 4 cells" in refused(write_csv(folder, changed(3, 2, "ann,well")))
    assert "is not valid CSV" in refused(write_csv(folder, changed(3, 2, '"ann')))
    assert "twice" in refused(write_csv(folder, [[*row, "x"] for row in ROWS], [*HEADER, "file"]))
    record = dict(zip(HEADER, ROWS[0], strict=True))
    assert "line 2 is not valid JSON" in refused(write_jsonl(folder, [record, '{"file": ']))
    assert "line 2 is not a JSON object" in refused(write_jsonl(folder, [record, "[1]"]))
    with pytest.raises(UserError, match="data.dir is empty"):
        corpora.load("manifest", "", "")


def test_the_corpus_name_can_name_a_folder(folder):
    for stem, name in [("my data (2)", "manifest-my-data-2"), ("..", "manifest-file"), ("données", "manifest-données")]:
        path = write_csv(folder, name=f"{stem}.csv")
        assert load(path).name == name
