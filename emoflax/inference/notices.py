"""Notices about recordings unlike those that a model was trained on."""

from collections.abc import Mapping
from typing import Any

# How far beyond the training clips' 1st to 99th percentile a value may lie: what is measured is not exact.
_SLACK = {"level_db": 3.0, "bandwidth_hz": 500.0, "duration_s": 0.5, "snr_db": 3.0}
_WORDS = {
    "level_db": "active speech level {:.0f} dB of full scale (trained on {:.0f} to {:.0f})",
    "bandwidth_hz": "nothing above {:.0f} Hz (trained on {:.0f} to {:.0f})",
    "duration_s": "{:.1f} s long (trained on {:.1f} to {:.1f})",
    "snr_db": "speech {:.0f} dB above the background (trained on {:.0f} to {:.0f})",
}


def unusual(description: Mapping[str, Any], conditions: Mapping[str, float]) -> list[str]:
    """What of a recording lies outside of what the checkpoint's training clips were like, in words.

    The level counts for models of the absolute level alone; less noise than in training is none of the troubles.
    """
    usual, found = description.get("conditions") or {}, []
    for name, value in conditions.items():
        if name not in usual or (name == "level_db" and description["config"]["audio"].get("level") == "normalised"):
            continue
        low, high = usual[name]
        if value < low - _SLACK[name] or (value > high + _SLACK[name] and name != "snr_db"):
            found.append(_WORDS[name].format(value, low, high))
    return found
