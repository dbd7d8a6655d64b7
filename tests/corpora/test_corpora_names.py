"""Corpora described by their file names, and MELD's tables."""

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from emoflax import corpora
from emoflax.corpora import filenames, meld
from emoflax.errors import UserError

MELD = Path(__file__).resolve().parents[3] / "shared" / "meld"

# corpus: {file: (id, label, speaker)}
PUBLISHED = {
    "crema_d": {
        "AudioWAV/1001_DFA_ANG_XX.wav": ("1001_DFA_ANG_XX", "angry", "1001"),
        "AudioWAV/1091_IEO_SAD_HI.wav": ("1091_IEO_SAD_HI", "sad", "1091"),
        "AudioWAV/1040_ITH_SAD_X.wav": ("1040_ITH_SAD_X", "sad", "1040"),
        "AudioWAV/1002_WSI_FEA_XX.WAV": ("1002_WSI_FEA_XX", "fearful", "1002"),
    },
    "tess": {
        "OAF_angry/OAF_back_angry.wav": ("OAF_back_angry", "angry", "OAF"),
        "OAF_neutral/OA_bite_neutral.wav": ("OAF_bite_neutral", "neutral", "OAF"),
        "YAF_pleasant_surprised/YAF_youth_ps.wav": ("YAF_youth_ps", "surprised", "YAF"),
        "YAF_keg_fear.wav": ("YAF_keg_fear", "fearful", "YAF"),
        "testnew/0testYAF_gaze_ps39.wav": ("YAF_gaze_ps", "surprised", "YAF"),
        "testnew/751testOA_bite_sad48.wav": ("OAF_bite_sad", "sad", "OAF"),
        "OAF_Pleasant_surprise/OAF_home_ps.WAV": ("OAF_home_ps", "surprised", "OAF"),
    },
    "savee": {
        "ALL/DC_a01.wav": ("DC_a01", "angry", "DC"),
        "JE/sa15.wav": ("JE_sa15", "sad", "JE"),
        "KL/su02.wav": ("KL_su02", "surprised", "KL"),
        "AudioData/JK/n30.wav": ("JK_n30", "neutral", "JK"),
    },
    "emodb": {
        "wav/03a01Fa.wav": ("03a01Fa", "happy", "03"),
        "wav/16b10Wb.wav": ("16b10Wb", "angry", "16"),
        "wav/08a02Ac.wav": ("08a02Ac", "fearful", "08"),
        "wav/12b03Lb.wav": ("12b03Lb", "bored", "12"),
    },
    "emovo": {
        "EMOVO/f1/dis-f1-b1.wav": ("dis-f1-b1", "disgust", "f1"),
        "m3/gio-m3-n5.wav": ("gio-m3-n5", "happy", "m3"),
        "pau-m1-d2.wav": ("pau-m1-d2", "fearful", "m1"),
    },
    "urdu": {
        "Angry/SM1_F1_A01.wav": ("SM1_F1_A01", "angry", "SM1"),
        "Sad/SF10_F1_S012.wav": ("SF10_F1_S012", "sad", "SF10"),
        "SM27_F4_N098.wav": ("SM27_F4_N098", "neutral", "SM27"),
    },
}


def write(folder: Path, names) -> Path:
    for number, name in enumerate(sorted(names)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, np.full(8, number / 100), 8000, format="WAV")
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_names_are_read(tmp_path, name):
    corpus = corpora.load(name, str(write(tmp_path, PUBLISHED[name])), str(tmp_path))
    read = {str(Path(clip.path).relative_to(tmp_path)): (clip.id, clip.label, clip.speaker) for clip in corpus.clips}
    assert read == PUBLISHED[name]
    assert [clip.id for clip in corpus.clips] == sorted(clip.id for clip in corpus.clips)
    assert {clip.label for clip in corpus.clips} <= set(corpus.labels)
    assert corpus.name == name


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_copy_that_is_there_twice_counts_once_and_one_that_differs_is_an_error(tmp_path, name):
    write(tmp_path, PUBLISHED[name])
    once = corpora.load(name, str(tmp_path), "")
    shutil.copytree(tmp_path, tmp_path.parent / "again")
    twin = shutil.move(tmp_path.parent / "again", tmp_path / "again")
    assert [clip.id for clip in corpora.load(name, str(tmp_path), "").clips] == [clip.id for clip in once.clips]
    odd = next(twin.rglob("*.wav"))
    soundfile.write(odd, np.full(8, 0.9), 8000)
    with pytest.raises(UserError, match="differ") as error:
        corpora.load(name, str(tmp_path), "")
    assert str(odd) in str(error.value)


def test_of_a_clip_in_several_formats_one_is_used_wherever_it_lies(tmp_path, caplog):
    write(tmp_path, PUBLISHED["tess"])
    once = corpora.load("tess", str(tmp_path), "")
    wavs = sorted(tmp_path.rglob("*.[wW][aA][vV]"))
    for number, path in enumerate(wavs):
        suffix, form = ((".sph", "NIST"), (".flac", "FLAC"))[number % 2]
        soundfile.write(path.with_suffix(suffix), np.full(8, 0.9), 8000, format=form)
    caplog.set_level("INFO")
    assert corpora.load("tess", str(tmp_path), "").clips == once.clips
    assert f"{len(wavs)} files have the name of a clip in another format" in caplog.text


@pytest.mark.parametrize("name", PUBLISHED)
def test_other_names_are_counted_and_left_out(tmp_path, caplog, name):
    others = [
        "noise.wav",
        "x1001_DFA_ANG_XX.wav",
        "1001_DFA_XYZ_XX.wav",
        "OAF_back_angr.wav",
        "03a01Fa1.wav",
        "DC_b01.wav",
    ]
    corpus = corpora.load(name, str(write(tmp_path, [*PUBLISHED[name], *others])), "")
    assert {clip.id for clip in corpus.clips} == {clip_id for clip_id, _, _ in PUBLISHED[name].values()}
    assert "6 audio files" in caplog.text
    assert str(filenames.CORPORA[name].clips) in caplog.text


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_folder_of_another_corpus_shows_the_name_expected(tmp_path, name):
    other = next(other for other in PUBLISHED if other != name)
    with pytest.raises(UserError, match=r"has a name of .*, such as [\w-]+\.wav"):
        corpora.load(name, str(write(tmp_path, PUBLISHED[other])), "")
    for folder in ("", str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match="data.dir"):
            corpora.load(name, folder, "")


def test_fixed_sentences_are_known(tmp_path):
    texts = {}
    for name in PUBLISHED:
        corpus = corpora.load(name, str(write(tmp_path / name, PUBLISHED[name])), "")
        texts |= {clip.id: clip.text for clip in corpus.clips}
    assert texts["1001_DFA_ANG_XX"] == "Don't forget a jacket."
    assert texts["YAF_youth_ps"] == "Say the word youth."
    assert texts["03a01Fa"] == "Der Lappen liegt auf dem Eisschrank."
    assert texts["DC_a01"] is None


def write_meld(folder: Path, change=lambda rows: rows) -> Path:
    for split in ("train", "dev", "test"):
        header = ["Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID"]
        rows = [[str(n), f"Well, {e}\x92s it!", f"S{n % 3}", e, "x", str(n), "0"] for n, e in enumerate(meld.LABELS)]
        with open(folder / f"{split}_sent_emo.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(change([header, *rows]) if split == "dev" else [header, *rows])
    return folder


def test_meld_is_words_speakers_and_its_own_split(tmp_path):
    corpus = corpora.load("meld", str(write_meld(tmp_path)), "")
    assert corpus.has_text and not corpus.has_audio
    assert Counter(clip.split for clip in corpus.clips) == {"train": 7, "dev": 7, "test": 7}
    assert [clip.id for clip in corpus.clips] == sorted({clip.id for clip in corpus.clips})
    clip = next(clip for clip in corpus.clips if clip.id == "dev/dia4_utt0")
    assert (clip.label, clip.speaker, clip.text) == ("sadness", "S1", "Well, sadness\x92s it!")


def edit(row: int, column: int, value: str):
    return lambda rows: [[value if (r, c) == (row, column) else x for c, x in enumerate(x)] for r, x in enumerate(rows)]


@pytest.mark.parametrize(
    "change, message",
    [
        (edit(0, 3, "Mood"), "no emotion"),
        (edit(3, 3, "surprized"), r"dev_sent_emo.csv line 4 .*'surprized'"),
        (edit(3, 2, " "), "line 4 has no speaker"),
        (edit(3, 5, "0"), r"line 4 contains dev/dia0_utt0 a second time"),
        (lambda rows: rows[:1], "empty"),
        (lambda rows: [*rows, ["9", "Well", "yes", "S1", "joy", "x", "9", "0"]], "line 9 has 8 cells"),
    ],
)
def test_an_odd_meld_table_is_an_error_with_its_line(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        corpora.load("meld", str(write_meld(tmp_path, change)), "")


def test_a_missing_meld_table_is_named(tmp_path):
    (write_meld(tmp_path) / "dev_sent_emo.csv").unlink()
    with pytest.raises(UserError, match="lacks dev_sent_emo.csv"):
        corpora.load("meld", str(tmp_path), "")


@pytest.mark.skipif(not MELD.is_dir(), reason="../shared/meld is not there")
def test_the_published_meld_has_its_published_size(tmp_path):
    corpus = corpora.load("meld", str(MELD), str(tmp_path))
    assert Counter(clip.split for clip in corpus.clips) == {"train": 9989, "dev": 1109, "test": 2610}
    assert Counter(clip.label for clip in corpus.clips)["neutral"] == 4710 + 470 + 1256
    assert all(clip.text for clip in corpus.clips)


def test_the_songs_of_ravdess_have_its_actors(tmp_path):
    names = ["Actor_12/03-02-04-01-02-01-12.wav", "Actor_12/03-01-04-01-02-01-12.wav"]
    corpus = corpora.load("ravdess_song", str(write(tmp_path, names)), "")
    assert [(clip.id, clip.label, clip.speaker, clip.text) for clip in corpus.clips] == [
        ("Actor_12/03-02-04-01-02-01-12", "sad", "12", "Dogs are sitting by the door.")
    ]
    assert corpus.people == "ravdess"


def test_a_folder_inside_itself_counts_once(tmp_path):
    name = "TESS Toronto emotional speech set data"
    write(tmp_path, [f"{name}/OAF_Fear/OAF_back_fear.wav"])
    shutil.copytree(tmp_path / name, tmp_path / name / name)
    assert [clip.id for clip in corpora.load("tess", str(tmp_path), "").clips] == ["OAF_back_fear"]
