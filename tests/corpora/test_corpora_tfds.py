"""Our tensorflow-datasets builder, and other people's datasets as corpora of ours: all without TensorFlow."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from emoflax.corpora import from_tfds, ravdess
from emoflax.errors import UserError

ROOT = Path(__file__).parents[2]
# After this there is no TensorFlow, whether or not it is installed.
NO_TENSORFLOW = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.split(".")[0] == "tensorflow" else find(name, *rest)
"""


def _dataset(class_name: str, features: dict, examples: dict[str, list[dict]]) -> None:
    """Registers a tfds dataset of these examples in each split; its name is class_name in snake case."""

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def generators(self, dl_manager):
        return {split: enumerate(rows) for split, rows in examples.items()}

    body = {"VERSION": tfds.core.Version("1.0.0"), "_info": info, "_split_generators": generators}
    body |= {"_generate_examples": lambda self: None, "__module__": __name__}
    type(class_name, (tfds.core.GeneratorBasedBuilder,), body)


SOUND = tfds.features.Tensor(shape=(None,), dtype=np.int16)
STEREO = tfds.features.Tensor(shape=(None, 2), dtype=np.float32)
EMOTION = tfds.features.ClassLabel(names=["tired", "awake"])
RATE = tfds.features.Scalar(dtype=np.int32)
WORD = tfds.features.Text()


def _example(number: int) -> dict:
    samples = np.random.default_rng(number).integers(-30_000, 30_000, 101 + number).astype(np.int16)
    return {"audio": samples, "sample_rate": 8_000, "label": number % 2, "speaker": f"s{number % 3}"}


PLAIN = {"audio": SOUND, "sample_rate": RATE, "label": EMOTION, "speaker": WORD}
_dataset("PlainSpeech", PLAIN, {"train": [_example(i) for i in range(7)]})
_dataset("SplitSpeech", PLAIN, {s: [_example(i) for i in range(3)] for s in ("train", "validation", "test")})
_dataset("FoldSpeech", PLAIN, {s: [_example(i) for i in range(3)] for s in ("fold1", "fold2")})
_dataset("LostSpeech", PLAIN, {"train": [_example(i) for i in range(2)]})
_dataset(
    "OtherSpeech",
    {"speech": STEREO, "sr": RATE, "emotion": WORD, "actor_id": tfds.features.Scalar(dtype=np.int64), "text": WORD},
    {
        "train": [
            {"speech": np.full((11, 2), [0.25, -1.5], np.float32), "sr": 44_100, "emotion": emotion, "actor_id": 5,
             "text": "so it is"}
            for emotion in ("zeal", "awe")
        ]
    },
)  # fmt: skip
for _missing in PLAIN:
    _row = {key: value for key, value in _example(0).items() if key != _missing}
    _dataset(f"No{_missing.title().replace('_', '')}", {k: PLAIN[k] for k in _row}, {"train": [_row]})


def test_every_example_becomes_a_wav_file_with_the_very_same_samples(tmp_path):
    corpus = from_tfds.load("plain_speech", "", str(tmp_path))
    assert corpus.name == "tfds_plain_speech" and corpus.labels == ("tired", "awake")
    found = []
    for clip in corpus.clips:
        samples, rate_hz = soundfile.read(clip.path, dtype="int16")
        assert rate_hz == 8_000 and clip.split is None and clip.text is None
        found.append((samples.tobytes(), clip.label, clip.speaker))
    meant = [(e["audio"].tobytes(), corpus.labels[e["label"]], e["speaker"]) for e in map(_example, range(7))]
    assert sorted(found) == sorted(meant)
    assert [clip.id for clip in corpus.clips] == sorted({clip.id for clip in corpus.clips})


def test_stereo_float_samples_written_out_labels_and_numbered_speakers_are_understood(tmp_path):
    corpus = from_tfds.load("other_speech", "", str(tmp_path))
    assert corpus.labels == ("awe", "zeal") and corpus.speakers == ("5",) and corpus.clips[0].text == "so it is"
    samples, rate_hz = soundfile.read(corpus.clips[0].path)
    assert rate_hz == 44_100 and samples.shape == (11, 2)
    np.testing.assert_array_equal(samples[0], [0.25, -1.5])  # beyond full scale, kept


@pytest.mark.parametrize(
    ("name", "splits"), [("split_speech", {"train", "dev", "test"}), ("fold_speech", {None}), ("plain_speech", {None})]
)
def test_the_splits_of_a_dataset_are_kept_where_there_are_several_that_we_know(tmp_path, name, splits):
    assert {clip.split for clip in from_tfds.load(name, "", str(tmp_path)).clips} == splits


def test_the_second_load_writes_nothing_and_lost_files_are_named(tmp_path):
    corpus = from_tfds.load("lost_speech", "", str(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.wav")}
    assert len(before) == 2 and not list(tmp_path.rglob("*.part"))
    assert from_tfds.load("lost_speech", "", str(tmp_path)) == corpus
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.wav")} == before
    Path(corpus.clips[0].path).parents[1].joinpath("clips.csv").unlink()
    with pytest.raises(UserError, match=r"clips\.csv: No such file.* Delete the folder"):
        from_tfds.load("lost_speech", "", str(tmp_path))


def test_writing_that_breaks_off_leaves_no_corpus_and_the_next_run_makes_it_whole(tmp_path, monkeypatch):
    write, calls = soundfile.write, itertools.count()

    def failing(*args, **kwargs):
        if next(calls) == 3:
            raise OSError(28, "No space left on device")
        write(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(soundfile, "write", failing)
        with pytest.raises(UserError, match=r"Cannot write .*plain_speech.*No space left"):
            from_tfds.load("plain_speech", "", str(tmp_path))
    assert not list(tmp_path.rglob("*.wav"))
    assert len(from_tfds.load("plain_speech", "", str(tmp_path)).clips) == 7


def test_a_prepared_dataset_is_read_from_its_folder_without_its_code(tmp_path):
    corpus = from_tfds.load("plain_speech", str(tmp_path / "data"), str(tmp_path / "here"))
    code = NO_TENSORFLOW + (
        "from emoflax.corpora import from_tfds; corpus = from_tfds.load('plain_speech', *sys.argv[1:]); "
        "print(corpus.name, *corpus.labels, *[clip.speaker for clip in corpus.clips])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "data"), str(tmp_path / "there")]
    said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    assert said == [corpus.name, *corpus.labels, *[clip.speaker for clip in corpus.clips]]


@pytest.mark.parametrize(
    ("name", "missing"),
    [("no_audio", "no audio feature"), ("no_label", "no label feature"), ("no_speaker", "no speaker feature"),
     ("no_sample_rate", "does not state its sample rate")],
)  # fmt: skip
def test_a_dataset_that_lacks_something_is_refused_before_it_is_prepared_with_the_features_it_has(
    tmp_path, name, missing
):
    with pytest.raises(UserError, match=missing) as caught:
        from_tfds.load(name, "", str(tmp_path))
    present = {key for key in PLAIN if name != f"no_{key}"}
    assert all(key in str(caught.value).split("It has")[1] for key in present)
    assert not list(tmp_path.rglob("*.array_record*"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_speech", "no dataset no_such_speech.*Check the spelling"),
        ("plain_speech:7.0.0", "cannot be loaded at version 7.0.0"),
        ("plain speech", "cannot open the dataset plain speech"),
    ],
)
def test_a_name_that_tfds_does_not_know_is_refused(tmp_path, name, said):
    with pytest.raises(UserError, match=said):
        from_tfds.load(name, "", str(tmp_path))


def test_a_dataset_that_needs_tensorflow_says_so_and_what_to_install(tmp_path):
    code = NO_TENSORFLOW + (
        "from emoflax.corpora import from_tfds\n"
        "try:\n    from_tfds.load('crema_d', '', sys.argv[1])\n"
        "except from_tfds.UserError as error:\n    print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert "crema_d needs tensorflow" in said.stdout and "`pip install tensorflow`" in said.stdout


def test_a_dataset_that_is_prepared_as_tfrecord_is_refused_with_the_remedy(tmp_path):
    from_tfds.load("plain_speech", str(tmp_path / "data"), str(tmp_path))
    about = tmp_path / "data" / "plain_speech" / "1.0.0" / "dataset_info.json"
    info = json.loads(about.read_text())
    about.write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match="array_record"):
        from_tfds.load("plain_speech", str(tmp_path / "data"), str(tmp_path / "new"))


@pytest.fixture(scope="module")
def ravdess_like(tmp_path_factory) -> Path:
    """1440 very short recordings under RAVDESS's names, one of them stereo."""
    folder = tmp_path_factory.mktemp("recordings")
    for number, clip_id in enumerate(sorted(ravdess.PUBLISHED_IDS)):
        path = folder / f"{clip_id}.wav"
        path.parent.mkdir(exist_ok=True)
        samples = np.random.default_rng(number).integers(-30_000, 30_000, 97).astype(np.int16)
        soundfile.write(path, np.stack([samples, 0 * samples], 1) if number == 5 else samples, 48_000)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, ravdess_like) -> Path:
    """tfds's data_dir, prepared as somebody without TensorFlow would prepare it."""
    data_dir = tmp_path_factory.mktemp("prepared")
    code = NO_TENSORFLOW + (
        "import tensorflow_datasets as tfds, emoflax.corpora.ravdess_speech\n"
        "builder = tfds.builder('ravdess_speech', data_dir=sys.argv[1], file_format='array_record')\n"
        "config = tfds.download.DownloadConfig(manual_dir=sys.argv[2])\n"
        "builder.download_and_prepare(download_config=config)\n"
        "print(len(builder.as_data_source(split='train')))"
    )
    command = [sys.executable, "-c", code, str(data_dir), str(ravdess_like)]
    said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert said.split()[-1] == "1440"
    return data_dir


def test_our_builder_gives_the_same_corpus_as_the_recordings_themselves(tmp_path, prepared, ravdess_like):
    corpus = from_tfds.load("ravdess_speech", str(prepared), str(tmp_path))
    direct = ravdess.load(str(ravdess_like), str(tmp_path))
    assert corpus.labels == direct.labels and len(corpus.clips) == 1440
    expected = {}
    for clip in direct.clips:
        samples = soundfile.read(clip.path, dtype="int16", always_2d=True)[0].mean(1).round().astype(np.int16)
        expected[samples.tobytes()] = (clip.label, clip.speaker, clip.text)
    for clip in corpus.clips:
        samples, rate_hz = soundfile.read(clip.path, dtype="int16")
        assert rate_hz == 48_000
        assert expected.pop(samples.tobytes()) == (clip.label, clip.speaker, clip.text)
    assert not expected


def test_our_builder_tells_intensity_repetition_and_name_of_each_clip(prepared):
    source = tfds.builder("ravdess_speech", data_dir=prepared).as_data_source(split="train")
    for example in source:
        code = example["clip_id"].decode().split("/")[1].split("-")
        told = (example["label"] + 1, example["intensity"] + 1, example["repetition"], int(example["speaker"]))
        assert told == (int(code[2]), int(code[3]), int(code[5]), int(code[6]))


def test_an_incomplete_ravdess_is_refused_by_name(tmp_path):
    manual = tmp_path / "data" / "downloads" / "manual" / "Actor_01"
    manual.mkdir(parents=True)
    soundfile.write(manual / "03-01-01-01-01-01-01.wav", np.zeros(9, np.int16), 48_000)
    with pytest.raises(UserError, match="1 of its 1440 clips"):
        from_tfds.load("ravdess_speech", str(tmp_path / "data"), str(tmp_path / "cache"))
