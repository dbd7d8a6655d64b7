"""Lists of recordings that were misread once, as a user runs them: what each must give."""

import csv
import json

import cli
import numpy as np
import pytest
import soundfile

from emoflax import corpora
from emoflax.errors import UserError

RATE_HZ = 16_000
EMOTIONS = ("happy", "sad")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """24 recordings of three speakers, each of them twice under two names, 1.6 s long."""
    folder = tmp_path_factory.mktemp("cases")
    (folder / "audio").mkdir()
    for number in range(24):
        rng = np.random.default_rng(number)
        tone = np.sin(2 * np.pi * (200 + 150 * (number % 2)) * np.arange(int(1.6 * RATE_HZ)) / RATE_HZ)
        samples = 0.2 * tone + 0.02 * rng.normal(size=len(tone))
        for name in (f"{number:02d}", f"copy_{number:02d}"):
            soundfile.write(folder / "audio" / f"{name}.wav", samples, RATE_HZ)
    return folder


def rows(**changed):
    """{column: cell, or row number -> cell}."""
    made = []
    for number in range(24):
        row = {"file": f"audio/{number:02d}.wav", "emotion": EMOTIONS[number % 2], "speaker": f"0{number // 8 + 1}"}
        for column, cell in changed.items():
            row[column] = cell(number, row) if callable(cell) else cell
        made.append(row)
    return made


def write(path, table):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    return path


def run(place, name, table, *flags, mode="train"):
    write(place / f"{name}.csv", table)
    fields = {"data.corpus": "manifest", "data.dir": f"{name}.csv", "train.epochs": 1, "precompute.workers": 1}
    fields = [f"--config.{field}={value}" for field, value in fields.items()]
    output = cli.run(cli.config("tiny"), *fields, f"--mode={mode}", *flags, cwd=place)
    return " ".join(output.split())


def test_copies_are_kept_on_one_side_of_a_random_split_and_the_report_says_so(place):
    twins = rows() + rows(file=lambda number, row: row["file"].replace("/", "/copy_"))
    twins = [{name: row[name] for name in ("file", "emotion")} for row in twins]  # and nobody says who speaks
    output = run(place, "twins", twins, "--config.split.protocol=random_split")
    text = " ".join((place / "runs/tiny-manifest-twins-random_split/report.md").read_text().split())
    assert "clips are left out: they are the same recordings as dev or test clips" in text
    assert "speakers are UNKNOWN" in text and "of unknown speakers" in text and "none: no two speakers" in text
    assert "does not say who speaks" in output


def test_one_speaker_with_a_split_is_trained_and_the_report_says_what_that_means(place):
    table = rows(speaker="me", split=lambda number, row: "test" if number % 5 == 0 else "train")
    run(place, "one_speaker_split", table)
    report = json.loads((place / "runs/tiny-manifest-one_speaker_split-given/report.json").read_text())
    assert report["protocol_note"].startswith("ONE speaker alone, in training and in test")
    assert report["metrics"]["uar"]["low"] is None


def test_start_and_end_are_the_named_second_and_unhappy_is_an_emotion(place):
    table = rows(emotion=lambda number, row: row["emotion"].replace("sad", "unhappy"), start=0.25, end=1.25, note="x")
    flags = ("--config.data.store=wave", "--config.audio.trim_db=0.0")
    output = run(place, "start_end", table, *flags, mode="precompute")
    assert "3 speakers, 2 emotions" in output and "columns that are not used: note" in output
    index = next((place / "cache" / "manifest-start_end").rglob("shard-00000.json"))
    assert json.loads(index.read_text())["lengths"] == [RATE_HZ] * 24


@pytest.mark.parametrize(
    ("name", "changed", "says"),
    [
        ("speaker_spelling", {"speaker": lambda n, row: row["speaker"] if n % 2 else row["speaker"][1:]}, "'01' = '1'"),
        ("nan_emotion", {"emotion": lambda n, row: "nan" if n == 4 else row["emotion"]}, "line 6 has no emotion"),
        ("nan_speaker", {"speaker": lambda n, row: "NaN" if n == 4 else row["speaker"]}, "line 6 has no speaker"),
    ],
)
def test_a_list_that_cannot_be_meant_stops_with_the_reason(place, name, changed, says):
    with pytest.raises(UserError, match=says):
        corpora.load("manifest", str(write(place / f"{name}.csv", rows(**changed))), "")
