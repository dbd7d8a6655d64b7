"""Both sides of the comparison get the same clips, and the time ends when an accuracy is on disk."""

import collections
import sys

import numpy as np
import pytest
import torch
from absl import flags
from ml_collections import config_flags

from emoflax import corpora
from emoflax.benchmark import time_to_result, usual_pipeline
from emoflax.benchmark.time_to_result import Run
from emoflax.corpora import synthetic
from emoflax.errors import UserError
from emoflax.experiment.members import members


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound") / "corpus"
    synthetic.make(folder, speakers=4, clips_per_emotion=2)
    return folder


def config_of(command, monkeypatch):
    """The config that main.py makes of a command line."""
    monkeypatch.setattr(sys, "argv", command[1:])  # where ml_collections looks for single fields
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    values(command[1:])
    return config.value


def test_both_sides_train_and_validate_on_the_same_clips(sound, tmp_path, monkeypatch):
    monkeypatch.chdir(time_to_result.ROOT)
    corpus = corpora.load("synthetic", str(sound), "")
    time_to_result.write_table(tmp_path / "clips.csv", corpus)
    config = config_of(time_to_result.our_command("synthetic", str(sound), tmp_path, 3), monkeypatch)
    (member,) = members(config, corpora.load(config.data.corpus, config.data.dir, ""), tmp_path)
    assert member.seed == 3 and config.data.cache_dir.startswith(str(tmp_path))
    ours = {part: [corpus.clips[i] for i in getattr(member.split, part)] for part in ("train", "dev")}
    for part, clips in ours.items():
        theirs = usual_pipeline.Clips(str(tmp_path / "clips.csv"), part)
        assert [row["path"] for row in theirs.rows] == [clip.path for clip in clips] and len(clips) > 5
        assert [row["label"] for row in theirs.rows] == [clip.label for clip in clips]
    counts = collections.Counter(clip.path for clips in ours.values() for clip in clips)
    assert max(counts.values()) == 1


def test_the_usual_pipeline_learns(sound, tmp_path):
    time_to_result.write_table(tmp_path / "clips.csv", corpora.load("synthetic", str(sound), ""))
    dataset = usual_pipeline.Clips(str(tmp_path / "clips.csv"), "train")
    sounds, labels = zip(*(dataset[place] for place in range(8)), strict=True)
    sounds, labels = torch.stack(sounds), torch.tensor(labels)
    assert sounds.shape == (8, 1, 128, 128) and sounds.dtype == torch.float32
    np.testing.assert_allclose(sounds.mean((1, 2, 3)), 0, atol=1e-4)
    torch.manual_seed(0)
    model = usual_pipeline.network(8)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    before = usual_pipeline.accuracy(model, [(sounds, labels)])
    for _ in range(5):
        usual_pipeline.train_step(model, optimizer, sounds, labels)
    assert usual_pipeline.accuracy(model, [(sounds, labels)]) > before


# Writes accuracies 0.1, 0.2, ... as training does; the last line is incomplete.
LEARNER = """
import pathlib, sys, time
path = pathlib.Path(sys.argv[1]); path.parent.mkdir(parents=True, exist_ok=True)
for epoch in range(1, int(sys.argv[2]) + 1):
    time.sleep(0.3)
    with path.open("a") as file: file.write('{"dev_accuracy": %.1f}\\n' % (epoch / 10))
with path.open("a") as file: file.write('{"dev_acc')
if sys.argv[3] == "wait": time.sleep(60)
sys.exit(int(sys.argv[3]))
"""


@pytest.mark.parametrize("place", ["metrics.jsonl", "runs/cnn2/seed0-fold1/metrics.jsonl"])
def test_the_time_ends_at_the_target_and_the_process_is_stopped(place, tmp_path):
    command = [sys.executable, "-c", LEARNER, str(tmp_path / place), "2", "wait"]
    run = time_to_result.watch(command, tmp_path, 0.2, 50.0)
    assert run.accuracies == [0.1, 0.2]
    assert 0.3 < run.seconds[0] < run.seconds[1] < 50
    assert run.seconds_to(0.15) == run.seconds_to(0.2) == run.seconds[1] and run.seconds_to(0.3) is None


def test_a_run_may_miss_its_target_or_its_time_but_not_fail(tmp_path):
    def watch(name, epochs, end, limit_s):
        (tmp_path / name).mkdir()
        command = [sys.executable, "-c", LEARNER, str(tmp_path / name / "metrics.jsonl"), str(epochs), end]
        return time_to_result.watch(command, tmp_path / name, 0.9, limit_s)

    assert watch("short", 1, "0", 50.0).accuracies == [0.1]
    assert watch("late", 0, "wait", 0.5).accuracies == []
    with pytest.raises(UserError, match="ended with status 7"):
        watch("failed", 0, "7", 50.0)


def test_the_table_gives_the_time_of_each_target_or_the_best_accuracy():
    runs = {0: {"ours": Run([0.3, 0.5, 0.7], [8.0, 10.0, 12.0]), "usual": Run([0.2, 0.45], [40.0, 80.0])}}
    lines = time_to_result.table(runs, [0.41, 0.6]).splitlines()
    assert lines[2] == "| 0 | 41 % | 10.0 | 80.0 | 8.0 |"
    assert lines[3] == "| 0 | 60 % | 12.0 | not in 2 epochs, 80 s (best 45 %) | - |"
