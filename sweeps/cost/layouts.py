"""List the ways in which runs of one signature can share a slice: meshes, and how many runs train in one program.

What a layout takes is guessed in sweeps/cost/guess.py; whether it fits, the compiler decides.
"""

from collections.abc import Iterator
import dataclasses
import functools
import math

from experiments.run.schema import Execution, Run
import models
from models.accounting import Dispatch
from models.mesh.mesh import AXES


@dataclasses.dataclass(frozen=True)
class Layout:
    """How runs of one signature share a slice: mesh sizes, and how many train in one program."""

    trial: int = 1
    data: int = 1
    fsdp: int = 1
    expert: int = 1
    sequence: int = 1
    tensor: int = 1
    trials: int = 1

    @property
    def mesh(self) -> dict[str, int]:
        """Sizes by axis."""
        return {axis: getattr(self, axis) for axis in AXES}

    @property
    def devices(self) -> int:
        """Count the devices that the mesh uses."""
        return math.prod(self.mesh.values())

    @property
    def trials_per_device(self) -> int:
        """Count the trials that a device holds a part of."""
        return -(-self.trials // self.trial)

    @property
    def shards(self) -> int:
        """Count the devices among which the parameters of a trial are split."""
        return self.fsdp * self.expert * self.sequence * self.tensor

    @property
    def batch_shards(self) -> int:
        """Count the devices among which the tokens of a batch are split."""
        return self.data * self.fsdp * self.expert * self.sequence

    def __str__(self) -> str:
        sizes = " x ".join(f"{axis} {size}" for axis, size in self.mesh.items() if size > 1)
        return sizes or "one chip"


def divisors(n: int) -> list[int]:
    """Return the divisors of n, ascending."""
    return [d for d in range(1, n + 1) if n % d == 0]


def possible(run: Run, runs: int, devices: int, execution: Execution) -> Iterator[Layout]:
    """Yield every way to share `devices` devices among `runs` runs that the sizes of the run allow on paper.

    What the execution's mesh sets stays as it is: `fsdp`, `expert` and `tensor` count as set where they are not 1.
    `sequence` is used only where set; `expert` also where rows travel to experts, and not experts to rows.
    """
    fixed = execution.mesh
    sequence = fixed.sequence
    for trial in [fixed.trial] if fixed.trial else divisors(devices):
        if trial > runs or devices % (trial * sequence):
            continue
        chips = devices // trial // sequence  # of one trial, for all axes but `sequence`
        most_together = -(-runs // trial)
        for tensor in _tensor_sizes(run, chips, execution):
            for expert in _expert_sizes(run, chips, tensor, execution):
                left = chips // tensor // expert
                for data, fsdp in _batch_splits(run, left, expert, execution):
                    for each in packings(most_together):
                        yield Layout(trial, data, fsdp, expert, sequence, tensor, trial * each)


def _tensor_sizes(run: Run, chips: int, execution: Execution) -> Iterator[int]:
    """Yield sizes of the axis `tensor` that divide the heads, or a recurrence's channels, together with `sequence`."""
    fixed = execution.mesh.tensor
    heads = _heads(run)
    for tensor in [fixed] if fixed > 1 else divisors(chips):
        split = tensor * execution.mesh.sequence
        divided = heads or run.model.width
        if split == 1 or divided % split == 0:
            yield tensor


def _heads(run: Run) -> int:
    """Return the greatest number that divides query heads and key heads; 0 for a model without heads."""
    counts = [getattr(run.model, name, None) or 0 for name in ("heads", "kv_heads")]
    return math.gcd(*counts)


def _expert_sizes(run: Run, chips: int, tensor: int, execution: Execution) -> Iterator[int]:
    """Yield sizes of the axis `expert` that divide the experts and the chips."""
    fixed = execution.mesh.expert
    experts = getattr(run.model, "experts", 1)
    free = divisors(experts) if dispatch(run).rows else [1]
    for expert in [fixed] if fixed > 1 else free:
        if chips % (tensor * expert) == 0 and experts % expert == 0:
            yield expert


def _batch_splits(run: Run, chips: int, expert: int, execution: Execution) -> Iterator[tuple[int, int]]:
    """Yield sizes of the axes `data` and `fsdp` that use all `chips` and divide the batch, together with `expert`."""
    fixed = execution.mesh
    for fsdp in [fixed.fsdp] if fixed.fsdp > 1 else divisors(chips):
        data = chips // fsdp
        if chips % fsdp or run.batch % (data * fsdp * expert * execution.microbatches):
            continue
        if fixed.data is None or data == fixed.data:
            yield data, fsdp


def packings(most: int) -> list[int]:
    """Return the numbers of trials on one device that are worth a try: powers of two, and all."""
    powers = {1 << i for i in range(most.bit_length())}
    return sorted({power for power in powers if power < most} | {most})


@functools.lru_cache(maxsize=256)
def dispatch(run: Run) -> Dispatch:
    """Count what a run sends to its experts where a mesh splits them."""
    return models.load(run.family).account(run.model, run.seq_len).dispatch
