"""`python -m emoflax` and the installed command: main.py as the main program, so that --help lists its flags."""

import runpy


def run() -> None:
    runpy.run_module("emoflax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    run()
