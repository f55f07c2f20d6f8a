"""Becomes another program, on chosen cores, that ends when its parent does. Run as a file, with nothing imported.

    python pinned.py PARENT_PID CORES COMMAND…      CORES: 0,1,2 or - for all

It waits for a line on stdin before it begins, so that the claims in its name are written first; if stdin ends
without one, the launcher has died and so does this. The line is `go TOKEN`: the token of the claims, which becomes
LOSSGRID_CLAIM (experiments/alive/lease.py), or `go` where there is none. Doing this here and not between fork and exec keeps the
launcher free of code that is unsafe once jax has started threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of prctl(2): the signal that a process is sent when its parent dies; kept across exec
EXIT_AGAIN = 75  # as in experiments/cli.py, which is not imported here


def die_with(parent_pid: int) -> None:
    """Have the kernel send us SIGTERM when our parent dies; end at once where it is dead already."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the call above
        sys.exit(EXIT_AGAIN)


def pin_to(cores: str) -> None:
    """Run on these cores only; `-` is all of them."""
    if cores != "-":
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})


def wait_for_token() -> str:
    """Return the token of the line `go TOKEN` on stdin; end where stdin ends without a whole line."""
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        sys.exit(EXIT_AGAIN)
    return line.removeprefix("go").strip()


def main(argv: list[str]) -> None:
    """Replace this process by the command."""
    parent_pid, cores, *command = argv
    if sys.platform == "linux":
        die_with(int(parent_pid))
        pin_to(cores)
    os.environ["LOSSGRID_CLAIM"] = wait_for_token()
    no_input = os.open(os.devnull, os.O_RDONLY)
    os.dup2(no_input, 0)  # the command's stdin is not the launcher's pipe
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
