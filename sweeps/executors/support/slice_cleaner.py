"""Delete the slices of a workdir whose keeper was a process of this machine and is dead.

    python -m sweeps.executors.support.slice_cleaner OPTIONS WORKDIR      started by the executor tpu-vm

Only what bears the labels of owner and workdir is looked at. Where the keeper is of another machine, or nobody can say
whose it is, the slice is left alone: it deletes itself when its keeper's counter stands still (support/dead_man.sh).
"""

from collections.abc import Iterator
import json
import subprocess
import sys

from experiments.cli import EXIT_FAILURE
from sweeps.executors.support import gcloud, slice_talk
from sweeps.executors.support.cloud_calls import Cloud, announce, delete_for_good
from sweeps.executors.support.gcloud import Found, Options, Slice
from sweeps.executors.support.options import parse_options

LIST_SECONDS = 120.0  # for gcloud to list the slices
DELETE_SECONDS = 900.0


def ours(options: Options, workdir: str) -> Iterator[tuple[Slice, Found]]:
    """Go through the slices of an owner and a workdir. Raises OSError where gcloud does not say."""
    command = gcloud.list_slices(options)
    announce(command, aloud=False)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIST_SECONDS)
    if done.returncode != 0:
        raise OSError(" ".join(done.stderr.split())[-200:])
    for value in json.loads(done.stdout):
        try:
            found = gcloud.found_in(value)
        except ValueError:  # of another kind than ours
            continue
        slice_ = Slice(options, workdir, found.labels.get("lossgrid-population", ""))
        if slice_.is_ours(found) and found.name == slice_.name:
            yield slice_, found


def is_orphan(slice_: Slice, found: Found) -> bool:
    """Whether a slice's keeper was a process of this machine and is dead."""
    orders = slice_talk.read_orders(slice_.folder)
    if orders is None or orders.attempt != found.labels.get("lossgrid-attempt"):
        return False
    return orders.keeper.local and not orders.keeper.alive


def main(argv: list[str]) -> int:
    """Delete what is left of dead keepers; return the exit status."""
    options_text, workdir = argv
    options = parse_options(Options, options_text, "--executor=tpu-vm")
    try:
        orphans = [slice_ for slice_, found in ours(options, workdir) if is_orphan(slice_, found)]
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        print(f"error: the slices of {options.zone} cannot be listed: {error}", file=sys.stderr)
        return EXIT_FAILURE
    left = [slice_ for slice_ in orphans if not delete_for_good(Cloud(slice_), DELETE_SECONDS)]
    return EXIT_FAILURE if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
