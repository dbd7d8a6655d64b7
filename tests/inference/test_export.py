"""What is exported gives the model's probabilities in a process that knows neither flax nor emoflax, or is refused."""

import argparse
import json
import re
import subprocess
import sys

import cli
import numpy as np
import pytest
import soundfile
from toy_models import small, trained

from emoflax.benchmark import exported
from emoflax.configs import attention_cnn, cnn3, functionals, gru, tiny
from emoflax.errors import NotInstalled, UserError
from emoflax.experiment import evaluate
from emoflax.experiment.model import build_model
from emoflax.experiment.train_config import train_config_of
from emoflax.inference import export, export_check, recordings
from emoflax.inference.export_program import program_of
from emoflax.inference.member import Member
from emoflax.inference.model import Model

BLOCKED = {"stablehlo": ("flax", "emoflax", "orbax"), "onnx": ("flax", "emoflax", "orbax", "jax"),
           "safetensors": ("flax", "emoflax", "orbax", "jax")}  # fmt: skip
PROGRAMS = dict(zip(("stablehlo", "onnx", "safetensors"),
                    re.findall(r"^```python\n(.*?)^```", (cli.ROOT / "docs" / "export.md").read_text(), re.M | re.S),
                    strict=True))  # fmt: skip


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A model of log-mels whose weights are random and whose normalisation is that of six clips."""
    model = trained(small(tiny, **{"data.max_s": 1.5}), tmp_path_factory.mktemp("network"))
    model.temperature = 4.0  # random weights are too sure to show much
    return model


@pytest.fixture(scope="module")
def statistics(tmp_path_factory):
    """A closed-form model of 40 statistics at two speeds, and its folder."""
    fields = {"functionals.statistics": False, "functionals.kernels": 8, "functionals.speeds": (0.9, 1.1)}
    return trained(small(functionals, **fields), tmp_path_factory.mktemp("statistics"))


@pytest.fixture(scope="module")
def files(network, statistics, tmp_path_factory):
    """Every format, under the names of docs/export.md, and what the programs there read."""
    folder = tmp_path_factory.mktemp("files")
    for kind in ("stablehlo", "onnx"):
        export.program(network, kind, "waveform", folder / f"emotions.{kind}")
    export.weights(statistics, folder / "functionals.safetensors")
    (voice,) = export_check.recordings_for(network, 1)
    soundfile.write(folder / "speech.wav", voice.samples, voice.rate_hz, subtype="FLOAT")
    np.save(folder / "functionals.npy", export_check.features(statistics, [voice])[0][0])
    return folder


def without(names, program, cwd):
    """What a program prints in a process in which those packages cannot be imported."""
    block = f"import sys\nfor name in {names}: sys.modules[name] = None\n"
    environment = {key: value for key, value in cli.ENVIRONMENT.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", block + program]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("kind", PROGRAMS)
def test_the_programs_of_the_documentation_print_the_models_probabilities(kind, files, network, statistics):
    printed = without(BLOCKED[kind], PROGRAMS[kind], files)
    model = statistics if kind == "safetensors" else network
    expected = np.exp(model.log_probabilities([recordings.read(files / "speech.wav")])[0][0])
    labels, values = zip(*(line.split() for line in printed.splitlines()), strict=True)
    assert labels == tuple(model.labels) and len(PROGRAMS[kind].splitlines()) <= 14
    np.testing.assert_allclose(np.array(values, float), expected, atol=1.1e-5)


RUN_ALL = """
import numpy as np
given = np.load("clips.npz")
arrays = given["waveform"], given["lengths"]
if {kind!r} == "onnx":
    import onnxruntime
    session = onnxruntime.InferenceSession("emotions.onnx")
    probabilities = session.run(None, dict(zip(("waveform", "lengths"), arrays)))[0]
else:
    import jax, jax.export
    program = jax.export.deserialize(bytearray(open("emotions.stablehlo", "rb").read()))
    assert set(program.platforms) == {{"cpu", "cuda", "tpu"}}
    probabilities = jax.jit(program.call)(*arrays)
np.save("{kind}.npy", probabilities)
"""


def test_a_hundred_recordings_of_random_length_have_the_same_probabilities_without_flax(files, network):
    opened = export_check.recordings_for(network, 100)
    waveform, lengths = export_check.waveforms(opened)
    assert len(set(lengths)) > 90 and lengths.max() > 1.5 * 16_000
    np.savez(files / "clips.npz", waveform=waveform, lengths=lengths)
    expected = np.exp(network.log_probabilities(opened)[0])
    assert np.ptp(expected[:, 0]) > 0.05
    for kind in ("stablehlo", "onnx"):
        without(BLOCKED[kind], RUN_ALL.format(kind=kind), files)
        np.testing.assert_allclose(np.load(files / f"{kind}.npy"), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "fields"),
    [
        (cnn3, {"model.cnn.channels": (4, 8, 8), "audio.mels": 16}),
        (attention_cnn, {"audio.contours": False, "audio.mels": 16, "model.attention_cnn.width": 16}),
    ],
    ids=["cnn3", "attention_cnn"],
)
def test_a_hundred_recordings_have_the_same_probabilities_as_stablehlo(module, fields, tmp_path):
    model = trained(small(module, **fields, **{"data.max_s": 1.5}), tmp_path)
    opened = export_check.recordings_for(model, 100)
    content = export._stablehlo(program_of(model, "waveform"), {}, "")
    probabilities = export.STARTS["stablehlo"](content)(export_check.waveforms(opened))
    expected = np.exp(model.log_probabilities(opened)[0])
    assert np.ptp(expected[:, 0]) > 0.05
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_the_command_that_compares_a_file_with_its_model_names_the_largest_difference(
    files, network, tmp_path, monkeypatch
):
    monkeypatch.setattr(exported, "load", lambda _: network)
    options = argparse.Namespace(model="", program=files / "emotions.onnx", clips=20, workdir=tmp_path)
    exported.main(options)
    found = json.loads((tmp_path / "exported.json").read_text())
    assert found["clips"] == 20 and found["longest_s"] > 1.5 and found["largest"] <= 1e-5
    options.program = files / "speech.wav"
    with pytest.raises(UserError, match=r"speech\.wav is no file that ends in \.stablehlo or \.onnx"):
        exported.main(options)


def test_the_description_names_inputs_labels_and_what_was_found(files, network):
    about = json.loads((files / "emotions.onnx.json").read_text())
    assert about["labels"] == list(network.labels) and about["largest_difference"] <= about["tolerance"] == 1e-5
    assert [(one["name"], one["shape"]) for one in about["inputs"]] == [("waveform", ["batch", "samples"]),
                                                                        ("lengths", ["batch"])]  # fmt: skip
    assert {path.name for path in files.glob("*.tmp")} == set()


def test_a_program_of_features_weighs_the_members_that_take_different_ones(network, statistics, tmp_path):
    members = [*network.members, *statistics.members]
    for member, name, weight in zip(members, ("network", "statistics"), (0.3, 0.9), strict=True):
        member.name, member.weight = name, weight
    both = Model(members, {}, "both")
    apart = export.program(both, "onnx", "features", tmp_path / "both.onnx")
    about = json.loads((tmp_path / "both.onnx.json").read_text())
    assert apart <= 1e-5 and [one["name"] for one in about["inputs"]] == ["logmel_1", "frames_1", "functionals_2"]
    with pytest.raises(UserError, match="both: statistics takes pitch and formants.*--export_input=features"):
        program_of(both, "waveform")
    for member in members:
        member.name, member.weight = "", 1.0


def untrained(config, name, vocabulary=()):
    model = build_model(config, len(vocabulary), 2, 0)
    made = train_config_of(config, model, 1)
    description = {"labels": ("angry", "calm"), "vocabulary": list(vocabulary), "corpus": "toy", "notice": "",
                   "protocol": "loso"}  # fmt: skip
    return Model([Member(name, 1.0, evaluate.Trained(config, description, made.model, made.init(model, 0)))], {}, "toy")


def test_a_recurrent_model_of_words_is_exported_from_its_tokens_on(tmp_path):
    config = small(gru, **{"model.gru.hidden": 8, "model.gru.embedding": 8, "model.head": 8})
    model = untrained(config, "gru", [f"word{letter}" for letter in "abcdefghijkl"])
    with pytest.raises(UserError, match="toy: gru takes words"):
        program_of(model, "waveform")
    for kind in ("stablehlo", "onnx"):
        assert export.program(model, kind, "features", tmp_path / f"words.{kind}") <= 1e-6
    about = json.loads((tmp_path / "words.onnx.json").read_text())
    assert about["vocabularies"] == [list(model.members[0].trained.description["vocabulary"])]


def test_contours_are_refused_with_the_reason_before_any_work(tmp_path):
    model = untrained(small(attention_cnn, **{"model.attention_cnn.width": 16}), "attention")
    with pytest.raises(UserError, match="toy: attention takes pitch and formants.*exports it from its features on"):
        export.program(model, "stablehlo", "waveform", tmp_path / "a.stablehlo")


def test_another_model_than_the_exported_one_leaves_no_file(network, tmp_path, monkeypatch):
    honest = export.program_of

    def other(*arguments):
        made = honest(*arguments)
        function = made.function
        return made.__class__(made.inputs, lambda *arrays: function(*arrays)[:, ::-1], made.labels)

    monkeypatch.setattr(export, "program_of", other)
    with pytest.raises(UserError, match=r"e\.onnx was removed: its probabilities differ by 0\.\d+ from the model's"):
        export.program(network, "onnx", "waveform", tmp_path / "e.onnx")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_or_flag_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="needs --bundle=PATH or --checkpoint=RUN, --format=.* and --output=FILE"):
        export.run("bundle", None, "waveform", "x.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(NotInstalled, match=r"pip install 'emoflax\[onnx\]'"):
        export.run("bundle", "onnx", "waveform", str(tmp_path / "x.onnx"))
