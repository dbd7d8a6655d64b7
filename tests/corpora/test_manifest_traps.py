"""What goes wrong in people's lists of recordings: every kind is read as it is meant, or stops with a sentence."""

import json
import unicodedata

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from test_corpora_manifest import HEADER, ROWS, changed, load, refused, write_csv, write_jsonl

from emoflax import corpora
from emoflax.corpora import cells, labels, manifest, table
from emoflax.errors import UserError


@pytest.mark.parametrize(
    "names",
    [
        ("1", "01"), ("1", "1.0"), ("Anna", "anna"), ("s_1", "S 01"), ("é", "É"),
        ("M1", "m-1"), ("1", "1e+0"), ("1", "1,0"), ("S-01-2", "s01_2"), ("a_b", "a b"), ("a\u2010b", "a-b"),
        ("\u0661", "1"), ("100000", "1e+05"), ("an\u200cn", "ann"), ("ann\ufe0f", "ann"), ("s\u22121", "s-1"),
        ("O'Brien", "O\u2019Brien"), ("ann\u3164", "ann"),
    ],
)  # fmt: skip
def test_speakers_that_differ_in_spelling_alone_stop_with_the_list(folder, names):
    rows = [[*row[:2], name] for row, name in zip(ROWS, names * 2, strict=True)]
    message = refused(write_csv(folder, rows, delimiter="|"))
    assert "1 speakers under several spellings" in message and all(repr(name) in message for name in names)


@pytest.mark.parametrize(
    "names",
    [
        ("1", "10"), ("1.5", "15"), ("ann", "anne"), ("s1", "s11"), ("1-5", "15"), ("1,5", "15"), ("s1-1", "s11"),
        ("-", "1"), ("Ann E", "Anne"), ("Paul A.", "Paula"), ("Li Na", "Lina"), ("00e1", "00e2"), ("1e1", "010"),
        ("1", "1,000"), ("-1", "1"), ("1234567890123456789012345678901", "1234567890123456789012345678902"),
    ],
)  # fmt: skip
def test_other_speakers_are_other_people(folder, names):
    rows = [[*row[:2], name] for row, name in zip(ROWS, names * 2, strict=True)]
    assert len(load(write_csv(folder, rows, delimiter="|")).speakers) == 2


def test_names_of_absurd_length_are_refused_in_a_short_sentence(folder, caplog):
    caplog.set_level("INFO")
    for column in (1, 2):
        message = refused(write_csv(folder, changed(3, column, "x" * 5_000)))
        assert f"line 3 has 5000 characters in its {HEADER[column]}" in message and len(message) < 400
    assert len(refused(write_csv(folder, header=["1" * 5_000, *HEADER[1:]]))) < 500
    many = [f"column{number}" for number in range(900)]
    load(write_csv(folder, [[*row, *many] for row in ROWS], [*HEADER, *many]))
    assert all(len(record.message) < 700 for record in caplog.records)


@pytest.mark.parametrize("mark", ["\u200b", "\ufeff", "\u00ad", "\u2060", "\u200e"])
def test_what_nobody_sees_makes_no_other_speaker_and_no_other_label(folder, mark):
    rows = [[*row[:2], name] for row, name in zip(ROWS, ("ann", f"an{mark}n") * 2, strict=True)]
    message = refused(write_csv(folder, rows))
    assert "'ann'" in message and mark not in message and ascii(mark)[1:-1] in message
    unseen = [[row[0], f"{row[1]}{mark}", row[2]] for row in ROWS[:2]]
    assert load(write_csv(folder, [*unseen, *ROWS[2:]])).labels == load(write_csv(folder)).labels
    assert labels.normalise("خوش\u200cحال") == "خوش\u200cحال"  # in Persian a joiner that is none is part of the word


@pytest.mark.parametrize("column", ["emotion", "speaker", "text", "split"])
def test_broken_characters_are_no_text_of_any_column(folder, column):
    header = [*HEADER, "text", "split"]
    for character, code in (("\0", "U+0000"), ("\ud83d", "U+D83D")):
        records = [dict(zip(header, [*row, "some words", "train"], strict=True)) for row in ROWS]
        records[1][column] += character
        message = refused(write_jsonl(folder, records))
        assert f"line 2 has the character {code} in its {column}" in message
    records[1][column] = "some\x92 words"
    if column == "text":  # Windows-1252 in old transcripts
        assert load(write_jsonl(folder, records)).clips
    else:
        assert "U+0092" in refused(write_jsonl(folder, records))


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_unicode_is_read_in_every_encoding_with_a_byte_order_mark_or_without(folder, encoding):
    path = write_csv(folder, [[*row[:2], "andré"] for row in ROWS])
    expected, records = load(path), [dict(zip(HEADER, [*row[:2], "andré"], strict=True)) for row in ROWS]
    for read_again in (path, write_jsonl(folder, records)):
        read_again.write_bytes(read_again.read_text().encode(encoding))
        assert load(read_again).clips == expected.clips
        read_again.write_bytes(read_again.read_bytes() + b"\xff\xff\xff")
        assert f"is not {encoding[:6].removesuffix('-').upper()}" in refused(read_again)


def test_a_folder_with_other_accents_above_a_file_is_found(folder):
    """As where a list was written on Linux, and a folder or a file in it came from a Mac."""
    forms = (("NFC", "NFD"), ("NFD", "NFC"))
    for form, other in forms:
        place = folder / unicodedata.normalize(form, f"é{form}") / unicodedata.normalize(other, "ü") / "plain"
        place.mkdir(parents=True)
        both = "".join(unicodedata.normalize(each, "ñ") for each in ("NFC", "NFD"))
        soundfile.write(place / f"{both}.wav", np.zeros(80), 8000)
    rows = [[f"é{form}/ü/plain/ññ.wav", label, form] for (form, _), label in zip(forms, ("sad", "joy"), strict=True)]
    for form, _ in forms:
        written = [[unicodedata.normalize(form, row[0]), *row[1:]] for row in rows]
        assert len(load(write_csv(folder, written)).clips) == 2
    above = folder / unicodedata.normalize("NFD", "éNFD")
    write_csv(above, [[f"../{row[0]}", *row[1:]] for row in ROWS])
    typed = folder / unicodedata.normalize("NFC", "éNFD") / "mine.csv"
    assert not typed.exists() and load(typed).clips == load(above / "mine.csv").clips


def test_composed_and_decomposed_accents_are_one_name_and_find_one_file(folder):
    for form, stem in (("NFC", "é1"), ("NFD", "é2")):
        soundfile.write(folder / f"{unicodedata.normalize(form, stem)}.wav", np.zeros(80), 8000)
    rows = [[f"{stem}.wav", emotion, "André"] for stem, emotion in (("é1", "happy"), ("é2", "sad"))]
    rows = [[unicodedata.normalize("NFC", cell) for cell in row] for row in rows]
    other = [[unicodedata.normalize("NFD", cell) for cell in row] for row in rows]
    composed, decomposed = load(write_csv(folder, [*rows, *ROWS])), load(write_csv(folder, [*other, *ROWS]))
    assert composed.clips == decomposed.clips and composed.speakers == ("André", "ann", "bob")


@pytest.mark.parametrize("value", ["nan", "NaN", "None", "null", "NULL", "<NA>", " nan ", "NA", "NaT", "#N/A", "n/a"])
@pytest.mark.parametrize("column", HEADER)
def test_what_programs_write_for_nothing_is_nothing(folder, column, value):
    message = refused(write_csv(folder, changed(4, HEADER.index(column), value)))
    assert f"line 4 has no {column} ('{value.strip()}' counts as an empty cell)" in message
    records = [dict(zip(HEADER, row, strict=True)) for row in ROWS]
    records[2][column] = float("nan")
    assert f"line 3 has no {column}" in refused(write_jsonl(folder, records))


def test_names_that_look_like_nothing_are_names(folder):
    for name in ("Nan", "Nat", "Na", "na", "Null Island"):
        assert name in load(write_csv(folder, changed(2, 2, name))).speakers


def test_tabs_and_line_ends_in_a_name_are_spaces_of_it(folder):
    names, emotions = ("Ann  Lee", "Ann\nLee", "Bo", "Bo"), ("very\thappy", "very happy", "sad", "sad")
    rows = [[row[0], emotion, f'"{name}"'] for row, emotion, name in zip(ROWS, emotions, names, strict=True)]
    corpus = load(write_csv(folder, rows))
    assert corpus.speakers == ("Ann Lee", "Bo") and corpus.labels == ("sad", "very happy")


def test_what_nobody_sees_is_no_part_of_a_column_a_split_or_a_time(folder):
    header = ["\ufeff\ufefffile", "emotion\u200b", "speaker", "split", "start"]
    rows = [
        [*row, f"{side}\u200b", "0\u200b"] for row, side in zip(ROWS, ("train", "dev", "test", "test"), strict=True)
    ]
    assert {clip.split for clip in load(write_csv(folder, rows, header)).clips} == {"train", "dev", "test"}
    assert "'a/1\\u200b.wav' (line 2)" in refused(write_csv(folder, changed(2, 0, "a/1\u200b.wav")))
    assert "U+FFFD" in refused(write_csv(folder, changed(2, 2, "J\ufffdrg")))


def test_empty_optional_cells_may_say_nan_and_a_text_may(folder):
    rows = [[*row, "NaT", "None", "None"] for row in ROWS]
    corpus = load(write_csv(folder, rows, [*HEADER, "start_s", "end_s", "text"]))
    assert {(clip.start_s, clip.end_s, clip.text) for clip in corpus.clips} == {(0.0, None, "None")}


def test_numbers_are_labels_however_they_are_written(folder):
    rows = [[row[0], label, row[2]] for row, label in zip(ROWS, ["0", "1", "0.0", "1.0"], strict=True)]
    assert load(write_csv(folder, rows)).labels == ("0", "1")
    assert labels.normalise("1.5") == "1.5" and labels.normalise("v1.0") == "v1.0"


@pytest.mark.parametrize(
    "start, end", [("0.5", "1.5"), ("0 days 00:00:00.5", "0 days 00:00:01.500000"), ("0:00:00.5", "00:00:01.5")]
)
def test_start_and_end_are_read_like_start_s_and_end_s(folder, start, end):
    corpus = load(write_csv(folder, [[*row, start, end] for row in ROWS], [*HEADER, "start", "End"]))
    assert {(clip.start_s, clip.end_s) for clip in corpus.clips} == {(0.5, 1.5)}
    assert cells.seconds("1 days 01:01:01") == 90_061


def test_columns_that_are_not_used_are_named_in_one_line(folder, caplog):
    caplog.set_level("INFO")
    load(write_csv(folder, [["7", *row, "x"] for row in ROWS], ["onset", *HEADER, "Gender"]))
    assert [r.message for r in caplog.records if "not used: gender, onset" in r.message]


@pytest.mark.parametrize("header", [["filepath", "emotions", "speaker"], ["Path", "labels", "Speaker_ID"]])
def test_other_usual_column_names_are_taken(folder, header):
    assert load(write_csv(folder, header=header)).clips == load(write_csv(folder)).clips


def test_labels_that_resemble_known_ones_are_taken_or_can_be_declared(folder):
    rows = [
        ["a/1.wav", "unhappy", "ann"],
        ["a/2.wav", "happy", "ann"],
        ["b/3.wav", "happy", "bob"],
        ["b/4.wav", "happy", "bob"],
    ]
    path = write_csv(folder, rows)
    assert """--config.data.labels="{'unhappy': 'happy'}\"""" in refused(path)
    own = corpora.load_chosen("manifest", str(path), "", {"unhappy": "unhappy"}, (), ())
    assert own.labels == ("happy", "unhappy") and own.name == "manifest-mine"
    for number in (5, 6):
        soundfile.write(folder / f"{number}.wav", np.zeros(80), 8000)
    several = [*rows, ["5.wav", "unhappy", "bob"], ["6.wav", "unhappy", "bob"]]
    assert load(write_csv(folder, several)).labels == ("happy", "unhappy")


def test_bare_names_start_at_a_root_folder(folder, tmp_path_factory):
    path = write_csv(tmp_path_factory.mktemp("lists"), [[row[0].partition("/")[2], *row[1:]] for row in ROWS[:2]])
    assert "--config.data.root" in refused(path)
    corpus = corpora.load("manifest", str(path), "", root=str(folder / "a"))
    assert [clip.id for clip in corpus.clips] == ["1", "2"]
    for root in (str(folder / "a" / "1.wav"), "~nosuchuser/x"):
        with pytest.raises(UserError, match="--config.data.root="):
            corpora.load("manifest", str(path), "", root=root)
    assert "mine.csv line 2: ~nosuchuser/1.wav" in refused(write_csv(folder, changed(2, 0, "~nosuchuser/1.wav")))


def test_a_list_without_speakers_is_read_with_a_warning_and_one_speaker_without(folder, caplog):
    corpus = load(write_csv(folder, [row[:2] for row in ROWS], HEADER[:2]))
    assert corpus.speakers == ("",) and "does not say who speaks" in caplog.text
    assert load(write_csv(folder, [[*row[:2], "me"] for row in ROWS])).speakers == ("me",)


CELLS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["a/1.wav", "b/4.wav", "happy", "sad", "ann", "nan", "0.0", "1e999", "-1", "../a/2.wav", '"', "\x00", "~x"]
)
TABLES = st.lists(st.lists(CELLS, min_size=0, max_size=6), max_size=6)
NAMES = st.lists(st.sampled_from([*HEADER, "text", "split", "start", "end_s", "", "Path", "x"]), max_size=6)


@settings(max_examples=300, deadline=None)
@given(NAMES, TABLES, st.sampled_from(",;\t|"), st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]))
def test_any_table_is_read_or_refused_in_one_sentence(tmp_path_factory, names, rows, delimiter, encoding):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes("\n".join(delimiter.join(row) for row in [names, *rows]).encode(encoding))
    _read_or_refused(path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["any.csv", "any.jsonl"]))
def test_any_bytes_are_read_or_refused_in_one_sentence(tmp_path_factory, content, name):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    _read_or_refused(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=2)
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from([*HEADER, "text", "start"]) | st.text(max_size=3), JSON), max_size=4))
def test_any_records_are_read_or_refused_in_one_sentence(tmp_path_factory, records):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    _read_or_refused(path)


def _read_or_refused(path):
    for read in (table.read, lambda path: manifest.load(str(path), "")):
        try:
            read(path)
        except UserError as error:
            assert str(error).strip()
