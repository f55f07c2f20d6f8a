"""What a study costs and whether it fits, before anything is paid. Trains nothing and keeps nothing.

    python -m sweeps.plan --study=sweeps/studies/quickstart.py [--target=cpu] [--json=plan.json]

For each signature: the ledger's counts, the peak memory that the compiler reports, and the time of a step. On the
machine at hand (target cpu) the program of each signature is compiled and takes a few steps on random tokens, on one
core as a worker would. The JSON is
`{"schema", "target", "signatures": [{"name", "runs", "fits", "peak_bytes", "flops_per_step", "collective_bytes",
"step_seconds_bound", "bound_by", "compile_seconds", …}], "totals": {"chip_hours", "price_usd", "flops", …}}`.
"""

from collections.abc import Sequence
import dataclasses
import os
import time
from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table

from experiments import cli, files, record, schema
from experiments.cli import InputError, nearest
from experiments.record import ledger
from experiments.schema import Run
from sweeps import graph
from sweeps import study as studies
from sweeps.executors import local
from sweeps.study import Cell

SCHEMA = 1
TARGETS = ("cpu",)
WARM_STEPS, MEASURE_SECONDS = 2, 0.5


@dataclasses.dataclass(frozen=True)
class Signature:
    """What a worker of one signature needs. Bytes and seconds are of one population on one core."""

    name: str
    runs: int
    steps: int
    tokens: int
    params_total: int
    flops_per_step: float
    flops: float
    peak_bytes: int | None
    fits: bool
    step_seconds_bound: float
    compile_seconds: float
    collective_bytes: dict[str, int] = dataclasses.field(default_factory=dict)  # none: runs do not speak to each other
    bound_by: str = "measured"

    @property
    def seconds(self) -> float:
        """Of one core: all steps, the compilation, and a process start."""
        return self.steps * self.step_seconds_bound + self.compile_seconds + graph.START_SECONDS


def describe(run: Run) -> str:
    """A signature in a few words."""
    shape = "x".join(str(getattr(run.model, name)) for name in ("width", "depth") if hasattr(run.model, name))
    return f"{run.family} {shape}, {run.batch} x {run.seq_len}"


def distinct(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells by signature; points that are one run as far as can be known without preparing data are counted once."""
    unique = {schema.fingerprint(c.run, (str(c.run.data),)): c for c in cells}
    groups: dict[str, list[Cell]] = {}
    for cell in unique.values():
        groups.setdefault(schema.signature(cell.run), []).append(cell)
    return list(groups.values())


def measure(run: Run, trials: int, execution: schema.Execution) -> tuple[float, int | None, float]:
    """Seconds a step, peak bytes and compile seconds of a population's program on one core of this machine."""
    import jax
    import numpy as np

    from experiments import population

    program = population.Program(run, trials, execution, jax.devices()[:1]).compile()
    state = program.init([run] * program.slots)
    values = program.stack_values([run] * program.slots)
    values = jax.device_put(values, program.slot_sharding)
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, run.model.vocab, program.token_shape()).astype(np.uint16)
    counts = np.zeros(program.slots, np.int32)

    def take(steps: int) -> float:
        nonlocal state
        counts[0], start = steps, time.monotonic()
        state, metrics = program.train(state, values, tokens, counts)
        jax.block_until_ready(metrics)
        return time.monotonic() - start

    once = take(min(WARM_STEPS, program.steps_per_dispatch))
    steps, seconds = 0, 0.0
    while seconds < min(MEASURE_SECONDS, 20 * once):
        seconds += take(program.steps_per_dispatch)
        steps += program.steps_per_dispatch
    return seconds / steps, program.memory_bytes, program.compile_seconds


def on_cpu(groups: Sequence[Sequence[Cell]], slots: int) -> list[Signature]:
    """The signatures of a study, measured on one core of this machine."""
    from experiments.train import set_up_devices

    execution = dataclasses.replace(groups[0][0].execution, cpu_devices=1)
    cores = local.available_cores()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores[:1])  # before jax starts its threads: a worker has one core
    out = []
    try:
        set_up_devices(execution)
        for group in groups:
            run, counts = group[0].run, [ledger(cell.run) for cell in group]
            trials = -(-len(group) // slots)
            seconds, peak, compiling = measure(run, trials, dataclasses.replace(group[0].execution, cpu_devices=1))
            flops = counts[0]["flops_per_token"] * run.batch_tokens
            out.append(
                Signature(
                    name=describe(run),
                    runs=len(group),
                    steps=sum(cell.run.steps for cell in group),
                    tokens=sum(cell.run.steps * cell.run.batch_tokens for cell in group),
                    params_total=counts[0]["params_total"],
                    flops_per_step=flops,
                    flops=sum(count["flops_total"] for count in counts),
                    peak_bytes=peak,
                    fits=peak is None or peak * slots <= graph.memory_bytes(),
                    step_seconds_bound=seconds,
                    compile_seconds=compiling,
                )
            )
    finally:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)
    return out


def plan(study: studies.Study, target: str) -> dict[str, Any]:
    """The plan of a study, as its JSON. Raises InputError for an unknown target."""
    if target not in TARGETS:
        raise InputError(f"--target={target!r} cannot be planned for; {nearest(target, TARGETS, 'target')}")
    slots = len(local.available_cores())
    found = on_cpu(distinct(study.cells), slots)
    work = [signature.seconds for signature in found]
    longest = max(signature.seconds / signature.runs for signature in found)
    totals = {
        "runs": sum(signature.runs for signature in found),
        "tokens": sum(signature.tokens for signature in found),
        "flops": sum(signature.flops for signature in found),
        "chip_hours": sum(work) / 3600,  # of cores
        "price_usd": None,  # nobody has told what this machine costs
        "seconds": max(sum(work) / slots, longest),
        "workers": slots,
    }
    signatures = [dataclasses.asdict(s) | {"seconds": s.seconds} for s in found]
    return {"schema": SCHEMA, "target": target, "study": study.spec, "signatures": signatures, "totals": totals}


def candidates(study: studies.Study) -> str:
    """The runs of a study as CSV, with the grid's columns that are known before training; for analysis.design."""
    import pandas as pd

    rows = [{"name": cell.name, **record.columns(cell.run), **ledger(cell.run)} for cell in study.cells]
    return pd.DataFrame(rows).to_csv(index=False)


def table(value: dict[str, Any], name: str) -> Table:
    """The plan for a reader."""
    out = Table(title=f"{name} on {value['target']}")
    heads = ("signature", "runs", "parameters", "tokens", "FLOPs/step", "FLOPs", "peak MB", "fits")
    for head in (*heads, "ms/step", "compile s", "core s"):
        out.add_column(head, justify="left" if head == "signature" else "right")
    for s in value["signatures"]:
        peak = "?" if s["peak_bytes"] is None else f"{s['peak_bytes'] / 1e6:.1f}"
        cells = (s["name"], s["runs"], f"{s['params_total']:,}", f"{s['tokens']:,}", f"{s['flops_per_step']:.3g}")
        cells += (f"{s['flops']:.3g}", peak, "yes" if s["fits"] else "NO", f"{1e3 * s['step_seconds_bound']:.2f}")
        out.add_row(*map(str, cells), f"{s['compile_seconds']:.1f}", f"{s['seconds']:.0f}")
    return out


def main(_: list[str]) -> int:
    """The command line."""
    study = studies.load(flags.FLAGS.study)
    if flags.FLAGS.runs:
        files.write_bytes(flags.FLAGS.runs, candidates(study).encode())
        Console(highlight=False).print(f"{len(study.cells)} runs, nothing compiled; written: {flags.FLAGS.runs}")
        return 0
    value = plan(study, flags.FLAGS.target)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    for note in study.notes:
        console.print(f"note: {note}", markup=False)
    console.print(table(value, study.name))
    totals = value["totals"]
    console.print(
        f"{totals['runs']} runs, {totals['tokens']:,} tokens, {totals['flops']:.3g} FLOPs: "
        f"about {totals['seconds']:.0f} s on {totals['workers']} cores ({totals['chip_hours']:.3f} core hours)"
    )
    if flags.FLAGS.json:
        files.write_json(flags.FLAGS.json, value)
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("study", None, "FILE.py[:ARG] with get_study(arg)")
    flags.DEFINE_string("target", "cpu", f"the machine to plan for: {', '.join(TARGETS)}")
    flags.DEFINE_string("runs", None, "write the runs as a CSV of candidates for analysis.design, and compile nothing")
    flags.DEFINE_string("json", None, "write the plan to this file as well")
    cli.run(main, required=("study",))
