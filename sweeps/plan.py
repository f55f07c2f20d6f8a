"""What a study costs and whether it fits, before anything is paid. Trains nothing.

    python -m sweeps.plan --study=sweeps/studies/quickstart.py                                   # measured on this machine
    python -m sweeps.plan --study=sweeps/studies/sizes.py --target=v5e-16 --workdir=runs/sizes   # compiled for 16 TPU chips

Every distinct signature is compiled once: for a TPU by libtpu, without a TPU, on the mesh and with as many runs in a
program as promise the shortest time; on a CPU or GPU it also takes a few steps. Times for a TPU are what the chip could
do at best (sweeps/cost/layouts.py), so time, chip-hours and price are the least that they can be. Results of compilations
are kept (sweeps/cost/compiler.py): the same plan again takes seconds. With --workdir the plan becomes the lock that launch heeds
(sweeps/cost/plan_file.py). The JSON is
`{"schema", "target", "hash", "signatures": [{"name", "runs", "fits", "peak_bytes", "flops_per_step", "collective_bytes",
"step_seconds_bound", "bound_by", "compile_seconds", …}], "totals": {"chip_hours", "price_usd", "flops", …}}`;
the fields are those of Row and `totals`.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

from absl import flags
from rich.console import Console

from experiments import cli, files
from experiments.run import identity
from experiments.store import record
from experiments.store.record import ledger
from sweeps.cost import compiler as aot
from sweeps.cost import machines, plan_file, table
from sweeps.cost.compiled import on_tpu
from sweeps.cost.machines import Chip, Target
from sweeps.cost.measured import on_cpu, on_gpu
from sweeps.cost.row import Row, distinct
from sweeps.executors import local
from sweeps.study import file as studies

SCHEMA = 2


def critical_path(study: studies.Study, rows: Sequence[Row]) -> tuple[float, list[str]]:
    """Seconds of the longest line of runs that wait for each other, and the names of its runs, eldest first."""
    step = {row.signature: row.step_seconds_bound for row in rows}
    best: tuple[float, list[str]] = (0.0, [])
    for cell in study.cells:
        line = studies.line(cell)
        seconds = sum(one.run.steps * step.get(identity.signature(one.run), 0.0) for one in line)
        if seconds > best[0]:
            best = (seconds, [one.name for one in line])
    return best


def plan(
    study: studies.Study,
    target: Target,
    chips: dict[str, Chip],
    layouts: int = 1,
    cache: str | None = aot.CACHE,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """The plan of a study, as its JSON. Raises InputError for a target that cannot be planned for here."""
    groups, slots = distinct(study.cells), 1
    compiles = {"compiled": 0, "remembered": 0}
    if target.kind == "cpu":
        rows, slots = on_cpu(groups), len(local.available_cores())
    elif target.kind == "gpu":
        rows = on_gpu(groups, target, chips[target.chip])
    else:
        aot.set_up()
        compiler = aot.Compiler(target, cache)
        rows = on_tpu(groups, compiler, chips[target.chip], layouts, say)
        compiles = {"compiled": compiler.compiled, "remembered": compiler.remembered}
    price = chips[target.chip].price_usd if target.chip else None  # nobody has told what this machine costs
    work, (longest, names) = [row.seconds for row in rows], critical_path(study, rows)
    hours = sum(work) * target.chips / 3600
    totals = {
        "runs": sum(row.runs for row in rows),
        "tokens": sum(row.tokens for row in rows),
        "flops": sum(row.flops for row in rows),
        "fits": all(row.fits for row in rows),
        "chips": target.chips,
        "chip_hours": hours,  # on a CPU: of cores
        "price_usd": None if price is None else hours * price,
        "checkpoint_storage_bytes": sum(row.checkpoint_storage_bytes for row in rows),
        "seconds": max(sum(work) / slots, longest),
        "critical_path_seconds": longest,
        "critical_path": names,
        "workers": slots,
        **compiles,
    }
    return {
        "schema": SCHEMA,
        "target": target.name,
        "topology": target.topology,
        "study": study.spec,
        "hash": plan_file.study_hash(study),
        "chip": dataclasses.asdict(chips[target.chip]) if target.chip else None,
        "signatures": [dataclasses.asdict(row) for row in rows],
        "totals": totals,
    }


def candidates(study: studies.Study) -> str:
    """The runs of a study as CSV, with the grid's columns that are known before training; for analysis.design."""
    import pandas as pd

    rows = [{"name": cell.name, **record.columns(cell.run), **ledger(cell.run)} for cell in study.cells]
    return pd.DataFrame(rows).to_csv(index=False)


def main(_: list[str]) -> int:
    """The command line. A study that does not fit is a failure: exit code 1."""
    if flags.FLAGS.runs:
        study = studies.load(flags.FLAGS.study)
        files.write_bytes(flags.FLAGS.runs, candidates(study).encode())
        Console(highlight=False).print(f"{len(study.cells)} runs, nothing compiled; written: {flags.FLAGS.runs}")
        return 0
    target = machines.target(flags.FLAGS.target)
    chips = machines.load_chips(flags.FLAGS.prices)
    if target.kind == "tpu" and (reason := aot.available()):
        raise cli.InputError(f"--target={target.name}: {reason}")
    study = studies.load(flags.FLAGS.study)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 180
    progress = Console(stderr=True, highlight=False)
    say = lambda text: progress.print(text, markup=False, soft_wrap=True)  # noqa: E731
    cache = aot.CACHE if flags.FLAGS.cache is None else flags.FLAGS.cache or None
    value = plan(study, target, chips, flags.FLAGS.layouts, cache, say)
    for note in study.notes:
        console.print(f"note: {note}", markup=False)
    table.show(console, value, study.name)
    paths = [flags.FLAGS.json, flags.FLAGS.workdir and f"{flags.FLAGS.workdir}/{plan_file.NAME}"]
    for path in filter(None, paths):
        files.write_json(path, value)
    return 0 if value["totals"]["fits"] else cli.EXIT_FAILURE


if __name__ == "__main__":
    flags.DEFINE_string("study", None, "FILE.py[:ARG] with get_study(arg)")
    flags.DEFINE_string("target", "cpu", f"the machine to plan for, such as {', '.join(machines.EXAMPLES)}")
    flags.DEFINE_string("runs", None, "write the runs as a CSV of candidates for analysis.design, and compile nothing")
    flags.DEFINE_string("json", None, "write the plan to this file as well")
    flags.DEFINE_string("workdir", None, "folder of the study: leave the plan there as its lock")
    flags.DEFINE_string("prices", None, "JSON like sweeps/chips.json with the figures and prices to use instead")
    flags.DEFINE_integer(
        "layouts", 1, "layouts of a signature that are compiled and compared, of those that are close", 1
    )
    flags.DEFINE_string("cache", None, f"folder for results of compilations; default {aot.CACHE}; empty: keep none")
    cli.run(main, required=("study",))
