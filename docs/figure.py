"""Draws docs/figure.svg, the path from recordings to a number and to a model: `python docs/figure.py`."""

import pathlib

BOXES = [  # column, row, title, lines below it
    (0, 0, "recordings", ["RAVDESS, a CSV of yours,", "or built-in voices"]),
    (1, 0, "precompute", ["log-mels, functionals, tokens", "numpy shards, made once"]),
    (2, 0, "split by speaker", ["test speakers apart,", "checked for leakage"]),
    (3, 0, "train", ["Flax CNN, GRU, Transformer", "or a closed-form model"]),
    (2, 1, "report", ["UAR with 95 % interval,", "confusion, predictions"]),
    (3, 1, "checkpoint", ["weights, config, labels,", "SHA-256 of every file"]),
    (1, 1, "ledger", ["configs/results.jsonl,", "one line per result"]),
    (0, 1, "predict", ["any recording", "to probabilities"]),
]
ARROWS = [  # from box to box, by number
    (0, 1), (1, 2), (2, 3), (3, 5), (5, 4), (4, 6),
]  # fmt: skip
WIDTH, HEIGHT, STEP_X, STEP_Y, LEFT, TOP = 215, 78, 250, 130, 20, 20


def corner(number: int) -> tuple[int, int]:
    column, row = BOXES[number][:2]
    return LEFT + column * STEP_X, TOP + row * STEP_Y


def box(number: int) -> str:
    x, y = corner(number)
    title, lines = BOXES[number][2:]
    text = "".join(
        f'<text x="{x + WIDTH // 2}" y="{y + 46 + 17 * i}" class="line">{line}</text>' for i, line in enumerate(lines)
    )
    return (
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>'
        f'<text x="{x + WIDTH // 2}" y="{y + 24}" class="title">{title}</text>{text}'
    )


def arrow(start: int, end: int) -> str:
    (x1, y1), (x2, y2) = corner(start), corner(end)
    if y1 != y2:
        return line(x1 + WIDTH // 2, y1 + HEIGHT, x2 + WIDTH // 2, y2 - 4)
    middle = y1 + HEIGHT // 2
    return line(x1 + WIDTH, middle, x2 - 4, middle) if x2 > x1 else line(x1, middle, x2 + WIDTH + 4, middle)


def line(x1: int, y1: int, x2: int, y2: int) -> str:
    return f'<path d="M{x1} {y1} L{x2} {y2}" marker-end="url(#tip)"/>'


def around_the_bottom(start: int, end: int) -> str:
    """From a checkpoint to a prediction, under the boxes between them."""
    (x1, y1), (x2, y2) = corner(start), corner(end)
    below = y1 + HEIGHT + 22
    x1, x2 = x1 + WIDTH // 2, x2 + WIDTH // 2
    return f'<path d="M{x1} {y1 + HEIGHT} V{below} H{x2} V{y2 + HEIGHT + 4}" marker-end="url(#tip)"/>'


def draw() -> str:
    width, height = 2 * LEFT + 3 * STEP_X + WIDTH, 2 * TOP + STEP_Y + HEIGHT + 20
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        "<style>rect{fill:#eef3fb;stroke:#3b6fb5;stroke-width:1.5} path{stroke:#555;stroke-width:1.5;fill:none}"
        " text{text-anchor:middle;fill:#222} .title{font-size:16px;font-weight:bold} .line{font-size:13px}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" style="fill:#555;stroke:none"/></marker></defs>',
        f'<rect x="0" y="0" width="{width}" height="{height}" style="fill:#fff;stroke:none"/>',
        *(box(number) for number in range(len(BOXES))),
        *(arrow(*pair) for pair in ARROWS),
        around_the_bottom(5, 7),
        "</svg>",
    ]) + "\n"  # fmt: skip


if __name__ == "__main__":
    pathlib.Path(__file__).with_name("figure.svg").write_text(draw())
