"""What is done, running, missing, and why.

    python -m sweeps.status --workdir=runs/quickstart [--json=status.json] [--watch]

Reads the workdir only, so it may be asked at any time and from any machine that sees it. The JSON is
`{"schema", "name", "runs": [{"fingerprint", "name", "status", "reason"}], "counts": {status: n}}`, one entry a run, and
`"progress": {fingerprint: {…}}`, `"totals": {…}` with the fields of sweeps/watch/progress.py.
"""

import contextlib
import time

from absl import flags
from rich.console import Console
from rich.live import Live

from experiments import cli, files
from sweeps.watch import overview, status_table
from sweeps.watch.overview import Overview
from sweeps.work.workdir import Workdir

LOG_WIDTH = 190  # characters, where there is no terminal


def watch(workdir: Workdir, console: Console, seconds: float) -> Overview:
    """Show the table again and again until nothing is under way; return the last look. Ctrl-C ends it too."""
    seen = overview.look(workdir)
    live = Live(status_table.render(seen), console=console, auto_refresh=False)
    with contextlib.suppress(KeyboardInterrupt), live:
        while seen.under_way:
            time.sleep(seconds)
            seen = overview.look(workdir)
            live.update(status_table.render(seen), refresh=True)
    return seen


def main(_: list[str]) -> int:
    """Show where a study stands."""
    given = flags.FLAGS
    workdir = Workdir(given.workdir)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = LOG_WIDTH  # a log has no width; do not fold what could be searched for
    if given.watch:
        seen = watch(workdir, console, given.seconds)
    else:
        seen = overview.look(workdir)
        console.print(status_table.table(seen))
        console.print(status_table.summary(seen.totals), soft_wrap=True)
    if given.json:
        files.write_json(given.json, cli.signed(seen.to_json()))
    return 0


if __name__ == "__main__":
    cli.define_path("workdir", None, "folder of the study")
    cli.define_output("json", "write the states to this file as well")
    flags.DEFINE_bool("watch", False, "show the table again and again until nothing is under way")
    flags.DEFINE_float("seconds", 5.0, "between two looks with --watch", lower_bound=0.1)
    cli.run(main, required=("workdir",))
