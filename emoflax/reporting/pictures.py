"""Where pictures are drawn without a screen."""


def pyplot():
    import matplotlib  # a second of import time, paid once at the end

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def plain(name: str) -> str:
    """A name as a picture can show it: bytes that are no text as escapes, and a dollar sign that begins no formula."""
    return name.encode(errors="backslashreplace").decode().replace("$", r"\$")
