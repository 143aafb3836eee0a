"""What the commands share: one-line errors and exit codes, and the options of a training.

JAX is imported when a command runs, not when it shows its help.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import re
import signal
import sys
import traceback
import types
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from jaxppo.cli.keys import MATTER
from jaxppo.cli.older import CONFIG, add_older_options, as_given, older_overrides
from jaxppo.errors import ConfigError, UserError

if TYPE_CHECKING:
    from jaxppo.config import Config

USER_ERROR = 2
INTERRUPTED = "interrupted"
SIGNALLED = 128
"""And the number of the signal."""
INPUT_OUTPUT_ERROR = 74
"""`EX_IOERR` of sysexits.h."""
WHICHEVER_FIRST = {"episodes", "minutes"}
"""Budgets that may be given together."""
FULL_DISK = "No space left on device"
KEYS = """\
keys of the configuration, each an option as well:
  the ten to know first; jaxppo help all explains every key, jaxppo help ppo a section
"""
NO_OUTPUT = "--resume needs --output, the folder to continue in"
EXAMPLE = "for example --config quickstart, which ships, or --config my.yaml"


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that reports a mistake as a `ConfigError` and whose options cannot be abbreviated.

    Args:
      command: its name; absent for a part of a command, whose `prog` is an option.
      description: of what it does.
      keys: dotted keys of the configuration that the help explains; they are no options of the parser.
      options: of `argparse.ArgumentParser`.
    """

    def __init__(self, command: str = "", description: str | None = None, *, keys: Sequence[str] = (), **options: Any):
        usual: dict[str, Any] = {"prog": f"jaxppo {command}", "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(allow_abbrev=False, description=description, **(usual | options))
        self._keys = keys

    def format_help(self) -> str:
        """The help, with the keys."""
        text = super().format_help()
        if self._keys:
            from jaxppo.cli.keys import as_options  # reads a page that a command does not need

            text += f"\n{KEYS}\n{as_options(self._keys)}\n"
        return text

    def error(self, message: str) -> NoReturn:
        """Raises `ConfigError`."""
        raise ConfigError(f"{message}; see {self.prog} --help")


def run(main: Callable[[Sequence[str]], int | None], arguments: Sequence[str] | None = None) -> int:
    """Runs a command and turns a user's mistake, or a machine's, into one line on stderr.

    From the first import on SIGINT and SIGTERM end it in one line too.

    Args:
      main: the command; returns the number of the signal that stopped it, if one did.
      arguments: of the command; None takes those of the process.

    Returns:
      0; 2 for a `ConfigError` or `DataError`; 74 for a full disk or missing rights; 130 and 143 when SIGINT and SIGTERM
      stopped it. A process that ends since one of several is gone does so by itself, with 75.
    """
    with _signals(alone=arguments is None) as received:
        try:
            stopped = main(sys.argv[1:] if arguments is None else arguments)
            return SIGNALLED + stopped if stopped else 0
        except KeyboardInterrupt:
            pass
        except Exception as error:
            if not received:  # a library may turn an interrupted import into an error of its own
                return _ended(error)
        print(INTERRUPTED, file=sys.stderr)
        return SIGNALLED + (received[-1] if received else signal.SIGINT)


@contextlib.contextmanager
def _signals(alone: bool) -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list, and has them end the command.

    Args:
      alone: whether the process is the command's own: it then ends where it is, as if it were killed, since libraries
        swallow exceptions while they are imported. Otherwise the first signal raises `KeyboardInterrupt`.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        for known in previous:
            signal.signal(known, signal.SIG_DFL)
        if alone:
            _end(number)
        raise KeyboardInterrupt

    with contextlib.suppress(ValueError):  # only the main thread can catch signals
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:  # as for a job in the background of a shell
                previous[number] = signal.signal(number, handle)
    try:
        yield received
    finally:
        for known, handler in previous.items():
            signal.signal(known, handler)


def _end(number: int) -> NoReturn:
    """Ends the process after a signal; folders that it owns are free for processes of other hosts too."""
    lock = sys.modules.get("jaxppo.run.lock")  # to import it now would take seconds
    if lock is not None:
        lock.release()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(SIGNALLED + number)


def _ended(error: Exception) -> int:
    """Exit code after an error; one of several processes tells the others, and ends here: JAX would wait for them."""
    distributed = sys.modules.get("jax.distributed")
    if distributed is None or not distributed.is_initialized():
        return _one_line(error)
    from jaxppo.run import processes

    code = 1
    try:
        code = _one_line(error)
    except Exception:
        traceback.print_exc()
    if not processes.failed():
        processes.give_up(code, str(error))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _one_line(error: Exception) -> int:
    """Says on stderr what went wrong, and returns the exit code; raises what is no mistake of a user or a machine."""
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        print(f"error: {error.strerror or error}{where}; what was saved before is intact", file=sys.stderr)
        return INPUT_OUTPUT_ERROR
    if isinstance(error, ValueError) and FULL_DISK in str(error):  # of the library that writes checkpoints
        print("error: No space left on device: a checkpoint; what was saved before is intact", file=sys.stderr)
        return INPUT_OUTPUT_ERROR
    raise error


def a_device_for_each_core() -> None:
    """Has JAX take each core of a CPU for a device; to be called before JAX is imported."""
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(os.cpu_count() or 1))


def add_progress_options(parser: argparse._ActionsContainer) -> None:
    """Adds what a command that takes long says, shows and keeps: `--quiet`, `--open`, `--compilation-cache`.

    Args:
      parser: of the command, or a group of it.
    """
    parser.add_argument("--quiet", action="store_true", help="no data report and no progress on stderr")
    parser.add_argument("--open", action="store_true", help="show the report in the browser when it is written")
    add_compilation_cache(parser)


def add_compilation_cache(parser: argparse._ActionsContainer) -> None:
    """Adds `--compilation-cache`, the folder of `keeping_programs`.

    Args:
      parser: of the command, or a group of it.
    """
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "jaxppo")
    where = pathlib.Path(os.environ.get("JAXPPO_CACHE") or home, "programs")
    parser.add_argument(
        "--compilation-cache",
        metavar="DIR",
        nargs="?",
        const=str(where),
        help=f"keep compiled programs, and take those kept before, in DIR (default: {where})",
    )


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """Adds how several processes find each other: `--coordinator`, `--processes` and `--process`.

    Args:
      parser: of the command.
    """
    group = parser.add_argument_group("several processes", "one of each host, or of each GPU, train one run together")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    group.add_argument(
        "--processes", metavar="N", help="how many there are; auto finds all three in SLURM, Cloud TPU or Open MPI"
    )
    group.add_argument("--process", metavar="I", help="number of this one, from 0 on; only 0 writes anything")


@contextlib.contextmanager
def showing_phases(quiet: bool = False) -> Iterator[None]:
    """Shows on a terminal what a command is doing, until the block ends.

    Args:
      quiet: whether to show nothing.
    """
    from jaxppo.run.progress import phases  # imports what --help does not need

    with phases(not quiet):
        yield


@contextlib.contextmanager
def keeping_programs(folder: str | None) -> Iterator[None]:
    """Keeps compiled programs in a folder, and says on stderr what that saved.

    Args:
      folder: of `--compilation-cache`; None keeps none.
    """
    if folder is None:
        yield
        return
    from jaxppo.run.compilation_cache import cached_programs  # imports JAX, which --help does not need

    with cached_programs(folder) as use:
        yield
    print(use.describe(), file=sys.stderr)


def announce_report(path: pathlib.Path, show: bool) -> None:
    """Says where a report is, and opens it.

    Args:
      path: of the page.
      show: whether to open it in the browser; a machine without one says so on stderr.
    """
    print(f"report: {path}", flush=True)
    if show and not webbrowser.open(path.absolute().as_uri()):
        print(f"no browser was found; open {path} in one", file=sys.stderr)


def parse_training(
    command: str,
    description: str | None,
    arguments: Sequence[str],
    budgets: Mapping[str, str],
    *,
    flags: Mapping[str, str] = types.MappingProxyType({}),
    older: bool = False,
    several: bool = False,
) -> tuple[Config, str, argparse.Namespace]:
    """Parses what a command that trains was asked for.

    Args:
      command: its name.
      description: of what it does.
      arguments: of the command.
      budgets: name -> help of the keys of `training` that are options of their own.
      flags: name -> help of further options without a value.
      older: whether flags of the older style are accepted too, see `jaxppo.cli.older`.
      several: whether several processes may train together: they are joined here.

    Returns:
      The configuration, the name of its file (or of the folder that is resumed), and `output`, `resume`, `quiet`,
      `open`, `compilation_cache` and `flags`; of several processes all but the first are quiet.

    Raises:
      ConfigError: what `load_config` raises, or neither a configuration nor a folder to resume is given.
    """
    parser = OneLineParser(command, description, keys=MATTER)
    what = parser.add_argument_group("what to train")
    what.add_argument(
        "--config", metavar="FILE", help="YAML, or the name of one that ships (with --resume: the folder's)"
    )
    for name, meaning in budgets.items():
        what.add_argument(f"--{name}", metavar="N", help=meaning)
    what.add_argument(
        "--seed", metavar="N", help="seed of all randomness, of the first of several agents (default: the config's)"
    )
    where = parser.add_argument_group("where it goes")
    where.add_argument("--output", metavar="DIR", help="folder to write (default: one in runs, named after the config)")
    where.add_argument("--resume", action="store_true", help="continue in --output")
    add_progress_options(where)
    for name, meaning in flags.items():
        where.add_argument(f"--{name}", action="store_true", help=meaning)
    if several:
        add_process_options(parser)
    if older:
        add_older_options(parser)
    known, overrides = parser.parse_known_args(arguments)
    given = [name for name in budgets if getattr(known, name) is not None]
    if len(given) > 1 and set(given) != WHICHEVER_FIRST:
        parser.error(f"argument --{given[1]}: not allowed with argument --{given[0]}")
    stands_for = older_overrides(known, overrides) if older else []
    overrides += stands_for
    for name, key in (*((name, f"training.{name}") for name in budgets), ("seed", "seed")):
        if getattr(known, name) is not None:
            overrides += [f"--{key}", getattr(known, name)]
    if known.config is not None:
        path = known.config
    elif known.resume and known.output:
        path = pathlib.Path(known.output, "config.yaml")
    elif stands_for:
        path = CONFIG
    else:
        parser.error(NO_OUTPUT if known.resume else f"--config is required, {EXAMPLE}")
    from jaxppo.config import load_config  # imports JAX, which --help does not need
    from jaxppo.run.folder import restore_own_code
    from jaxppo.run.rendezvous import join

    if several:
        known.quiet |= join(known.coordinator, known.processes, known.process)[0] > 0

    try:
        resumed = known.config is None and known.output and pathlib.Path(path).is_file()
        config = load_config(path, overrides, saved=bool(resumed))
        if resumed:  # its code is where it was, and not in its folder
            restore_own_code(pathlib.Path(known.output), config)
        return config, pathlib.Path(path).stem, known
    except ConfigError as error:
        raise ConfigError(as_given(str(error), known)) from None


def parse_shard(text: str) -> tuple[int, int]:
    """`(I, N)` of "I/N".

    Raises:
      ConfigError: something else.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None:
        raise ConfigError(f"--shard is {text!r}; it must be I/N, for example 0/4")
    return int(found[1]), int(found[2])


def parse_amount(option: str, text: str | None) -> float | None:
    """An amount of currency; None where it is not given.

    Args:
      option: that it was given as.
      text: as it was given.

    Raises:
      ConfigError: no number, or none that an account can have.
    """
    if text is None:
        return None
    from jaxppo.deploy.positions import LARGEST, amount_of  # imports pandas, which --help does not need

    amount = amount_of(text)
    if amount is None:
        raise ConfigError(f"{option} is {text!r}; it must be a number within +-{LARGEST:g}, currency")
    return amount
