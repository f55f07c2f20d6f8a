"""What the launcher itself costs.

    python -m sweeps.benchmark [--parts=launcher,stopping,loop,finished] [--runs=200] [--json=PATH]

launcher    a real study of many tiny runs, launched as `sweeps.launch` does it: where its time went
stopping    looks of early stopping
loop        10,000 runs that wait and 64 workers that only talk: the loop's share of a core, the files that a poll opens
finished    a study of 10,000 runs that all have their record: how long until `sweeps.launch` says so

sweeps/benchmarks/ has a file for each.
"""

from collections.abc import Mapping

from absl import flags
from rich.console import Console
from rich.table import Table

from experiments import cli, files

PARTS = ("launcher", "stopping", "loop", "finished")


def measure(part: str) -> dict[str, float]:
    """Measure one part with what the flags say."""
    given = flags.FLAGS
    if part == "launcher":
        from sweeps.benchmarks.launcher import measure_launcher

        return measure_launcher(given.runs, given.steps, given.data_root)
    if part == "stopping":
        from sweeps.benchmarks.stopping import measure_stopping

        return measure_stopping()
    if part == "loop":
        from sweeps.benchmarks.loop import measure_loop

        return measure_loop(given.known, given.jobs, given.seconds)
    from sweeps.benchmarks.finished import measure_finished

    return measure_finished(given.known, given.data_root)


def show(part: str, found: Mapping[str, float]) -> None:
    """Print what was found, a number a line."""
    table = Table(title=part, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in found.items():
        is_share = "share" in name or name == "overhead"
        table.add_row(name.replace("_", " "), f"{value:.2%}" if is_share else f"{value:,.4g}")
    Console().print(table)


def main(_: list[str]) -> int:
    """Measure the parts that the flags name, and show what was found."""
    given = flags.FLAGS
    for part in given.parts:
        if part not in PARTS:
            raise cli.InputError(f"--parts={part}: {cli.nearest(part, PARTS, 'part')}")
    found = {}
    for part in given.parts:
        found[part] = measure(part)
        show(part, found[part])
    if given.json:
        files.write_json(given.json, cli.signed({"schema": 2, **found}))
    return 0


if __name__ == "__main__":
    flags.DEFINE_list("parts", list(PARTS), f"what to measure: {', '.join(PARTS)}")
    cli.define_integer("runs", 200, "launcher: runs of the study", lower_bound=1)
    cli.define_integer("steps", 100, "launcher: steps of each of them", lower_bound=1)
    cli.define_integer("known", 10_000, "loop and finished: runs that the launch knows of", lower_bound=1)
    cli.define_integer("jobs", 64, "loop: workers", lower_bound=1)
    cli.define_integer("seconds", 40, "loop: how long it is measured", lower_bound=1)
    cli.define_path("data_root", "data", "where prepared corpora are")
    cli.define_output("json", "write the numbers here too")
    cli.run(main)
