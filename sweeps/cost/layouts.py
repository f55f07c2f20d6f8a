"""How long a step takes at best, and which mesh and packing to try first. Pure arithmetic on counts.

A compiled program is bound by the slowest of four: its matmuls at the chip's peak, its traffic with HBM, what it
sends over the links of one torus axis, and what it keeps in the host's memory (a copy of it each way), all overlapping
perfectly. A real step is slower, never faster. Before anything is compiled the same four are guessed from the ledger, to
sort layouts; the guess decides nothing that the compiler does not confirm.
"""

from collections.abc import Iterator
import dataclasses
import functools
import math

from experiments.run.schema import Execution, Run
from experiments.store.record import ledger
from models.mesh.mesh import MeshShape
from sweeps.cost.compiler import Layout
from sweeps.cost.machines import Chip

STATE_BYTES = 12  # a parameter in float32 and two moments
LANES = 128  # width of a TPU's matrix unit: narrower matmuls leave the rest idle
STATE_PASSES = 40  # bytes that a step moves for each parameter: its value, gradient and moments, read and written
ACTIVATION_PASSES = 60  # bytes that a token moves for each layer and unit of width
PART_PASSES = 16  # more of them for each further part of a batch: values and gradients again, and their sum
KEPT = {"full": 2, "offload": 1, "attention": 3}  # activations of a layer in units of width until its backward pass
MOST_CHOICES = 64


@functools.lru_cache(maxsize=256)
def _counts(run: Run) -> dict[str, float]:
    return ledger(run)


@dataclasses.dataclass(frozen=True)
class Guess:
    """A layout with what it is expected to take: bytes of a chip, seconds of a step, seconds of all runs' steps."""

    layout: Layout
    bytes: float
    step_seconds: float
    seconds: float


def guess(run: Run, layout: Layout, runs: int, steps: float, chip: Chip, execution: Execution = Execution()) -> Guess:
    """Of `runs` runs of `steps` steps on average."""
    counts, model = _counts(run), run.model
    width, depth = getattr(model, "width", 128), getattr(model, "depth", 1)
    shards = layout.fsdp * layout.expert * layout.sequence * layout.tensor
    rows = layout.data * layout.fsdp * layout.expert * layout.sequence
    each = -(-layout.trials // layout.trial)  # trials that a chip holds a part of
    params, tokens = counts["params_total"], run.batch_tokens / rows
    parts, away = execution.microbatches, execution.offload == "optimizer"
    item = 2 if getattr(model, "dtype", "float32") == "bfloat16" else 4
    narrow = max(1.0, LANES * layout.tensor / max(1, width))
    compute = counts["flops_per_token"] * tokens / layout.tensor * narrow / chip.peak_flops
    memory = (
        (STATE_PASSES + PART_PASSES * (parts - 1)) * params / shards
        + ACTIVATION_PASSES * tokens * depth * width / layout.tensor * item / 4
    ) / (chip.hbm_bytes_per_second)
    sent = 2 * 4 * params / shards * (layout.data > 1) * parts  # gradients, there and back
    # Matrices twice, gradients once, but for experts to which rows travel, three times there and back; then activations,
    # four times there and back.
    apart, travelling = _travel(run) if layout.expert > 1 else (0.0, 0.0)
    stored = layout.fsdp * layout.sequence
    sent += 3 * item * (params - apart) / layout.tensor * (1 - 1 / (stored * layout.expert)) * parts
    sent += 3 * item * apart / layout.expert / layout.tensor * (1 - 1 / stored) * parts
    sent += 6 * depth * tokens * travelling * width * item * (1 - 1 / layout.expert)
    sent += 8 * depth * tokens * width * item * (1 - 1 / layout.tensor)
    sent += 8 * depth * tokens * width * item * (1 - 1 / layout.sequence) / layout.tensor
    moments = 8 * params / shards * away
    times = (compute, memory, sent / chip.ici_bytes_per_second, moments / (chip.host_bytes_per_second or float("inf")))
    step = each * (max(times) + 0.05 * sum(times))  # the rest decides between what is bound alike
    logits = tokens * (model.vocab or 0) / layout.tensor * 6
    kept = tokens * depth * width * item * KEPT.get(getattr(model, "remat", "none"), 24) / layout.tensor
    needed = each * ((STATE_BYTES + 4 * (1 + (parts > 1))) * params / shards - moments + (logits + kept) / parts)
    return Guess(layout, needed, step, -(-runs // layout.trials) * steps * step)


def _travel(run: Run) -> tuple[float, float]:
    """Parameters of experts that stay on their chip of the axis `expert`, and rows per token that travel to them."""
    if getattr(run.model, "mode", None) != "capacity" or run.model.top_k == run.model.experts:
        return 0.0, 0.0
    counts, (E, C) = _counts(run), (run.model.experts, run.model.top_k)
    return (counts["params_total"] - counts["params_active"]) * E / (E - C), C * run.model.capacity_factor


def divisors(n: int) -> list[int]:
    """Of n, ascending."""
    return [d for d in range(1, n + 1) if n % d == 0]


def layouts(run: Run, runs: int, devices: int, execution: Execution) -> Iterator[Layout]:
    """Every way to share `devices` devices among `runs` runs that the sizes of the run allow on paper.

    What the execution's mesh sets stays as it is: `fsdp`, `expert` and `tensor` count as set where they are not 1.
    `sequence` is used only where set; `expert` also where rows travel to experts, and not experts to rows.
    """
    fixed, sequence = execution.mesh, execution.mesh.sequence
    experts = getattr(run.model, "experts", 1)
    splits = divisors(experts) if _travel(run)[1] else [1]
    heads = math.gcd(*(getattr(run.model, n) or 0 for n in ("heads", "kv_heads") if hasattr(run.model, n)), 0)
    for trial in [fixed.trial] if fixed.trial else divisors(devices):
        if trial > runs or devices % (trial * sequence):
            continue
        for tensor in [fixed.tensor] if fixed.tensor > 1 else divisors(devices // trial // sequence):
            apart = tensor * sequence  # what splits heads, or a recurrence's channels
            if apart > 1 and (heads % apart if heads else run.model.width % apart):
                continue
            for expert in [fixed.expert] if fixed.expert > 1 else splits:
                if (devices // trial) % (tensor * expert * sequence) or experts % expert:
                    continue
                left = devices // trial // tensor // expert // sequence
                for fsdp in [fixed.fsdp] if fixed.fsdp > 1 else divisors(left):
                    data = left // fsdp
                    if (
                        left % fsdp
                        or run.batch % (data * fsdp * expert * execution.microbatches)
                        or (fixed.data and data != fixed.data)
                    ):
                        continue
                    for each in packings(-(-runs // trial)):
                        yield Layout(trial, data, fsdp, expert, sequence, tensor, trial * each)


def packings(most: int) -> list[int]:
    """Trials of one device that are worth a try: powers of two, and all."""
    return sorted({most, *(1 << i for i in range(most.bit_length()) if 1 << i < most)})


def choices(run: Run, runs: int, steps: float, devices: int, execution: Execution, chip: Chip) -> list[Guess]:
    """Layouts that can be expected to fit, the fastest first; if none can, those that need the least memory.

    Of equals, the one with fewer programs and less communication comes first. A slice that the batch cannot be split over
    is used in part.
    """
    found: list[Guess] = []
    for used in reversed(divisors(devices)):
        found += [guess(run, layout, runs, steps, chip, execution) for layout in layouts(run, runs, used, execution)]
        if found and execution.mesh != MeshShape():
            break
    fitting = [g for g in found if g.bytes <= chip.hbm_bytes]
    if not fitting:
        return sorted(found, key=lambda g: g.bytes)[:MOST_CHOICES]

    def order(g: Guess) -> tuple[float, ...]:
        return (
            float(f"{g.seconds:.3g}"),
            g.layout.tensor,
            g.layout.expert,
            g.layout.fsdp,
            g.layout.data,
            -g.layout.trials,
        )

    return sorted(fitting, key=order)[:MOST_CHOICES]
