"""Parallel training on paper is counted from the models, and the document shows what the command computes."""

import json

import cli
import jax
import pytest
from flax import nnx

from emoflax.benchmark import communication, loopback, scaling, setup, shapes
from emoflax.benchmark.communication import Link
from emoflax.errors import UserError
from emoflax.experiment.model import build_model

LINK = Link(bytes_per_s=1e9, latency_s=1e-5, source="")


@pytest.fixture(scope="module")
def loads():
    return {name: communication.load_of(shapes.config_of(name)) for name in scaling.MODELS}


def test_parameters_are_those_of_the_model_that_is_built(loads):
    model = build_model(shapes.config_of("gru"), setup.WORDS, setup.CLASSES, seed=0)
    built = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert loads["gru"].parameters == loads["gru"].trained == built
    assert loads["gru"].gradient_bytes == 4 * built


def test_what_is_frozen_is_not_sent(loads):
    load = loads["wav2vec2_base"]
    # 94.4 million parameters are published, of which the convolutions' 4.2 stay as they are.
    assert load.parameters == pytest.approx(94.4e6, rel=0.01)
    assert load.parameters - load.trained == pytest.approx(4.2e6, rel=0.01)


def test_a_clip_of_the_shards_is_as_large_as_its_log_mels_its_samples_or_its_tokens(loads):
    assert loads["cnn2"].clip_bytes == 4 * 64 * round(3000 / shapes.config_of("cnn2").audio.hop_ms)
    assert loads["wav2vec2_base"].clip_bytes == 2 * 48_000
    assert loads["gru"].clip_bytes == 4 * 32


@pytest.mark.parametrize("devices", [2, 8, 512])
def test_a_ring_sends_nearly_twice_the_bytes_and_waits_for_each_neighbour_twice(devices):
    bytes_alone, waits_alone = LINK.all_reduce_s(1e9, devices), LINK.all_reduce_s(0, devices)
    assert waits_alone == pytest.approx(2 * (devices - 1) * 1e-5)
    assert bytes_alone - waits_alone == pytest.approx(2 - 2 / devices)
    assert LINK.all_reduce_s(1e9, 1) == 0


def test_the_document_shows_the_tables_of_the_command(loads):
    page = (cli.ROOT / "docs" / "scaling.md").read_text()
    made = scaling.volumes(loads), scaling.all_reduces(loads)
    assert all(table.markdown() in page for table in made)
    assert all(note in page for table in made for note in table.notes)


def test_efficiency_falls_with_devices_and_the_cost_of_an_epoch_is_its_time(loads):
    table = scaling.efficiencies(loads, {"cnn2": 20.0})
    (row,) = table.rows
    cells = dict(zip(table.head, row, strict=True))
    shares = [float(cells[f"100 GbE, {n}"].removesuffix(" %")) for n in scaling.DEVICES]
    assert 100 > shares[0] > shares[1] > shares[2] > 0
    assert float(cells["clips/s, one device"]) == 800
    assert float(cells["device-hours, one"]) == pytest.approx(1e6 / 800 / 3600, rel=1e-2)


def test_step_times_come_from_the_other_benchmarks_json(tmp_path):
    one, all_models, quick = (tmp_path / name for name in ("benchmark.json", "accelerator.json", "quick.json"))
    step = {"train_step": {"ours_epoch": {"median_ms": 2.0}}}
    one.write_text(json.dumps({"config": "cnn3", "machine": {"device": "a"}} | step))
    parts = {"train/gru/float32": step, "train/gru/bfloat16": {"failed": "x"}, "train/cnn2/float32": {"failed": "x"}}
    all_models.write_text(json.dumps({"facts": {"device": "b", "quick": False}, "parts": parts}))
    assert scaling.steps_of([one, all_models]) == ({"cnn3": 2.0, "gru": 2.0}, {"cnn3": "a", "gru": "b"})
    quick.write_text(json.dumps({"facts": {"device": "b", "quick": True}, "parts": parts}))
    for bad, reason in ((quick, "tiny models"), (tmp_path / "none.json", "No such file")):
        with pytest.raises(UserError, match=f"--steps: .*{bad.name} is no accelerator.json.*{reason}"):
            scaling.steps_of([bad])


def test_two_processes_on_loopback_give_the_link_of_the_prediction():
    two = loopback.together(2, {})
    link = loopback.link_of(two["link_ms"])
    assert 1e6 < link.bytes_per_s < 1e12 and 0 < link.latency_s < 1
    large_s = two["link_ms"][str(loopback.LARGE_BYTES)] / 1000
    assert link.all_reduce_s(loopback.LARGE_BYTES, 2) == pytest.approx(large_s)


def test_the_prediction_stands_beside_what_more_processes_measured():
    own = {"alone_ms": 4.0, "all_reduce_ms": 2.5, "collectives": 3, "together_ms": 7.0, "epoch_ms": 8.0}
    counts = {"1": {"models": {"gru": {"alone_ms": 3.0}}}, "4": {"models": {"gru": own}}}
    rows = loopback.table(counts, LINK, {"gru": 1_000_000}).rows
    assert rows[0] == ["`gru`", "1", "3", *["–"] * 5, "333"]
    predicted_ms = 1.5 * 1.0 + 6 * 3 * 0.01  # of a GB/s, and of three operations' latency
    assert [float(cell) for cell in rows[1][2:]] == pytest.approx(
        [4.0, 2.5, predicted_ms, 7.0, 4 + predicted_ms, 8.0, 143], rel=5e-3
    )


def test_a_process_that_fails_is_a_sentence_with_its_error_and_not_what_comes_after(tmp_path, monkeypatch):
    python = tmp_path / "python"
    last = "JaxRuntimeError: UNKNOWN: no peers"
    python.write_text(f"#!/bin/sh\necho '{last}' >&2\necho '    @ 0x7f (unknown)' >&2\nexit 134\n")
    python.chmod(0o755)
    monkeypatch.setattr(loopback.sys, "executable", str(python))
    with pytest.raises(UserError, match=f"one of 3 processes failed: {last}$"):
        loopback.together(3, {"cnn2": 2})
