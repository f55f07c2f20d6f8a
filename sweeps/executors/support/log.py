"""Read from what a worker has said why it ended."""

LONGEST_REASON = 300  # characters
ELSEWHERE = "another process has failed, and says why"  # experiments/alive/hosts.py


def last_error(log: bytes) -> str:
    """Return the last line of a log that begins with `error: ` (or its last line), at most 300 characters.

    One process of several that ends because of another says nothing of the cause: the other's line counts.
    """
    lines = [line.strip() for line in log.decode(errors="replace").splitlines()]
    lines = [line for line in lines if line]
    errors = [line for line in lines if line.startswith("error: ")]
    causes = [line for line in errors if ELSEWHERE not in line]
    found = causes or errors or lines
    if not found:
        return ""
    return found[-1].removeprefix("error: ")[:LONGEST_REASON]
