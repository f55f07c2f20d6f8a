"""Run a command: one line and an exit code for whatever goes wrong. Imports nothing heavy, so that --help is instant.

Exit codes: 0 success, 1 a failure at work, 2 bad input, 75 stopped from outside (run the same command again).
A traceback is shown only with --verbosity=1 or higher.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import difflib
import errno
import os
import re
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import Any, NoReturn

from absl import app, flags, logging

from experiments.objects.bucket import is_remote
from models.errors import EXIT_AGAIN as EXIT_AGAIN
from models.errors import EXIT_FAILURE as EXIT_FAILURE
from models.errors import AgainError as AgainError
from models.errors import InputError as InputError
from models.errors import WorkError as WorkError
from models.errors import nearest as nearest

EXIT_INPUT = 2
LAST_SECONDS = 20.0  # that threads may take to end after an error

_SIGNATURE = "written_by"
_LOOKED_AT = 1 << 16  # bytes at both ends of a file


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM)  # whether it was to be read or to be written


def explain(error: BaseException) -> str:
    """Return one line for an exception, without Python's decoration."""
    if isinstance(error, KeyError) and error.args:
        return _one_line(error.args[0])
    text = _one_line(error)
    disk_full = isinstance(error, OSError) and error.errno in _DISK_FULL
    if disk_full or os.strerror(errno.ENOSPC) in text:  # libraries wrap the system's error in their own
        named = re.search(r'file "?(/[^"\s]+)', text)
        where = getattr(error, "filename", None) or (named[1] if named else "the disk")
        return f"{where}: no space left; free some and run the same command again"
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return f"{error.filename or 'a path'}: cannot be written (read-only file system)"
    if isinstance(error, OSError) and error.errno in _DENIED:
        denied = os.strerror(error.errno).lower()
        return f"{error.filename or 'a path'}: {denied}; expected a path that this user may use"
    return text if isinstance(error, InputError | WorkError) else f"{type(error).__name__}: {text}"


def _exit_code(error: Exception) -> int:
    """Return the exit code of a command that ends with an exception."""
    if isinstance(error, WorkError):
        return error.exit_code
    return EXIT_INPUT if isinstance(error, InputError) else EXIT_FAILURE


def _one_line(value: object) -> str:
    return " ".join(str(value).split())


def _fail(error: BaseException) -> None:
    print(f"error: {explain(error)}", file=sys.stderr)


def _report_thread(args: threading.ExceptHookArgs) -> None:
    """Print the exception that ended a thread, in one line."""
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        name = args.thread.name if args.thread is not None else "unknown"
        print(f"error in thread {name!r}: {explain(args.exc_value)}", file=sys.stderr)


def _report_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception that nobody caught, in one line: `run` catches those of the command itself."""
    del kind, trace
    _fail(error)


def _ignore_unraisable(args: object) -> None:
    """Say nothing of what a destructor raises: libraries do so while the interpreter ends, and nobody can act on it."""


def _quieten() -> None:
    """Keep libraries from reporting at INFO what nobody asked for, and from printing tracebacks."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.FATAL)
    logging.get_absl_logger().setLevel("CRITICAL")
    sys.excepthook = _report_uncaught
    threading.excepthook = _report_thread
    sys.unraisablehook = _ignore_unraisable


# --- flags

_outputs: dict[str, tuple[bytes, ...]] = {}  # flags of files to write: how files begin that are the command's own

flags.disclaim_key_flags()  # what is declared here belongs to the command that calls, as --help shows it


class _PathParser(flags.ArgumentParser[str]):
    """Reads a path: `~` is the home folder, also where the shell has left it alone; an empty one is refused."""

    def parse(self, argument: str) -> str:
        """Return the path. Raises ValueError for none, which is what a variable of the shell that is not set leaves."""
        if not argument.strip():
            raise ValueError("the path is empty")
        return os.path.expanduser(argument)

    def flag_type(self) -> str:
        """Return the type, for --help."""
        return "path"


class _WholeNumberParser(flags.IntegerParser):
    """Reads a whole number, also one that is written as 1e9."""

    def convert(self, argument: int | str) -> int:
        """Return the number. Raises ValueError."""
        return whole_number(str(argument))


def define_path(name: str, default: str | None, help: str) -> None:
    """Declare a flag that is the path of a file or folder."""
    flags.DEFINE(_PathParser(), name, default, help)


def define_output(name: str, help: str, marks: Iterable[bytes] = ()) -> None:
    """Declare a flag that is the path of a file to write, and --overwrite.

    An older file is replaced only where it was written by the same command: it has the words that `signed` adds, or
    begins with one of `marks`.
    """
    define_path(name, None, help)
    _outputs[name] = tuple(marks)
    if "overwrite" not in flags.FLAGS:
        flags.DEFINE_bool("overwrite", False, "replace files that this command has not written")


def define_integer(name: str, default: int | None, help: str, lower_bound: int | None = None) -> None:
    """Declare a flag that is a whole number."""
    parser = _WholeNumberParser(lower_bound=lower_bound)
    flags.DEFINE(parser, name, default, help, serializer=flags.ArgumentSerializer())


def whole_number(text: str) -> int:
    """Read a whole number as people write it: 12, 1_000, 1e9, 2.5e6. Raises ValueError for anything else."""
    try:
        return int(text)
    except ValueError:
        with contextlib.suppress(ValueError):
            number = float(text)
            if number.is_integer():
                return int(number)
    raise ValueError(f"{text!r} is not a whole number")


def require(names: Iterable[str]) -> None:
    """Raise InputError for a flag that is not given."""
    for name in names:
        if flags.FLAGS[name].value is None:
            raise InputError(f"--{name} is missing; --help shows what it expects")


def _meant(word: str, overrides: Iterable[str]) -> str:
    """Return the flag that a word of the command line may have meant, as a question; empty when none is near.

    `overrides`: names of flags that absl does not know of.
    """
    name, equals, value = word.partition("=")
    name = name.lstrip("-\u2013\u2014")  # a text editor makes long dashes of two hyphens
    candidates = {}
    for known in (*_own_flags(), *overrides):
        candidates[known] = known
        candidates[known.removeprefix("config.")] = known
    close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.7)
    return f"did you mean --{candidates[close[0]]}{equals}{value}?" if close else ""


def _own_flags() -> Iterator[str]:
    """Yield the names of the flags of the command itself; libraries declare others."""
    for module, declared in flags.FLAGS.flags_by_module_dict().items():
        if not module.startswith("absl."):
            for flag in declared:
                yield flag.name


def _refuse_stray(words: list[str], overrides: Iterable[str]) -> None:
    """Raise InputError for words that the command would not look at."""
    if words:
        hint = _meant(words[0], overrides) or "this command takes flags only, such as --name=value"
        raise InputError(f"unexpected argument {words[0]!r}; {hint}")


def command_name() -> str:
    """Return the module that is running, such as analysis.fit."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name if spec is not None else "python"
    return name.removesuffix(".__main__")


def signature() -> str:
    """Return the words by which a command knows a file as its own: they stand within its first or last bytes."""
    return f'"{_SIGNATURE}": "{command_name()}"'


def signed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be written as JSON, with the name of the command that writes it, which may then replace it."""
    return {_SIGNATURE: command_name(), **value}


def check_output(path: str, flag: str, marks: Iterable[bytes] = ()) -> None:
    """Raise InputError where a file that another has written stands in the place of one that is to be written."""
    if flags.FLAGS.overwrite:
        return
    content, end = _both_ends(path)
    own = signature().encode()
    is_own = own in content or own in end or any(content.startswith(mark) for mark in marks)
    if content and not is_own:
        raise InputError(
            f"{flag}={path} exists and was not written by {command_name()}: expected another name, or --overwrite"
        )


def _both_ends(path: str) -> tuple[bytes, bytes]:
    """Return how a file begins and, as Parquet has its metadata there, how it ends; nothing of what is no file."""
    if is_remote(path):
        from experiments.objects.path import ObjectPath

        try:
            content = ObjectPath(path).read_bytes()
        except FileNotFoundError:
            content = b""
        return content[:_LOOKED_AT], content[-_LOOKED_AT:]
    if not os.path.isfile(path):
        return b"", b""
    with open(path, "rb") as file:
        content = file.read(_LOOKED_AT)
        file.seek(max(0, os.path.getsize(path) - _LOOKED_AT))
        return content, file.read()


def _are_one_file(path: str, other: str) -> bool:
    if is_remote(path) or is_remote(other):
        return path == other
    return os.path.isfile(other) and os.path.exists(path) and os.path.samefile(path, other)


def check_not_read(path: str, flag: str, read: Iterable[str | None]) -> None:
    """Raise InputError where a file that is to be written is one of those that are read."""
    for other in read:
        if other and _are_one_file(path, other):
            raise InputError(f"{flag}={path} is a file that the command reads; expected another name")


def _check_outputs(words: list[str]) -> None:
    """Check the files that are to be written: none is one that is read, or that another has written.

    `words`: the positional arguments.
    """
    read: list[str | None] = [*words]
    for flag in _own_flags():
        if flag not in _outputs and isinstance(flags.FLAGS[flag].parser, _PathParser):
            read.append(flags.FLAGS[flag].value)
    for name, marks in _outputs.items():
        path = flags.FLAGS[name].value
        if path is not None:
            check_not_read(path, f"--{name}", read)
            check_output(path, f"--{name}", marks)


def _no_overrides() -> Iterable[str]:
    """Return the overrides of a command that has none."""
    return ()


# --- the command


def run(
    main: Callable[[list[str]], int | None],
    required: Iterable[str] = (),
    check: Callable[[list[str]], list[str]] | None = None,
    arguments: str | None = None,
    overrides: Callable[[], Iterable[str]] = _no_overrides,
) -> None:
    """Parse absl flags and call `main` with the positional arguments; turn exceptions into one line and an exit code.

    `check` may look at the raw arguments first and return others in their place. `arguments` says what the positional
    ones are; without it they are refused. `overrides` names flags of which absl does not know, such as --config.a.b.
    """

    def parse(argv: list[str]) -> list[str]:
        try:
            return flags.FLAGS(check(argv) if check else argv)
        except flags.UnrecognizedFlagError as error:
            hint = _meant(error.flagvalue, overrides()) or "--help lists the flags"  # absl has the whole argument there
            _refuse(f"unknown flag --{error.flagname}; {hint}")
        except (flags.Error, InputError, AttributeError, KeyError, TypeError, ValueError) as error:
            _refuse(error.args[0] if error.args else error)

    def guarded(argv: list[str]) -> int:
        if flags.FLAGS.verbosity < 1:
            _quieten()
        try:
            if any("://" in word for word in argv):
                import experiments.objects.path  # noqa: F401  makes such addresses paths
            if arguments is None:
                _refuse_stray(argv[1:], overrides())
            require(required)
            _check_outputs(argv[1:])
            status = main(argv[1:]) or 0
        except KeyboardInterrupt:
            print("interrupted; run the same command again to go on", file=sys.stderr)
            status = EXIT_AGAIN
        except Exception as error:  # the one place where everything is caught: the edge of the program
            if flags.FLAGS.verbosity >= 1:
                traceback.print_exc()
            _fail(error)
            status = _exit_code(error)
        if status:
            _end_in_time(status)
        return status

    app.run(guarded, flags_parser=parse)


def _end_in_time(status: int) -> None:
    """End the process with this status, even where a library's threads never end: they have LAST_SECONDS."""

    def end() -> None:
        time.sleep(LAST_SECONDS)
        os._exit(status)

    threading.Thread(target=end, name="end", daemon=True).start()


def _refuse(problem: object) -> NoReturn:
    """Say what is wrong with the command line, and end."""
    print(f"error: {_one_line(problem)}", file=sys.stderr)
    sys.exit(EXIT_INPUT)
