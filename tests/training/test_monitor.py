"""Logging costs a training process little, and TensorBoard gets a run's test scores, settings and pictures."""

import io
import subprocess
import sys

import cli
import matplotlib.image
import numpy as np
from tensorboardX.proto import event_pb2, plugin_hparams_pb2

from emoflax.training import monitor

SCRIPT = """
import pathlib, sys
from emoflax.training.monitor import Monitor
monitor = Monitor(pathlib.Path(sys.argv[1]), "a run", 0, 1)
monitor.epoch({"epoch": 1, "loss": 1.0, "dev_uar": None, "clips_per_s": 1.0})
monitor.close()
print("torch" in sys.modules)
import torch
print(torch.ones(1).item())
"""


def test_logging_for_tensorboard_loads_no_pytorch_and_does_not_hide_it_from_others(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=cli.ROOT, check=True, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.stdout.split() == ["False", "1.0"]
    assert any((tmp_path / "tensorboard").iterdir())


def events(folder):
    """What a folder's event files hold, in order: 8 bytes of length, 4 of checksum, the event, 4 of checksum."""
    for path in sorted(folder.iterdir()):
        file = io.BytesIO(path.read_bytes())
        while head := file.read(12):
            yield event_pb2.Event.FromString(file.read(int.from_bytes(head[:8], "little")))
            file.read(4)


def test_tensorboard_gets_test_scores_the_confusion_picture_and_a_row_of_settings(tmp_path):
    picture = tmp_path / "confusion.png"
    matplotlib.image.imsave(picture, np.zeros((20, 30)))
    fields = {"train.epochs": 3, "model.cnn.channels": (4, 8), "name": "tiny"}
    monitor.log_test(tmp_path, {"test/uar": 0.5}, [picture], fields)
    values = [value for event in events(tmp_path / "tensorboard") for value in event.summary.value]
    by_tag = {value.tag: value for value in values}
    assert by_tag["test/uar"].simple_value == 0.5
    image = by_tag["test/confusion"].image
    assert (image.width, image.height) == (30, 20) and image.encoded_image_string == picture.read_bytes()
    content = by_tag["_hparams_/session_start_info"].metadata.plugin_data.content
    row = plugin_hparams_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert row["train.epochs"].number_value == 3 and row["model.cnn.channels"].string_value == "(4, 8)"
