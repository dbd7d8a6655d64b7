"""The benchmark compares equal work and writes all its numbers. Nothing is asserted about speed."""

import json
import math
import os
import subprocess
import sys

# Before torch is loaded: its spinning threads would take cores from other tests and wait for each other for seconds.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cli
import numpy as np
import pytest
import torch

from emoflax.benchmark import equality, flops, growth, run, setup, storage, timing, torch_runs
from emoflax.configs import default
from emoflax.errors import UserError

# The command with its flags in a process of its own, made to last seconds instead of minutes.
QUICK = """
import sys
from emoflax.benchmark import run, timing
timing.PEAK_SIZE = 64
run.run.__kwdefaults__.update(budget_s=0.1, clips=8)
timing.no_compilation_caches = lambda: None
import main
sys.exit(main.run())
"""


def config_of(audio="", text="", **model):
    config = default.get_config()
    config.name = "small"
    config.audio.mels, config.audio.hop_ms = 16, 50.0
    config.model.update(audio=audio, text=text, head=11, **model)
    config.model.attention.update(heads=2, hidden=3)
    config.model.attention_cnn.update(width=6, dilations=(1, 2))
    config.model.cnn.channels, config.model.gru.hidden, config.model.gru.embedding = (3, 5), 7, 6
    config.train.batch_size = 4
    return config


def numbers(value):
    """Every number of nested dicts and lists."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers(inner)
    elif isinstance(value, int | float):
        yield value


@pytest.mark.parametrize(
    "options",
    [
        {"audio": "cnn"},
        {"text": "gru"},
        {"audio": "attention_cnn", "pooling": "attention"},
        {"audio": "cnn", "text": "gru", "pooling": "mean"},
    ],
    ids=str,
)
def test_the_torch_twin_has_our_logits_loss_and_gradient(options):
    assert max(equality.check(config_of(**options)).values()) < 1e-5


@pytest.mark.parametrize("damage", ["audio.convolutions.1.weight", "logits.bias", "mean"])
def test_a_twin_that_computes_other_numbers_is_not_timed(damage, monkeypatch):
    build = torch_runs.twin

    def damaged(start):
        theirs = build(start)
        with torch.no_grad():
            theirs.state_dict()[damage].add_(0.1)
        return theirs

    monkeypatch.setattr(torch_runs, "twin", damaged)
    with pytest.raises(ArithmeticError, match="differ"):
        equality.check(config_of(audio="cnn"))


def test_both_sides_decay_the_same_weights():
    start = setup.prepare(config_of(audio="cnn", text="gru"))
    decayed, free = torch_runs.by_decay(torch_runs.twin(start))
    ours = start.config.optimizer
    assert sum(p.numel() for p in free) == sum(
        [3 + 5, 11, setup.CLASSES, (setup.WORDS + 2) * 6, 2 * 2 * 3 * 7]
    )  # convolutions, head, logits, embedding, both biases of both directions
    assert decayed and ours.weight_decay > 0


def test_dropout_is_on_in_both_while_timing():
    start = setup.prepare(config_of(text="gru"))
    trainer = torch_runs.Trainer(start, setup.first_batch(start.bucket(4, 4)), "eager")
    assert trainer.module.training
    losses = {float(trainer.gradient()[0]) for _ in range(3)}
    assert len(losses) == 3
    assert trainer.module.dropout.p == start.model.fusion.head.rate == 0.3


def test_an_encoder_without_a_twin_is_refused_with_those_that_have_one(tmp_path):
    config = config_of(audio="cnn")
    start = setup.prepare(config)
    start.config.model.audio = "ast"
    with pytest.raises(UserError, match=r"no PyTorch twin of config.model.audio='ast'.*cnn"):
        torch_runs.twin(start)


def flops_of(config):
    start = setup.prepare(config)
    bucket = start.bucket(4, 4)
    rows = bucket.rows.arrays()
    return flops.train_flops_per_clip(start, bucket), next(rows[n].shape[1] for n in ("logmel", "tokens") if n in rows)


def test_flops_equal_a_count_by_hand():
    counted, frames = flops_of(config_of(audio="cnn"))
    first, second = 2 * 9 * 1 * 3 * frames * 16, 2 * 9 * 3 * 5 * (frames // 2) * 8
    width = 5 * 4
    mean = 2 * (frames // 4) * width
    assert counted == 2 * first + 3 * second + 2 * mean + 6 * (2 * width * 11 + 11 * setup.CLASSES)


def test_flops_of_a_loop_are_those_of_all_its_turns():
    counted, tokens = flops_of(config_of(text="gru"))
    recurrence, width = 2 * 2 * tokens * 3 * 7 * (6 + 7), 14
    mean = 2 * tokens * width
    assert counted == 3 * recurrence + 2 * mean + 6 * (2 * width * 11 + 11 * setup.CLASSES)


def test_contestants_take_turns():
    calls = []
    times = timing.alternate({name: lambda name=name: calls.append(name) for name in "ab"}, 1, 0.0)
    assert calls == list("ab") * (1 + timing.MIN_ROUNDS)
    assert times["a"]["turns"] == timing.MIN_ROUNDS
    assert timing.ratios({"torch_x": {"median_ms": 6.0}, "ours": {"median_ms": 2.0}}, "ours", ("x", "y")) == {
        "x": 3.0,
        "y": None,
    }


@pytest.mark.parametrize("theirs", [np.full((16, 9), 0.2), np.zeros((16, 10))], ids=["louder", "longer"])
def test_features_that_differ_from_librosas_are_not_timed(theirs):
    storage._compare([np.zeros((9, 16))], [np.zeros((16, 9))])
    with pytest.raises(ArithmeticError, match="librosa"):
        storage._compare([np.zeros((9, 16))], [theirs])


def test_growth_is_the_epochs_time_divided_by_the_amount_of_sound(monkeypatch):
    monkeypatch.setattr(growth, "SIZES", ((1, 1), (2, 3)))
    small, large = growth.measure(config_of(audio="cnn"), clips=4, clip_s=0.4, budget_s=0.0)
    assert (small["clips"], small["clip_s"], small["share"]) == (4, 0.4, 1.0)
    assert (large["clips"], large["clip_s"]) == (8, pytest.approx(1.2))
    assert large["share"] == pytest.approx(large["epoch_s"] / small["epoch_s"] / 6)
    assert growth.table([small, large]).count("\n") == 3
    bucket = growth.random_clips(setup.prepare(config_of(audio="cnn")), 8, 24).buckets[0]
    assert bucket.rows.logmel.shape == (8, 24, 16) and bucket.steps == 2
    with pytest.raises(UserError, match="models of sound"):
        growth.measure(config_of(text="gru"), clips=4, clip_s=0.4, budget_s=0.0)


def test_a_model_of_words_is_benchmarked_without_precompute(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(timing, "PEAK_SIZE", 64)
    results = run.run(config_of(text="gru"), tmp_path, budget_s=0.1, modes=("eager", "channels_last"))
    assert json.loads((tmp_path / "benchmark-small" / "benchmark.json").read_text()) == results
    assert results["train_step"]["ratio_to_torch"]["eager"] > 0
    assert results["train_step"]["ratio_to_torch"]["channels_last"] is None
    assert "no convolution" in results["train_step"]["skipped"]["channels_last"]
    assert "precompute" not in results
    assert "PyTorch eager" in capsys.readouterr().out


def test_the_command_prints_a_table_and_writes_numbers_also_without_a_compiler(tmp_path):
    environment = cli.ENVIRONMENT | {
        "CXX": str(tmp_path / "no-compiler"),
        "PYTHONPATH": str(cli.ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", QUICK, cli.config("tiny"), "--mode=benchmark", "--config.precompute.workers=1"],
        cwd=tmp_path, env=environment, text=True, timeout=240, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert "Traceback" not in done.stdout
    results = json.loads((tmp_path / "runs" / "benchmark-tiny" / "benchmark.json").read_text())
    step = results["train_step"]
    assert set(step["ratio_to_torch"]) == {"eager", "channels_last", "compile"}
    assert step["ratio_to_torch"]["compile"] is None and "C++" in step["skipped"]["compile"]
    assert step["ratio_to_torch"]["eager"] == pytest.approx(
        step["torch_eager"]["median_ms"] / step["ours_epoch"]["median_ms"]
    )
    measured = [results[part] for part in ("train_step", "prediction", "checkpoint", "precompute", "peak_memory_mib")]
    assert all(math.isfinite(value) and value > 0 for value in numbers(measured))
    assert len(list(numbers(measured))) > 60
    assert results["machine"]["threads"] == len(os.sched_getaffinity(0))
    assert "ours, epoch in one program" in done.stdout and "torch.compile" in done.stdout
