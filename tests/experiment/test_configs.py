"""Every config says what it is for and how it is run, and asks only for what there is."""

import importlib
import pathlib

import pytest
import small_weights
from flax.traverse_util import flatten_dict

from emoflax.configs import default
from emoflax.selection.candidates import candidates_of

NAMES = sorted(path.stem for path in pathlib.Path(default.__file__).parent.glob("*.py") if path.stem != "__init__")
OWN = ("crossval.candidates", "sweep.space")  # of a config: names of candidates, and fields to be searched


def fields(config) -> set[str]:
    return {name for name in flatten_dict(config.to_dict(), sep=".") if not name.startswith(OWN)}


@pytest.mark.parametrize("name", NAMES)
def test_a_config_and_its_candidates_have_the_fields_of_the_default_and_no_others(name, tmp_path):
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config()
    small_weights.put_into(config, tmp_path)
    assert fields(config) == fields(default.get_config())
    for candidate in candidates_of(config).values():  # raises for a field that there is not
        assert candidate.name == config.name
    assert name == "default" or f"configs/{name}.py" in module.__doc__
