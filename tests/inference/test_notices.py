"""What is unlike the training clips is said, and nothing else."""

import pytest

from emoflax.inference import notices

USUAL = {"level_db": [-50, -30], "bandwidth_hz": [7_600, 7_900], "duration_s": [3, 5], "snr_db": [30, 80]}
LIKE = {"level_db": -40.0, "bandwidth_hz": 7_700.0, "duration_s": 4.0, "snr_db": 50.0}


def unusual(level="normalised", **changes):
    description = {"conditions": USUAL, "config": {"audio": {"level": level}}}
    return notices.unusual(description, LIKE | changes)


def test_a_recording_like_the_training_clips_gets_no_notice():
    assert unusual() == unusual("absolute") == unusual(snr_db=99.0) == []


@pytest.mark.parametrize(
    ("condition", "value", "shown"),
    [("bandwidth_hz", 3_900.0, "nothing above 3900 Hz"), ("duration_s", 12.0, "12.0 s long"),
     ("snr_db", 8.0, "8 dB above the background (trained on 30 to 80)")],
)  # fmt: skip
def test_what_lies_outside_is_named_with_the_range(condition, value, shown):
    (notice,) = unusual(**{condition: value})
    assert shown in notice


def test_the_level_counts_for_models_of_the_absolute_level_alone():
    assert unusual(level_db=-15.0) == [] and len(unusual("absolute", level_db=-15.0)) == 1


def test_a_checkpoint_that_kept_no_conditions_gives_no_notice():
    assert notices.unusual({"config": {"audio": {}}}, LIKE) == notices.unusual({"conditions": {}}, LIKE) == []
