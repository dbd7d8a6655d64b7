"""The benchmark of an accelerator keeps each part as soon as it is measured. Nothing is asserted about speed."""

import argparse
import json
import os
import subprocess
import sys

# Before torch is loaded: its spinning threads would take cores from other tests and wait for each other for seconds.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cli
import jax
import pytest

from emoflax.benchmark import accelerator, accelerator_parts, accelerator_tables, device, shapes
from emoflax.errors import UserError

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from emoflax.benchmark import accelerator, device
print(device.torch_missing())
"""


FACTS = {"device": "a chip", "devices": 1, "driver": "1", "compiler": "2", "machine": "m", "platform": "gpu",
         "jax": "3", "torch": "4", "without_torch": "", "quick": False}  # fmt: skip


@pytest.fixture(autouse=True)
def platform_of_the_tests():
    yield
    jax.config.update("jax_platforms", "cpu")


def options(folder, models, **changed):
    given = {"platform": "cpu", "models": models, "fresh": False, "quick": True, "workdir": folder}
    return argparse.Namespace(**given | changed)


def kept(folder):
    return json.loads((folder / "accelerator.json").read_text())["parts"]


def test_the_command_fills_all_tables_once(tmp_path, capsys):
    accelerator.main(options(tmp_path, "cnn2"))
    parts = kept(tmp_path)
    assert set(parts) == set(accelerator_parts.parts(("cnn2",))) and "failed" not in str(parts)
    check_filled(tmp_path)
    measured = (tmp_path / "accelerator.json").read_bytes()
    assert capsys.readouterr().out.count(": measured") == len(parts)
    accelerator.main(options(tmp_path, "cnn2"))
    assert (tmp_path / "accelerator.json").read_bytes() == measured
    assert ": measured" not in capsys.readouterr().out


def test_without_torch_a_sentence_says_so_and_ours_stand_alone():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], cwd=cli.ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    reason = done.stdout.strip()
    assert reason == "PyTorch is not installed, so ours stand alone: pip install 'emoflax[benchmark]'"
    job = accelerator_parts.Job(accelerator_parts.QUICK, {"product/float32": {"flops": {"jax": 1e9}}}, reason)
    part = accelerator_parts.train(job, model="cnn2", dtype="float32")
    assert not [name for name in part["train_step"] if name.startswith("torch")]
    part |= {"date": "d", "commit": "c"}
    text = "\n".join(accelerator_tables.header(FACTS | {"without_torch": reason}, {"train/cnn2/float32": part}))
    assert f"**{reason}.**" in text


def test_what_stood_alone_is_measured_again_once_torch_is_there(tmp_path):
    alone = {"date": "d", "commit": "c", "without_torch": "none"}
    accelerator.Record(tmp_path, FACTS | {"without_torch": "none"}, fresh=False).keep("a", alone)
    assert accelerator.Record(tmp_path, FACTS | {"without_torch": "none"}, fresh=False).has("a")
    assert not accelerator.Record(tmp_path, FACTS, fresh=False).has("a")


def check_filled(folder):
    """Every table is there, and a dash only where the processor has nothing to show."""
    text = (folder / accelerator_tables.MARKDOWN).read_text()
    tables = {part.splitlines()[0]: part for part in text.split("\n## ")[1:]}
    assert [title.split(",")[0].split(":")[0] for title in tables] == [
        "Peak", "Train step", "Share of the device", "Prediction", "A population in one program beside the same models "
        "one by one",
    ]  # fmt: skip
    rows = {title: [line for line in part.splitlines() if line.startswith("| ")][1:] for title, part in tables.items()}
    assert [len(of_table) for of_table in rows.values()] == [2, 2, 2, 4 * 2, 1]
    step = json.loads((folder / "accelerator.json").read_text())["parts"]["train/cnn2/bfloat16"]["train_step"]
    assert step["ratio_to_torch"]["channels_last"] > 0 and step["memory_mib"]["ours_step"] > 0
    assert "Made by --quick" in text and (folder / "accelerator.html").read_text().count("<tr>") == 5 + 15
    assert f"| {accelerator_parts.MEMBERS} |" in rows[list(rows)[-1]][0]


@pytest.mark.parametrize(("platform", "begin"), [(None, "this measures a GPU or TPU"), ("tpu", "--platform=tpu")])
def test_without_an_accelerator_one_sentence_says_what_there_is(platform, begin):
    with pytest.raises(UserError, match=rf"{begin}, and JAX finds only a processor, .*--platform=cpu"):
        device.choose(platform)


def test_a_model_that_is_not_there_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(UserError, match=r"--models: 'cnn7' is not one of: cnn2, "):
        accelerator.main(options(tmp_path, "cnn2,cnn7"))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def three_parts(monkeypatch):
    """Parts that are called in order; the second one fails as often as its list says."""
    called, trouble = [], [RuntimeError("RESOURCE_EXHAUSTED: out of memory\nat line 3")]

    def part(name):
        def measured(job):
            called.append(name)
            if name == "b" and trouble:
                raise trouble.pop()
            return {"number": len(job.parts)}

        return measured

    monkeypatch.setattr(accelerator_parts, "parts", lambda models: {name: part(name) for name in "abc"})
    return called, trouble


def test_a_part_that_fails_stops_no_other_and_is_the_only_one_that_is_tried_again(tmp_path, three_parts):
    def start():
        record = accelerator.Record(tmp_path, FACTS | {"without_torch": "none"}, fresh=False)
        accelerator.measure(record, ("cnn2",), accelerator_parts.QUICK)

    start()
    assert kept(tmp_path)["b"]["failed"] == "RuntimeError: RESOURCE_EXHAUSTED: out of memory"
    report = (tmp_path / accelerator_tables.MARKDOWN).read_text()
    assert "| b | RuntimeError: RESOURCE_EXHAUSTED: out of memory |" in report
    start()
    assert three_parts[0] == ["a", "b", "c", "b"] and "failed" not in kept(tmp_path)["b"]


def test_an_hour_that_ends_early_loses_only_the_part_in_work(tmp_path, three_parts):
    called, trouble = three_parts
    trouble[:] = [KeyboardInterrupt()]
    facts = FACTS | {"without_torch": "none"}
    with pytest.raises(KeyboardInterrupt):
        accelerator.measure(accelerator.Record(tmp_path, facts, fresh=False), (), accelerator_parts.QUICK)
    assert list(kept(tmp_path)) == ["a"] and (tmp_path / accelerator_tables.PAGE).exists()
    accelerator.measure(accelerator.Record(tmp_path, facts, fresh=False), (), accelerator_parts.QUICK)
    assert called == ["a", "b", "b", "c"]
    accelerator.measure(accelerator.Record(tmp_path, facts, fresh=True), (), accelerator_parts.QUICK)
    assert called[4:] == ["a", "b", "c"]


def test_a_record_of_another_device_is_not_gone_on_with(tmp_path):
    accelerator.Record(tmp_path, FACTS, fresh=False).keep("a", {"date": "d", "commit": "c", "without_torch": ""})
    with pytest.raises(UserError, match=r"was measured elsewhere \(device a chip\).*--fresh"):
        accelerator.Record(tmp_path, FACTS | {"device": "another"}, fresh=False)
    (tmp_path / "accelerator.json").write_text("{")
    with pytest.raises(UserError, match=r"accelerator.json is damaged .*--fresh"):
        accelerator.Record(tmp_path, FACTS, fresh=False)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756), ("NVIDIA A100-SXM4-40GB", 312), ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362.05), ("TPU v5 lite", 197), ("TPU v5p", 459), ("TPU v6 lite", 918), ("NVIDIA A10G", None),
        ("Intel(R) Xeon(R) Processor, 2 cores", None),
    ],
)  # fmt: skip
def test_the_data_sheet_is_that_of_the_device_or_none(name, tflops):
    expected = None if tflops is None else pytest.approx(tflops * 1e12)
    assert device.data_sheet_flops(name, "bfloat16") == expected


@pytest.mark.parametrize("name", shapes.NAMES)
def test_every_model_can_be_made_small(name):
    job = accelerator_parts.Job(accelerator_parts.QUICK, {}, "none")
    assert job.config(name).train.batch_size == 4
