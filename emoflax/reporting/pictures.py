"""Where pictures are drawn without a screen."""


def pyplot():
    import matplotlib  # a second of import time, paid once at the end

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
