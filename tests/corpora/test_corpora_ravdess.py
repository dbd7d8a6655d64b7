"""RAVDESS in each of its published layouts, and the default corpus that falls back where RAVDESS is not available."""

import os
import resource
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from emoflax import corpora
from emoflax.corpora import ravdess
from emoflax.errors import UserError

REPO = Path(__file__).resolve().parents[2]
REAL = REPO.parent / "shared" / "ravdess"


def sound_of(clip_id: str) -> bytes:
    """Bytes that differ from clip to clip; finding clips never decodes them."""
    return clip_id.encode() * 20


def write_tree(folder: Path, ids=ravdess.PUBLISHED_IDS, suffix: str = ".wav") -> Path:
    for clip_id in ids:
        path = folder / (clip_id + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sound_of(clip_id))
    return folder


def write_zip(path: Path, ids=ravdess.PUBLISHED_IDS, prefixes=("",), how=zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", how) as archive:
        for clip_id in sorted(ids):
            for prefix in prefixes:
                archive.writestr(f"{prefix}{clip_id}.wav", sound_of(clip_id))
    return path


def assert_whole(corpus) -> None:
    assert corpus.name == "ravdess" and corpus.notice == ""
    assert {clip.id for clip in corpus.clips} == ravdess.PUBLISHED_IDS
    assert [clip.id for clip in corpus.clips] == sorted(clip.id for clip in corpus.clips)


def no_network(monkeypatch) -> None:
    """Port 9 of this machine: no server listens there."""
    monkeypatch.setattr(ravdess, "URL", "http://127.0.0.1:9/ravdess.zip")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/ravdess is not there")
def test_the_published_clips_are_all_found_and_named(tmp_path):
    corpus = corpora.load("ravdess", str(REAL), str(tmp_path))
    assert_whole(corpus)
    assert corpus.labels == ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
    assert corpus.speakers == tuple(f"{actor:02}" for actor in range(1, 25))
    for speaker in corpus.speakers:
        counts = Counter(clip.label for clip in corpus.clips if clip.speaker == speaker)
        assert counts == {label: 4 if label == "neutral" else 8 for label in corpus.labels}
    assert Counter(clip.text for clip in corpus.clips) == {
        "Kids are talking by the door.": 720,
        "Dogs are sitting by the door.": 720,
    }
    assert all(Path(clip.path).is_file() for clip in corpus.clips)
    assert corpora.load("auto", str(REAL), str(tmp_path)) == corpus


@pytest.mark.parametrize("suffix", [".wav", ".WAV", ".flac"])
def test_the_tree_may_lie_deeper_and_have_other_endings(tmp_path, suffix, caplog):
    tree = write_tree(tmp_path / "archive" / "speech", suffix=suffix)
    (tree / "Actor_01" / "._03-01-01-01-01-01-01.wav").write_bytes(b"what macOS leaves")
    (tree / "Actor_01" / "notes.txt").write_text("not a recording")
    assert_whole(corpora.load("ravdess", str(tmp_path), str(tmp_path / "cache")))
    assert not caplog.records  # neither is worth a warning


def test_the_ids_do_not_depend_on_where_the_corpus_lies(tmp_path):
    here = corpora.load("ravdess", str(write_tree(tmp_path / "a" / "b")), "")
    there = corpora.load("ravdess", str(write_tree(tmp_path / "c", suffix=".flac")), "")
    assert [clip.id for clip in here.clips] == [clip.id for clip in there.clips]


def test_the_kaggle_copy_counts_every_clip_once(tmp_path):
    write_tree(tmp_path / "audio_speech_actors_01-24")
    assert_whole(corpora.load("ravdess", str(write_tree(tmp_path)), ""))


def test_a_double_with_other_content_is_an_error_that_names_both(tmp_path):
    write_tree(tmp_path / "audio_speech_actors_01-24")
    write_tree(tmp_path)
    changed = tmp_path / "Actor_07" / "03-01-05-02-01-01-07.wav"
    times = changed.stat()
    changed.write_bytes(changed.read_bytes()[::-1])  # of the same size and age: only the content differs
    for twin in tmp_path.rglob(changed.name):
        os.utime(twin, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError) as error:
        corpora.load("ravdess", str(tmp_path), "")
    assert str(changed) in str(error.value)
    assert str(tmp_path / "audio_speech_actors_01-24" / "Actor_07" / changed.name) in str(error.value)


def test_missing_clips_are_named(tmp_path):
    one = "Actor_05/03-01-02-01-01-01-05"
    write_tree(tmp_path, {i for i in ravdess.PUBLISHED_IDS if not i.startswith("Actor_03")} - {one})
    with pytest.raises(UserError, match=rf"has 1379 of its 1440 .*all 60 of Actor_03 \(1 actors\); {one}"):
        corpora.load("ravdess", str(tmp_path), "")


def test_clips_that_were_never_published_are_refused(tmp_path):
    write_tree(tmp_path, ravdess.PUBLISHED_IDS | {"Actor_25/03-01-05-01-01-01-25"})
    with pytest.raises(UserError, match="Actor_25/03-01-05-01-01-01-25"):
        corpora.load("ravdess", str(tmp_path), "")


def test_songs_are_ignored_beside_the_speech(tmp_path):
    write_tree(tmp_path, ravdess.PUBLISHED_IDS | {"Actor_01/03-02-05-01-01-01-01"})
    assert_whole(corpora.load("ravdess", str(tmp_path), ""))


@pytest.mark.parametrize(
    "name, message",
    [("03-02-05-01-01-01-01.wav", "songs"), ("01-01-05-01-01-01-01.mp4", "videos"), ("x.wav", "RAVDESS")],
)
def test_a_folder_of_something_else_is_described_and_never_falls_back(tmp_path, monkeypatch, name, message):
    no_network(monkeypatch)
    (tmp_path / name).write_bytes(b"sound")
    for corpus in ("auto", "ravdess"):
        with pytest.raises(UserError, match=f"No RAVDESS speech clip.*{message}"):
            corpora.load(corpus, str(tmp_path), str(tmp_path / "cache"))
        with pytest.raises(UserError, match="does not exist"):
            corpora.load(corpus, str(tmp_path / "nowhere"), str(tmp_path / "cache"))


@pytest.mark.parametrize("prefixes", [("",), ("Audio/", "again/")], ids=["publisher", "kaggle"])
def test_a_zip_is_unpacked_once_and_then_found_without_it(tmp_path, prefixes):
    archive = write_zip(tmp_path / "data" / "archive.zip", prefixes=prefixes)
    cache = tmp_path / "cache"
    for given in (archive, archive.parent):
        corpus = corpora.load("ravdess", str(given), str(cache))
        assert_whole(corpus)
        assert all(Path(clip.path).read_bytes() == sound_of(clip.id) for clip in corpus.clips)
        stamp = (cache / "ravdess_wav").stat().st_mtime_ns
    archive.unlink()
    assert corpora.load("ravdess", "", str(cache)) == corpus
    assert (cache / "ravdess_wav").stat().st_mtime_ns == stamp
    assert not (cache / "ravdess_wav.part").exists()


def test_a_zip_with_two_different_files_for_a_clip_names_both(tmp_path):
    archive = write_zip(tmp_path / "a.zip", prefixes=("", "again/"))
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("other/03-01-05-02-01-01-07.wav", b"something else")
    with pytest.raises(UserError, match="two different files .*Actor_07/03-01-05.* other/03-01-05"):
        corpora.load("ravdess", str(archive), str(tmp_path / "cache"))


def test_another_zip_replaces_what_an_earlier_one_left(tmp_path):
    archive = write_zip(tmp_path / "a.zip")
    corpora.load("ravdess", str(archive), str(tmp_path / "cache"))
    with zipfile.ZipFile(archive, "w") as changed:
        for clip_id in ravdess.PUBLISHED_IDS:
            changed.writestr(f"{clip_id}.wav", sound_of(clip_id)[::-1])
    corpus = corpora.load("ravdess", str(archive), str(tmp_path / "cache"))
    assert all(Path(clip.path).read_bytes() == sound_of(clip.id)[::-1] for clip in corpus.clips)


def test_no_path_in_a_zip_leads_out_of_the_cache(tmp_path):
    archive = write_zip(tmp_path / "deep" / "a.zip", prefixes=("../../../",))
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("../../evil.wav", b"evil")
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    assert_whole(corpora.load("ravdess", str(archive), str(tmp_path / "deep" / "cache")))
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before


def test_a_zip_in_the_downloads_folder_is_taken(tmp_path, monkeypatch):
    no_network(monkeypatch)
    write_zip(tmp_path / "downloads" / ravdess.ZIP_NAME)
    assert_whole(corpora.load("auto", "", str(tmp_path)))


@pytest.mark.parametrize("harm", ["cut", "flipped", "undecodable", "bzip2", "lzma", "text", "few"])
def test_a_damaged_zip_is_one_clear_error_and_leaves_nothing_half_done(tmp_path, harm):
    ids = sorted(ravdess.PUBLISHED_IDS)[: 700 if harm == "few" else None]
    packed = {"undecodable": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}
    how = packed.get(harm, zipfile.ZIP_STORED)
    data = bytearray(write_zip(archive := tmp_path / "a.zip", ids, how=how).read_bytes())
    if harm == "flipped" or harm in packed:
        first = 30 + len(f"{ids[0]}.wav")  # byte of the first clip, after its header and name
        data[first : first + (10 if harm == "lzma" else 1)] = b"\xff" * (10 if harm == "lzma" else 1)
    archive.write_bytes({"cut": data[: len(data) // 2], "text": b"file,emotion\n"}.get(harm, data))
    with pytest.raises(UserError, match="Missing: all 60 of Actor_13" if harm == "few" else "cannot be read as a zip"):
        corpora.load("ravdess", str(archive), str(tmp_path / "cache"))
    assert not list((tmp_path / "cache").glob("ravdess_wav*"))


def test_unpacking_over_what_a_killed_run_left_gives_the_whole_corpus(tmp_path):
    half = write_tree(tmp_path / "cache" / "ravdess_wav.part", sorted(ravdess.PUBLISHED_IDS)[:100])
    (half / "Actor_01" / "03-01-01-01-01-01-01.wav").write_bytes(b"cut")
    (half / "Actor_01" / "03-01-01-01-01-01-01.flac").write_bytes(b"of another zip")
    corpus = corpora.load("ravdess", str(write_zip(tmp_path / "a.zip")), str(tmp_path / "cache"))
    assert_whole(corpus)
    assert Path(corpus.clips[0].path).read_bytes() == sound_of(corpus.clips[0].id)


def test_a_disk_that_refuses_more_bytes_is_one_clear_error(tmp_path):
    archive = write_zip(tmp_path / "a.zip")
    code = (
        "from emoflax import corpora, errors\n"
        f"try: corpora.load('ravdess', {str(archive)!r}, {str(tmp_path / 'cache')!r})\n"
        "except errors.UserError as error: print(error)"
    )
    limit = len(sound_of(min(ravdess.PUBLISHED_IDS))) - 1  # no file may grow to a clip's size
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=REPO,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert "Cannot write" in done.stdout and "cache_dir" in done.stdout, done
    assert not list((tmp_path / "cache").glob("ravdess_wav*"))


def test_a_hole_in_the_cached_copy_says_which_folder_to_delete(tmp_path):
    tree = write_tree(tmp_path / "ravdess_wav")
    shutil.rmtree(tree / "Actor_24")
    with pytest.raises(UserError, match=f"Actor_24.*Delete {tree}"):
        corpora.load("ravdess", "", str(tmp_path))


def test_without_network_the_default_is_another_corpus_with_a_warning_and_ravdess_an_error(
    tmp_path, monkeypatch, caplog
):
    no_network(monkeypatch)
    with pytest.raises(UserError, match="synthetic"):
        corpora.load("ravdess", "", str(tmp_path))
    assert not caplog.records
    corpus = corpora.load("auto", "", str(tmp_path))
    assert corpus.name == "synthetic" and "stand-in for RAVDESS" in corpus.notice
    assert "NO REAL SPEECH" in caplog.text and "data.dir" in caplog.text and caplog.text.count("\n") > 5
    monkeypatch.setattr(corpora, "AUTO_RESPONSE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a network that swallows every request
        monkeypatch.setattr(ravdess, "URL", f"http://127.0.0.1:{silent.getsockname()[1]}/ravdess.zip")
        started = time.monotonic()
        assert corpora.load("auto", "", str(tmp_path)) == corpus
        assert time.monotonic() - started < 5


def test_a_name_that_is_no_corpus_lists_those_that_are(tmp_path):
    for name in ("ravdes", "tfds:", ""):
        with pytest.raises(UserError, match="allowed are auto, ravdess, .*tfds:NAME"):
            corpora.load(name, "", str(tmp_path))
