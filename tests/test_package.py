"""The wheel takes one name, runs from anywhere, and needs for sound nothing that is optional."""

import os
import pathlib
import subprocess
import sys
import tomllib
import zipfile

import cli
import pytest
from packaging.requirements import Requirement

import emoflax

OPTIONAL = (
    "torch", "triton", "tensorflow", "tensorflow_datasets", "optuna", "apache_beam", "whisper", "faster_whisper",
    "jiwer", "tokenizers", "fastapi", "uvicorn", "prometheus_client",
    "jiwer", "tokenizers", "onnx", "onnxruntime", "opensmile",
)  # fmt: skip
# Runs the installed command in a process in which nothing optional can be imported: it is as if it were not there.
# Of scikit-learn, which librosa needs, only our own imports fail.
COMMAND = f"""
import builtins, sys
real = builtins.__import__
def refuse(name, *rest, **more):
    top, importer = name.split(".")[0], (rest[0] or {{}}).get("__name__", "") if rest else ""
    if top in {OPTIONAL} or (top == "sklearn" and importer.startswith("emoflax")):
        raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)
    return real(name, *rest, **more)
builtins.__import__ = refuse
from emoflax.main import run
status = run()
assert not set({OPTIONAL}) & {{name for name, module in sys.modules.items() if module}}
sys.exit(status)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = ["wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *build], cwd=cli.ROOT, check=True, timeout=120)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """A folder with the installed package, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("site")
    install = ["install", str(wheel), "--no-deps", "--no-index", "-q", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, timeout=120)
    return folder


def python(site: pathlib.Path, folder: pathlib.Path, *arguments: str, status: int = 0) -> str:
    environment = cli.ENVIRONMENT | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, text=True, timeout=240,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == status, done.stdout[-4000:]
    return done.stdout


def test_the_wheel_holds_all_of_the_program_under_one_name(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"emoflax", f"emoflax-{emoflax.__version__}.dist-info"}
    listing = subprocess.run(["git", "ls-files"], cwd=cli.ROOT, capture_output=True, text=True)
    sources = [name for name in listing.stdout.split() if name.startswith(("emoflax/", "configs/", "precompute/"))]
    assert len(sources) > 100
    wanted = {name if name.startswith("emoflax/") else f"emoflax/{name}" for name in [*sources, "main.py"]}
    assert wanted <= set(names) and "emoflax/py.typed" in names


def test_the_package_is_imported_from_where_it_is_installed_with_its_version(site, tmp_path):
    script = "import emoflax, emoflax.configs.cnn2, emoflax.precompute; print(emoflax.__version__, emoflax.__path__)"
    assert python(site, tmp_path, "-c", script).strip() == f"{emoflax.__version__} {[str(site / 'emoflax')]}"


def test_the_command_is_installed_and_lists_its_flags(site, tmp_path):
    assert "--mode" in python(site, tmp_path, str(site / "bin" / "emoflax"), "--help")


def test_a_packaged_config_trains_and_predicts_in_any_folder_without_what_is_optional(site, tmp_path):
    config = ("--config", str(site / "emoflax" / "configs" / "tiny.py"), "--config.train.epochs=1",
              "--config.precompute.workers=1")  # fmt: skip
    output = python(site, tmp_path, "-c", COMMAND, *config)
    assert "tiny on synthetic" in output and (tmp_path / "runs" / "tiny-synthetic-speakers5" / "report.md").exists()
    assert (tmp_path / "runs" / "tiny-synthetic-speakers5" / "report.html").stat().st_size > 100_000, output[-2000:]
    voice = next((tmp_path / "cache").rglob("*.wav"))
    model = "--checkpoint=runs/tiny-synthetic-speakers5/seed0-fold1"
    output = python(site, tmp_path, "-c", COMMAND, "--mode=predict", model, f"--inputs={voice}")
    assert voice.name in output


@pytest.mark.parametrize(
    ("flags", "extra"),
    [
        (("--mode=sweep", "--config={configs}/sweep.py", "--config.data.corpus=synthetic"), "sweep"),
        (("--mode=serve", "--bundle=emotions"), "serve"),
        (("--mode=benchmark", "--config={configs}/tiny.py"), "benchmark"),
        (("--mode=precompute", "--config={configs}/tiny.py", "--config.data.corpus=tfds:ravdess_speech"), "tfds"),
    ],
)
def test_what_is_not_installed_is_named_with_the_extra_that_brings_it(site, tmp_path, flags, extra):
    flags = [flag.format(configs=site / "emoflax" / "configs") for flag in flags]
    assert f"pip install 'emoflax[{extra}]'" in python(site, tmp_path, "-c", COMMAND, *flags, status=2)


def test_every_dependency_begins_at_the_release_that_is_tested():
    project = tomllib.loads((cli.ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for name in extras if name != "docs" for line in extras[name])]
    pins = {}
    for file in ("requirements.txt", "tests/requirements.txt", "tests/requirements-opensmile.txt"):
        lines = [line.split("#")[0].strip() for line in (cli.ROOT / file).read_text().splitlines()]
        pinned = [Requirement(line) for line in lines if line and not line.startswith("-")]
        pins |= {pin.name: next(iter(pin.specifier)).version for pin in pinned}
    least = {r.name: next(iter(r.specifier)).version for r in map(Requirement, wanted) if r.name != "emoflax"}
    assert least == {name: pins[name] for name in least}


def test_cores_are_counted_where_the_system_does_not_report_which_may_be_used(site, tmp_path):
    script = "import os; del os.sched_getaffinity; from emoflax.parallel import workers; print(workers.usable_cores())"
    assert python(site, tmp_path, "-c", script).strip() == str(os.cpu_count())


def test_the_program_asks_for_cores_in_one_place():
    files = [path for folder in ("emoflax", "configs", "precompute") for path in (cli.ROOT / folder).rglob("*.py")]
    using = [path.name for path in files if "sched_getaffinity" in path.read_text() or "cpu_count" in path.read_text()]
    assert using == ["workers.py"]
