"""The model card of a bundle: README.md, for whoever gets the folder and nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

from emoflax.reporting import report


def render(index: Mapping[str, Any], members: Sequence[tuple[str, float, int]]) -> str:
    """Markdown.

    Args:
      index: what bundle.json says.
      members: name, weight and number of parameters of each.
    """
    lines = [f"# {index['name']}: emotions of speech, trained on {index['corpus']}", ""]
    lines += [f"**{index['notice']}**", ""] if index["notice"] else []
    lines += [
        "```python",
        "import emoflax",
        "",
        'model = emoflax.load("this folder")',
        'for prediction in model.predict(["a.wav", "b.wav"]):',
        "    print(prediction.file, prediction.label, prediction.probabilities)",
        "```",
        "",
        f"- emotions: {', '.join(index['labels'])}",
        f"- trained on all {index['trained_on']['clips']} clips of all {index['trained_on']['speakers']} speakers of "
        f"{index['corpus']}, {index['date']}, with emoflax {index['emoflax']} (commit {index['commit'] or 'unknown'})",
        f"- `{index['command']}`",
        *([f"- begins with pretrained weights: {', '.join(index['pretrained'])}"] if index["pretrained"] else []),
        "",
        "## Models",
        "",
        "| | weight | parameters |",
        "|---|---|---|",
        *(f"| `{name}` | {weight:.3f} | {parameters:,} |" for name, weight, parameters in members),
        "",
        "Their log-probabilities are added up with these weights and normalised.",
        "",
        "## Score",
        "",
        *_scores(index["scores"], index["chosen_by"]["members"]),
        "",
        "## Licences of what it is made of",
        "",
        *(f"- {licence}" for licence in index["licences"]),
        "",
        "Whether the licences of training data and of pretrained weights bind a model's users is for them to find out.",
        "",
        "## Limits",
        "",
        "The model knows the corpus that it was trained on. On recordings of another microphone, language or way of "
        "acting expect less than the score above, often with high confidence. Try it on labelled recordings of your "
        "own first. Acted emotions are no evidence of what a person feels; do not decide about people by it.",
    ]
    return "\n".join(lines) + "\n"


def _scores(scores: Mapping[str, Any] | None, kind: str) -> list[str]:
    if scores is None:
        return ["No score was measured for this model. `--mode=crossval` with the same flags measures one."]
    table = ["| | score | 95 % interval (speakers resampled) |", "|---|---|---|"]
    for key, name in report.NAMES.items():
        values = scores["metrics"][key]
        low, high = values["low"], values["high"]
        interval = "none: one speaker" if low is None else f"{100 * low:.1f} to {100 * high:.1f}"
        table.append(f"| {name} | {100 * values['mean']:.1f} % | {interval} |")
    single = " It is the mean of single models; this one averages its seeds." if kind == "best" else ""
    return [
        *table,
        "",
        f"Protocol `{scores['protocol']}`, folds {', '.join(map(str, scores['folds']))}, {scores['clips']} clips of "
        f"{scores['speakers']} speakers: {scores['protocol_note']}. It was measured in a cross-validation of models "
        "that were made in the same way on part of the speakers; of this model itself, which has seen all of them, no "
        f"score can be measured on this corpus.{single}",
    ]
