"""Many models in one program are the models that would have been trained one at a time."""

import dataclasses
import json
import os
import subprocess
import sys

import cli
import jax
import numpy as np
import pytest

from emoflax.audio.channels import CONDITIONS
from emoflax.benchmark import population as benchmark
from emoflax.configs import tiny
from emoflax.data.clip import Clip, Corpus
from emoflax.data.features import Features
from emoflax.experiment import evaluate, population
from emoflax.experiment.members import Member, folds

LABELS = ("calm", "happy", "sad")
TOLERANCE = 1e-4  # of weights of size 0.1, after two epochs: sums are taken in another order


class Shards:
    """Log-mels in memory, as a ShardSet hands them out: 6 speakers with 6 clips, of different lengths."""

    def __init__(self):
        rng = np.random.default_rng(7)
        self.manifest = {"settings": {}}
        self.ids = [f"s{s}/{i}" for s in range(6) for i in range(6)]
        self.rows = [rng.normal(i % 3, 1, (n, 8)).astype(np.float32) for i, n in enumerate(rng.integers(9, 50, 36))]
        self.lengths, self.digests = np.array([len(row) for row in self.rows]), self.ids
        self.conditions = np.full((len(self.ids), len(CONDITIONS)), np.nan)

    def __getitem__(self, row):
        return self.rows[row]


def features():
    clips = tuple(Clip(f"s{s}/{i}", LABELS[i % 3], f"s{s}", f"s{s}-{i}.wav") for s in range(6) for i in range(6))
    return Features(Corpus("toy", LABELS, clips), {"logmel": Shards()})


def config_of(learning_rate=1e-2):
    config = tiny.get_config()
    config.audio.mels, config.model.cnn.channels, config.train.epochs, config.train.ema = 8, (4,), 2, 0.9
    config.split.protocol, config.split.fold, config.train.batch_size = "loso", "all", 8
    config.augment.gain_db, config.augment.time_masks, config.train.label_smoothing = 3.0, 1, 0.1
    config.optimizer.learning_rate = learning_rate
    return config


def tasks(folder):
    """Members that differ in seed, in fold, and in learning rate."""
    made = []
    for name, config, fold, seed in (("a", config_of(), 0, 1), ("b", config_of(), 3, 2), ("c", config_of(3e-3), 3, 1)):
        split = folds(config, features().corpus, 0.0)[fold]
        made.append((config, features(), Member(seed, split, folder / name)))
    return made


def weights(folder):
    return {at.name: evaluate.restore(at / "checkpoints", last=True).state for at in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    population.train_members(tasks(folder), 0)
    return folder


def assert_same(ours, theirs):
    for name in ours:
        for a, b in zip(jax.tree.leaves(ours[name]), jax.tree.leaves(theirs[name]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=TOLERANCE, err_msg=name)


def test_a_population_of_seeds_folds_and_rates_is_its_members_trained_alone(one_by_one, tmp_path, monkeypatch):
    fitted = []
    fit = population.fit
    monkeypatch.setattr(population, "fit", lambda runs: (fitted.append(len(runs)), fit(runs)))
    population.train_members(tasks(tmp_path), 3)
    assert fitted == [3]  # one program for all
    ours = weights(tmp_path)
    assert list(ours) == ["a", "b", "c"]
    assert_same(ours, weights(one_by_one))
    for at in tmp_path.iterdir():
        ours, theirs = (
            [json.loads(line) for line in (folder / at.name / "metrics.jsonl").read_text().splitlines()]
            for folder in (tmp_path, one_by_one)
        )
        assert [x["epoch"] for x in ours] == [1, 2]
        assert [x["loss"] for x in ours] == pytest.approx([x["loss"] for x in theirs], rel=1e-4)


def test_members_dealt_out_to_two_devices_are_the_same(one_by_one, tmp_path):
    environment = cli.ENVIRONMENT | {"JAX_NUM_CPU_DEVICES": "2"}
    environment["PYTHONPATH"] = os.pathsep.join(
        map(str, (cli.ROOT, cli.ROOT / "tests", cli.ROOT / "tests" / "experiment"))
    )
    script = (
        "import pathlib, sys, jax\nimport test_population as t\nfrom emoflax.experiment import population\n"
        "assert jax.device_count() == 2\nfolder = pathlib.Path(sys.argv[1])\n"
        "seen, step = [], population.train_epoch\n"
        "population.train_epoch = lambda *a: (seen.append(len(a[2].step.sharding.device_set)), step(*a))[1]\n"
        "population.train_members(t.tasks(folder)[:2], 2)\nassert seen == [2, 2], seen\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment, check=True, timeout=300)
    ours = weights(tmp_path)
    assert list(ours) == ["a", "b"]
    assert_same(ours, weights(one_by_one))


def test_members_that_cannot_share_a_program_are_told_apart(tmp_path):
    (config, data, member), *_ = tasks(tmp_path)
    wide = config.copy_and_resolve_references()
    wide.model.cnn.channels = (8,)
    rate = config.copy_and_resolve_references()
    rate.optimizer.learning_rate, rate.model.dropout, rate.augment.gain_db = 0.5, 0.4, 3.0
    fewer = folds(config, data.corpus, 0.5)[0]
    other = Member(1, fewer, tmp_path / "fewer")
    found = list(population.chunks([(config, data, member), (wide, data, member), (rate, data, member),
                                    (config, data, other)], 8))  # fmt: skip
    assert [len(group) for group in found] == [2, 1, 1]


def test_closed_form_models_among_the_members_are_fitted_one_by_one(tmp_path, monkeypatch):
    fitted = []
    monkeypatch.setattr(population, "train_member", lambda config, features, member: fitted.append(member.folder))
    monkeypatch.setattr(population, "chunks", lambda tasks, size: iter([]))
    (config, data, member), *_ = tasks(tmp_path)
    closed_form = config.copy_and_resolve_references()
    closed_form.model.audio, closed_form.model.functionals = "", "ridge"
    other = dataclasses.replace(member, folder=tmp_path / "closed_form")
    population.train_members([(config, data, member), (closed_form, data, other)], 4)
    assert fitted == [other.folder]


def test_the_benchmark_times_the_same_models_alone_and_together():
    found = benchmark.measure(config_of(), members=2, budget_s=0.0)
    assert all(found[name]["median_ms"] > 0 and found[name]["processor_ms"] > 0 for name in ("alone", "together"))
