"""Whatever a file is called, a picture of it can be drawn."""

import pytest

from emoflax.reporting.pictures import plain, pyplot


@pytest.mark.parametrize("name", ["sur\udcff\udcfe.wav", "a$\\frac$b.wav", "50$.wav", "$x$.wav", "née.wav", "声.wav"])
def test_a_name_with_bytes_that_are_no_text_or_with_dollar_signs_is_a_title(tmp_path, name):
    plt = pyplot()
    figure = plt.figure()
    figure.suptitle(plain(name))
    figure.savefig(tmp_path / "title.png")
    plt.close(figure)
    assert (tmp_path / "title.png").stat().st_size > 1000


def test_an_ordinary_name_stays_as_it_is():
    assert plain("03-01-05 née.wav") == "03-01-05 née.wav"
