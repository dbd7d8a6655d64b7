"""--config takes a packaged config's name or a path; what is wrong with either is said with what there is."""

import pytest

from emoflax.configs import cnn2
from emoflax.errors import UserError
from emoflax.experiment import config_files


def refused(name) -> str:
    with pytest.raises(UserError) as raised:
        config_files.load(str(name))
    return str(raised.value)


def test_a_name_is_the_packaged_config_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_files.load("cnn2")
    assert config.to_dict() == cnn2.get_config().to_dict() and config.is_locked


def test_a_file_is_taken_before_a_packaged_config_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "cnn2").write_text("from emoflax.configs import tiny\nget_config = tiny.get_config\n")
    monkeypatch.chdir(tmp_path)
    assert config_files.load("cnn2").name == "tiny"


def test_what_follows_a_colon_is_given_to_the_config(tmp_path):
    code = "from emoflax.configs import tiny\ndef get_config(name):\n  c = tiny.get_config()\n  c.name = name\n"
    code += "  return c\n"
    (tmp_path / "own.py").write_text(code)
    assert config_files.load(f"{tmp_path}/own.py:mine").name == "mine"


def test_a_config_that_does_not_exist_lists_those_there_are_with_what_they_are():
    message = refused("cnn9")
    assert "did you mean cnn3 or cnn2?" in message
    lines = {line.split()[0]: line for line in message.splitlines()[2:]}
    assert set(lines) == set(config_files.names())
    assert "seconds on the built-in synthetic corpus" in lines["tiny"]


def test_a_path_that_does_not_exist_points_to_the_packaged_config_of_that_name(tmp_path):
    assert "--config=cnn2" in refused(tmp_path / "configs" / "cnn2.py")


@pytest.mark.parametrize("name", ["solved", "configs/solved.py"])
def test_a_config_that_was_renamed_names_the_new_one(name):
    assert "closed_form" in refused(name).splitlines()[0]
    assert "solved" not in config_files.names()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x = (\n", ["line 1", "SyntaxError"]),
        ("x = 1\n", ["get_config"]),
        ("def get_config():\n  return 3\n", ["int", "ConfigDict"]),
        ("import nothing_of_that_name\n", ["line 1", "nothing_of_that_name"]),
        ("from emoflax.configs import tiny\ndef get_config():\n  c = tiny.get_config()\n  c.train.epochs = 'x'\n",
         ["line 4", "TypeError"]),
        ("from emoflax.configs import tiny\ndef get_config():\n  c = tiny.get_config()\n  c.trian.epochs = 3\n",
         ["line 4", "trian"]),
    ],
)  # fmt: skip
def test_a_config_file_that_cannot_be_read_is_named_with_the_line(tmp_path, code, words):
    (tmp_path / "own.py").write_text(code)
    message = refused(tmp_path / "own.py")
    assert all(word in message for word in ["own.py", *words]) and "Traceback" not in message and "\n" not in message
