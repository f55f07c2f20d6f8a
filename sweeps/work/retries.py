"""How often a population that ended without all its records is worth another try: a retry budget for each class of failure.

Being preempted twenty times says nothing about a run, a bad option says everything at once. Decides; does nothing.
"""

import collections
from collections.abc import Mapping
import enum

from experiments.cli import whole_number
from experiments.key_values import read_pairs, refusal
from models.errors import nearest

# How often a population (a run, for "diverged") may end in each way before it is given up. What was preempted or lost
# its node starts counting again once it has come further, so that progress is never given up.
BUDGETS = {
    "preempted": 20,  # asked to stop from outside, or another launcher took over
    "start": 30,  # the place has no worker to give: quota, queue, network; the launch ends, and the runs wait
    "node": 5,  # killed, crashed below Python, hung, a device or a file system that went away
    "memory": 1,  # a population is halved at once; a run alone is tried once more
    "disk": 3,  # full or read-only: nobody's fault; the launch ends, and the runs wait
    "crash": 1,  # an exception that nobody expected
    "user": 0,  # a value that cannot be right will not be right the next time
    "diverged": 0,  # a result; again only where the hardware is under suspicion
}
RESTARTED_BY_PROGRESS = ("preempted", "node")
# What a run takes along from a population: the others may have been the cause of everything else.
KEPT_ALONE = ("diverged", "disk")
BACKOFF_SECONDS = {
    "start": 1.0,
    "preempted": 1.0,
    "node": 1.0,
    "disk": 5.0,
}  # before the first retry; doubled each time
BACKOFF_LIMIT = 60.0
MOST_TRIES = 999_999


class Decision(enum.Enum):
    """What becomes of a population that ended without all its records."""

    RETRY = "try it again as it is"
    HALVE = "try its halves apart, so that one bad run does not take its neighbours with it"
    GIVE_UP = "record its only run as failed"
    END_LAUNCH = "end the launch: the runs wait until somebody has seen to the machine"


def decide(kind: str, times: int, budget: int, alone: bool) -> Decision:
    """Decide about a population that has now ended `times` times in the way `kind`; `alone`: it is one run."""
    if kind == "memory" and not alone:  # each half needs less
        return Decision.HALVE
    if times <= budget:
        return Decision.RETRY
    if kind == "disk":  # no fault of the runs
        return Decision.END_LAUNCH
    return Decision.GIVE_UP if alone else Decision.HALVE


def own(spent: collections.Counter[str], before: int, after: int) -> collections.Counter[str]:
    """Return what `after` of the `before` runs of a population have spent: one that is alone now starts counting anew."""
    if before == 1 or after > 1:
        return spent.copy()
    return collections.Counter({kind: spent[kind] for kind in KEPT_ALONE if spent[kind]})


def backoff(kind: str, times: int) -> float:
    """Return the seconds to wait before the `times`-th retry."""
    first = BACKOFF_SECONDS.get(kind, 0.0)
    doublings = max(0, min(times - 1, 30))
    return min(BACKOFF_LIMIT, first * 2**doublings)


def parse_budgets(text: str) -> dict[str, int]:
    """Put `kind=count,…` in the place of default budgets. Raises InputError for anything else."""
    budgets = dict(BUDGETS)
    for kind, value in read_pairs(text, "--retries", "KIND=COUNT", "node=3").items():
        word = f"{kind}={value}"
        if kind not in BUDGETS:
            raise refusal(
                "--retries", word, "names no kind of failure", f"one of them; {nearest(kind, BUDGETS, 'kind')}"
            )
        try:
            budgets[kind] = whole_number(value)
        except ValueError:
            raise refusal("--retries", word, "is not a whole number", f"{kind}=whole number") from None
        if not 0 <= budgets[kind] <= MOST_TRIES:
            raise refusal("--retries", word, "is out of range", f"{kind} from 0 to {MOST_TRIES}")
    return budgets


def describe(spent: Mapping[str, int]) -> str:
    """Write attempts by class, for a reader: "2 preempted, 1 node"."""
    return ", ".join(f"{count} {kind}" for kind, count in spent.items() if count)
