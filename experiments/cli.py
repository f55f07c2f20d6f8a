"""How every command speaks: one line and an exit code. Imports nothing heavy, so that --help is instant.

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

from absl import app, flags, logging

from models.errors import InputError as InputError
from models.errors import nearest as nearest

EXIT_FAILURE, EXIT_INPUT, EXIT_AGAIN = 1, 2, 75


def explain(error: BaseException) -> str:
    """One line for an exception, without Python's decoration."""
    if isinstance(error, KeyError) and error.args:
        return " ".join(str(error.args[0]).split())
    text = " ".join(str(error).split())
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or os.strerror(errno.ENOSPC) in text:  # libraries wrap the system's error in their own
        named = re.search(r'file "?(/[^"\s]+)', text)
        where = getattr(error, "filename", None) or (named[1] if named else "the disk")
        return f"{where}: no space left; free some and run the same command again"
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{error.filename or 'a path'}: cannot be written ({os.strerror(error.errno).lower()})"
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


def _quieten() -> None:
    """Libraries report at INFO what nobody asked for, and print an error that they also raise with its traceback."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.FATAL)
    logging.get_absl_logger().setLevel("CRITICAL")
    # Only other threads and callbacks get here: `run` catches the rest.
    sys.excepthook = threading.excepthook = sys.unraisablehook = lambda *_: None


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
            print(f"error: {' '.join(str(error.args[0] if error.args else error).split())}", file=sys.stderr)
            sys.exit(EXIT_INPUT)

    def guarded(argv: list[str]) -> int:
        if flags.FLAGS.verbosity < 1:
            _quieten()
        try:
            for name in required:
                if flags.FLAGS[name].value is None:
                    raise InputError(f"--{name} is missing; --help shows what it expects")
            return main(argv[1:]) or 0
        except KeyboardInterrupt:
            print("interrupted; run the same command again to go on", file=sys.stderr)
            return EXIT_AGAIN
        except Exception as error:  # the one place where everything is caught: the edge of the program
            if flags.FLAGS.verbosity >= 1:
                traceback.print_exc()
            print(f"error: {explain(error)}", file=sys.stderr)
            return EXIT_INPUT if isinstance(error, InputError) else EXIT_FAILURE

    app.run(guarded, flags_parser=parse)
