"""Plan a study: what it costs and whether it fits, before anything is paid. Trains nothing.

    python -m sweeps.plan --study=sweeps/studies/quickstart.py                                   # measured on this machine
    python -m sweeps.plan --study=sweeps/studies/sizes.py --target=v5e-16 --workdir=runs/sizes   # compiled for 16 TPU chips

Every distinct signature is compiled once: for a TPU by libtpu, without a TPU, on the mesh and with as many runs in a
program as promise the shortest time; on a CPU or GPU it also takes a few steps. Times for a TPU are what the chip could
do at best (sweeps/cost/bound.py), so time, chip-hours and price are the least that they can be. Results of compilations
are kept (sweeps/cost/compile_cache.py): the same plan again takes seconds. With --workdir the plan becomes the lock that
launch follows (sweeps/cost/plan_file.py). The JSON is
`{"schema", "target", "hash", "signatures": [{"name", "runs", "fits", "peak_bytes", "flops_per_step", "collective_bytes",
"step_seconds_bound", "bound_by", "compile_seconds", …}], "totals": {"chip_hours", "price_usd", "flops", …}}`;
the fields are those of SignaturePlan (sweeps/cost/signature_plan.py) and the totals of sweeps/cost/study_plan.py.
"""

from absl import flags
from rich.console import Console

from experiments import cli, files
from experiments.benchmarks.chips import load_chips, load_grid
from sweeps.cost import compiler, machines, plan_file, table
from sweeps.cost.compile_cache import CACHE
from sweeps.cost.study_plan import plan_study
from sweeps.study import file as studies
from sweeps.study.candidates import candidates_csv

FILE_WIDTH = 180  # of the tables where no terminal shows them


def main(_: list[str]) -> int:
    """Run the command line. A study that does not fit is a failure: exit code 1."""
    given = flags.FLAGS
    if given.runs:
        return _write_candidates(given.study, given.runs)
    target = machines.target(given.target)
    chips = load_chips(given.prices)
    grid = load_grid(given.prices)
    if target.kind == "tpu" and (reason := compiler.missing()):
        raise cli.InputError(f"--target={target.name}: {reason}")
    study = studies.load(given.study)
    progress = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        progress.print(text, markup=False, soft_wrap=True)

    cache = None if given.cache == "none" else given.cache
    plan = plan_study(study, target, chips, grid, given.layouts, cache, say)
    _print_plan(study, plan)
    if given.json:
        files.write_json(given.json, cli.signed(plan))
    if given.workdir:
        files.write_json(f"{given.workdir}/{plan_file.NAME}", plan)
    return 0 if plan["totals"]["fits"] else cli.EXIT_FAILURE


def _write_candidates(spec: str, path: str) -> int:
    """Write the study's runs as candidates for analysis.design; compiles nothing."""
    study = studies.load(spec)
    files.write_bytes(path, candidates_csv(study).encode())
    Console(highlight=False).print(f"{len(study.cells)} runs, nothing compiled; written: {path}")
    return 0


def _print_plan(study: studies.Study, plan: table.Plan) -> None:
    """Print the study's notes and the plan's tables."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    for note in study.notes:
        console.print(f"note: {note}", markup=False)
    table.show(console, plan, study.name)


if __name__ == "__main__":
    cli.define_path("study", None, "FILE.py[:ARG] with get_study(arg)")
    flags.DEFINE_string("target", "cpu", f"the machine to plan for, such as {', '.join(machines.EXAMPLES)}")
    cli.define_output(
        "runs", "write the runs as a CSV of candidates for analysis.design, and compile nothing", [b"name,family,"]
    )
    cli.define_output("json", "write the plan to this file as well")
    cli.define_path("workdir", None, "folder of the study: leave the plan there as its lock")
    cli.define_path(
        "prices", None, "JSON like experiments/benchmarks/chips.json with the figures and prices to use instead"
    )
    cli.define_integer(
        "layouts", 1, "layouts of a signature that are compiled and compared, of those that are close", 1
    )
    cli.define_path("cache", CACHE, "folder for results of compilations; none: keep none")
    cli.run(main, required=("study",))
