"""A fingerprint changes with the code that counts, and with nothing else."""

import pytest

import emoflax
from emoflax import fingerprint
from emoflax.configs import cnn2, default
from emoflax.experiment import identity

BASE = {
    "toy/__init__.py": "from emoflax.toy import unused",
    "toy/entry.py": "from emoflax.toy import used\nfrom emoflax.other import far\n\nrun = used.twice\n",
    "toy/used.py": "def twice(x):\n    from emoflax.toy.late import two\n    return two * x\n",
    "toy/late.py": "two = 2\n",
    "toy/unused.py": "three = 3\n",
    "other/far.py": "four = 4\n",
    "other/build.py": "def write():\n    from emoflax.toy.used import twice\n    return twice(1)\n\nREAD = 1\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes modules of a package `emoflax.toy`, changed ones in the place of BASE, and returns what is hashed."""
    monkeypatch.setattr(emoflax, "__path__", [*emoflax.__path__, str(tmp_path)])

    def of(function=None, **changed):
        for name, text in (BASE | {f"{place}.py".replace("__", "/"): text for place, text in changed.items()}).items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        fingerprint._read.cache_clear()
        return fingerprint.of_modules([function or "emoflax.toy.entry"], within=("emoflax.toy",))

    yield of
    fingerprint._read.cache_clear()


def test_what_a_module_imports_counts_wherever_it_does_so_but_only_within_the_packages_named(package):
    assert list(package()) == ["emoflax.toy.entry", "emoflax.toy.late", "emoflax.toy.used"]


def test_comments_docstrings_and_formatting_change_nothing(package):
    before = package()
    reformatted = (
        '"""Doc."""\n\ndef twice( x ):\n    """Doc."""\n    from emoflax.toy.late import (\n        two,\n    )\n'
    )
    assert (
        package(toy__used=f"{reformatted}    # why\n    return (two * x)\n", toy__late="# why\ntwo = 0x2\n") == before
    )


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("toy__late", "two = 2.0\n"),
        ("toy__late", "two = 3\n"),
        ("toy__late", "tow = 2\n"),
        ("toy__late", "two = -2\n"),
        ("toy__late", "two = 2\nthree = 3\n"),
        ("toy__used", "def twice(x):\n    from emoflax.toy.late import two\n    return x * two\n"),
        ("toy__used", "def twice(x=1):\n    from emoflax.toy.late import two\n    return two * x\n"),
        ("toy__used", "def twice(x):\n    from emoflax.toy.late import two\n    return two + x\n"),
    ],
)
def test_code_that_counts_changes_the_hash_of_its_module_alone(package, place, text):
    before, after = package(), package(**{place: text})
    module = "emoflax." + place.replace("__", ".")
    assert {name for name in before if before[name] != after[name]} == {module}
    assert fingerprint.changed(before) == [module]


def test_code_that_is_not_used_does_not_count(package):
    assert package(toy__unused="x = 1\n", other__far="x = 2\n") == package()


def test_a_function_counts_with_what_it_imports_and_without_its_neighbours(package):
    write = "emoflax.other.build.write"
    before = package(write)
    assert list(before) == [write, "emoflax.toy.late", "emoflax.toy.used"]
    assert package(write, other__build=BASE["other/build.py"].replace("READ = 1", "READ = 2")) == before
    package(write, other__build=BASE["other/build.py"].replace("twice(1)", "twice(2)"))
    assert fingerprint.changed(before) == [write]


def test_a_module_that_is_gone_has_changed_and_one_that_never_was_is_an_error(package):
    before = package()
    assert fingerprint.changed(before | {"emoflax.toy.gone": "0" * 16}) == ["emoflax.toy.gone"]
    with pytest.raises(ModuleNotFoundError, match="emoflax.toy.never"):
        package("emoflax.toy.never")


def test_other_models_do_not_count_in_a_models_code():
    config = default.get_config()
    config.update(cnn2.get_config())
    code = identity.model_code(config)
    assert {"emoflax.models.cnn", "emoflax.models.conv", "emoflax.models.classifier", "emoflax.masks"} <= code.keys()
    assert not code.keys() & {"emoflax.models", "emoflax.models.ast", "emoflax.models.gru", "emoflax.models.aligned"}
    config.model.update(audio="", functionals="aligned")
    assert {"emoflax.models.aligned", "emoflax.models.ridge"} <= identity.model_code(config).keys()
    assert {
        "emoflax.training.step",
        "emoflax.training.losses",
        "emoflax.training.optimizer",
        "emoflax.audio.augment",
    } <= (identity.training_code().keys())
    assert {"emoflax.data.dataset", "emoflax.data.rows"} <= fingerprint.of_modules(
        ["emoflax.data.dataset"], within=("emoflax.data",)
    ).keys()
