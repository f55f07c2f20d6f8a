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


def main(argv: list[str]) -> None:
    """Replace this process."""
    parent, cores, *command = argv
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1  # kept across exec (prctl(2))
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != int(parent):
            sys.exit(75)
        if cores != "-":
            os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        sys.exit(75)
    os.environ["LOSSGRID_CLAIM"] = line.removeprefix("go").strip()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
