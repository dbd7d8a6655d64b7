"""What main.py's flags have beyond absl: configs by name, help on one page, mistakes as one sentence."""

import ast
import logging
import os
import pathlib
import re
import signal
import sys
import textwrap
import threading
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from emoflax.errors import UserError
from emoflax.experiment import config_files
from emoflax.files import expanded

INTERRUPTED = "interrupted; the same command goes on where this one stopped"
_HELP = {"--help", "-help", "-h", "-?", "--helpshort", "-helpshort"}
_FIELD = re.compile(r"--?(?:no)?config\.([\w.]+)")


class ConfigParser(flags.ArgumentParser):
    """The value of --config -> a ConfigDict. Fields that other flags set must exist in it."""

    def parse(self, path: str) -> ConfigDict:
        from emoflax.experiment import checks  # JAX comes with it; --help does without

        config = config_files.load(path)
        for argument in flags.FLAGS.read_flags_from_files(sys.argv[1:], force_gnu=False):
            if field := _FIELD.match(argument):
                checks.check_flag(field[1], config)
        return config


class PathParser(flags.ArgumentParser):
    """The path of a file or folder, with `~` expanded, which shells do not do after `--flag=`."""

    def parse(self, text: str) -> str:
        try:
            return str(expanded(text)) if text.startswith("~") else text
        except UserError as error:
            raise ValueError(str(error).removeprefix(f"{text}: ")) from error


class DictParser(flags.ArgumentParser):
    """A field that is a dictionary, written as in Python: {'calm': 'neutral', 'boredom': None}."""

    def parse(self, text: str | dict) -> dict:
        try:
            value = ast.literal_eval(text) if isinstance(text, str) else text
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ValueError(f"{text!r} must be a dictionary, such as \"{{'calm': 'neutral', 'boredom': None}}\"")
        return value


config_flags.register_flag_parser_for_type(dict, DictParser())


def define_config(text: str) -> flags.FlagHolder:
    """--config, and with it --config.FIELD for every field."""
    holder = config_flags.DEFINE_config_file("config", None, text)
    flags.FLAGS["config"].parser = ConfigParser()
    return holder


def parse(argv: list[str], help_text: str) -> list[str]:
    """Parses all flags and returns what is left. `help_text`: what --help prints in front of the flags.

    Raises:
      UserError: a flag, a config, a field or a value that cannot be.
    """
    if _HELP.intersection(argv[1:]):
        print(f"{help_text.strip()}\n\n{flags_help()}")
        sys.exit(0)
    given = " ".join(word.partition("=")[0] for word in argv)
    if "--checkpoint" in given and "--config." in given and "--config" not in given.split():
        # The checkpoint holds the model's config; these fields say which recordings are scored.
        argv = [argv[0], "--config=default", *argv[1:]]
    try:
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        if error.flagname.startswith("config."):
            raise UserError(f"--{error.flagname} needs --config before it, such as --config=cnn2") from error
        raise UserError(f"{error}; --help lists the flags") from error
    except flags.Error as error:
        refused = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
        if refused:
            from emoflax.experiment import checks

            raise UserError(checks.sentence(*refused.groups())) from error
        raise UserError(" ".join(str(error).split()).removeprefix("flag ")) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # ml_collections', of a field and its type
        raise UserError(f"--config: {' '.join(str(error).split())}") from error


def flags_help() -> str:
    """A line or two per flag of main.py."""
    own = flags.FLAGS.get_flags_for_module(flags.FLAGS.find_module_defining_flag("mode"))
    lines = []
    for flag in sorted({"config": flags.FLAGS["config"], **{flag.name: flag for flag in own}}.values(), key=_name):
        default = "" if flag.default in (None, False, "") or flag.default == [] else f" (default: {flag.default})"
        first, *rest = textwrap.wrap(f"{flag.help}{default}", 92)
        lines += [f"  --{flag.name:22}{first}", *(f"  {'':24}{line}" for line in rest)]
    return "\n".join(["flags:", *lines, "", "--helpfull lists the flags of the libraries, too."])


def _name(flag: flags.Flag) -> str:
    return flag.name


def is_shown(record: logging.LogRecord) -> bool:
    """A log filter: our own messages and the libraries' warnings, but orbax's and asyncio's.

    orbax narrates every save, and raises what matters of that it warns of. Of its tasks at a full disk one raises what
    a sentence tells; asyncio would print the traceback of each other one.
    """
    path = pathlib.Path(record.pathname)
    ours = not _folders().isdisjoint(path.parents)
    return ours or (record.levelno >= logging.WARNING and not {"orbax", "asyncio"} & set(path.parts))


def _folders() -> set[pathlib.Path]:
    """This package's: in a checkout, precompute/ and configs/ are beside emoflax/, installed they are in it."""
    inside = {pathlib.Path(__file__).parent}
    return inside | {
        pathlib.Path(place) / name for place in sys.modules[__package__].__path__ for name in ("precompute", "configs")
    }


def interrupt(signum: int, frame: object) -> None:
    """A signal's handler: the first Ctrl-C ends the command in order, a second one at once and as quietly.

    Every file is written whole or in lines, so neither loses what was finished.
    """
    signal.signal(signum, _end_at_once)
    raise KeyboardInterrupt


def unraisable(unraisable: Any) -> None:
    """A `sys.unraisablehook`: the interpreter's, but for two things.

    After tensorstore could not write one array at a full disk, which is reported in a sentence, each of the others
    finds the event loop closed, and has nobody to raise that to. And an interruption in the midst of garbage
    collection, where JAX has a callback, or of a destructor, would be lost: it comes again a moment later.
    """
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        _interrupt_again()
    elif str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _interrupt_again() -> None:
    """By the signal that came: a job in the background may ignore Ctrl-C's."""
    came = [signum for signum in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(signum) is _end_at_once]
    for signum in came:
        signal.signal(signum, interrupt)
    later = threading.Timer(0.05, os.kill, (os.getpid(), (came or [signal.SIGINT])[0]))
    later.daemon = True
    later.start()


def _end_at_once(signum: int, frame: object) -> None:
    os.write(2, f"\n{INTERRUPTED}\n".encode())
    os._exit(130)


def open_page(path: pathlib.Path | None) -> None:
    """Opens a page in the browser; where there is none, or no screen for it, logs where the page is.

    Args:
      path: None where the command made no page.
    """
    import webbrowser

    if path is None:
        absl_logging.warning("--open: this command made no page")
        return
    page = path.absolute()
    # Without a screen, `webbrowser` would start a browser in the terminal, and wait for it.
    screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    screen = screen or sys.platform in ("darwin", "win32")
    if not (screen and webbrowser.open(page.as_uri())):
        absl_logging.warning("--open: there is no browser here; the page is %s", page)


def run(main, help_text: str) -> None:
    """absl's app.run with the parser above."""
    app.run(main, flags_parser=lambda argv: parse(argv, help_text))
