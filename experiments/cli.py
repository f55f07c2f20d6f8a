"""Run a command: one line and an exit code for whatever goes wrong. Imports nothing heavy, so that --help is instant.

Exit codes: 0 success, 1 a failure at work, 2 bad input, 75 stopped from outside (run the same command again).
A traceback is shown only with --verbosity=1 or higher.
"""

from collections.abc import Callable, Iterable
import errno
import os
import re
import sys
import threading
import traceback
from types import TracebackType

from absl import app, flags, logging

from models.errors import InputError as InputError
from models.errors import nearest as nearest

EXIT_FAILURE = 1
EXIT_INPUT = 2
EXIT_AGAIN = 75

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


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
    if isinstance(error, OSError) and error.errno in _NOT_WRITABLE:
        return f"{error.filename or 'a path'}: cannot be written ({os.strerror(error.errno).lower()})"
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


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


def require(names: Iterable[str]) -> None:
    """Raise InputError for a flag that is not given."""
    for name in names:
        if flags.FLAGS[name].value is None:
            raise InputError(f"--{name} is missing; --help shows what it expects")


def run(
    main: Callable[[list[str]], int | None],
    required: Iterable[str] = (),
    check: Callable[[list[str]], list[str]] | None = None,
) -> None:
    """Parse absl flags and call `main` with the positional arguments; turn exceptions into one line and an exit code.

    `check` may look at the raw arguments first and return others in their place.
    """

    def parse(argv: list[str]) -> list[str]:
        try:
            return flags.FLAGS(check(argv) if check else argv)
        except (flags.Error, InputError, AttributeError, KeyError, TypeError, ValueError) as error:
            print(f"error: {_one_line(error.args[0] if error.args else error)}", file=sys.stderr)
            sys.exit(EXIT_INPUT)

    def guarded(argv: list[str]) -> int:
        if flags.FLAGS.verbosity < 1:
            _quieten()
        try:
            require(required)
            return main(argv[1:]) or 0
        except KeyboardInterrupt:
            print("interrupted; run the same command again to go on", file=sys.stderr)
            return EXIT_AGAIN
        except Exception as error:  # the one place where everything is caught: the edge of the program
            if flags.FLAGS.verbosity >= 1:
                traceback.print_exc()
            _fail(error)
            return EXIT_INPUT if isinstance(error, InputError) else EXIT_FAILURE

    app.run(guarded, flags_parser=parse)
