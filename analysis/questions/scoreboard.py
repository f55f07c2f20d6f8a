"""Which law to believe on a grid: every law that its columns allow, by the error on runs that it has not seen.

python -m analysis.scoreboard GRID [--laws=chinchilla,kaplan,overtraining] [--where=...] --out=scoreboard.json
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from absl import flags
import numpy as np

from analysis import laws
from analysis.command_line import options
from analysis.command_line.output import check_writable, command, one_grid, open_console, track, write
from analysis.fitting import fit as fitting
from analysis.fitting.result import FitError, FitSpec, finite
from analysis.grid.table import Columns, Grid, load, select
from analysis.laws.base import FormulaLaw, Law
from analysis.questions import backtest
from analysis.solve.objective import Objective
from experiments import cli
from experiments.cli import InputError

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Score:
    """How one law does on a grid. Errors are relative, of held-out rows; nan where `reason` says why there are none."""

    law: str
    coefficients: int
    rms_residual: float
    aicc: float
    held_out_rms: float
    held_out_bias: float
    covered: float
    not_identified: tuple[str, ...]
    test: backtest.Rolling | None
    reason: str = ""


def scoreboard(columns: Columns, laws: Sequence[type[Law]], spec: FitSpec) -> list[Score]:
    """Laws by held-out error, best first; those that cannot be fitted last. All are tested on the same splits.

    All are fitted with one objective (Huber's where the spec gives none), else their AICc would not compare. AICc compares them where they were fitted; the held-out error says who extrapolates, and that is what counts.
    """
    spec = dataclasses.replace(spec, objective=spec.objective or Objective())
    fewest = max(len(law.of(columns.parts).names()) for law in laws) + backtest.MARGIN
    found = []
    for law in track(laws, "fitting and testing laws"):
        try:
            result = fitting.fit(columns, law, dataclasses.replace(spec, bootstrap=0))
        except (InputError, FitError) as error:
            nothing = (np.nan,) * 5
            found.append(Score(law.NAME, len(law.names()), *nothing, (), None, str(error).removeprefix("GRID: ")))
            continue
        try:
            test, reason = backtest.rolling(columns, law, spec, fewest), ""
            error, inside = test.gathered("error"), test.gathered("inside")
            held = float(np.sqrt(np.mean(error**2))), float(error.mean()), float(inside.mean())
        except (InputError, FitError) as problem:
            test, held, reason = None, (np.nan,) * 3, str(problem).removeprefix("GRID: ")
        certificate = result.certificate
        found.append(
            Score(
                law.NAME,
                len(law.names()),
                certificate.rms_log_residual or 0.0,
                np.nan if certificate.aicc is None else certificate.aicc,
                *held,
                tuple(certificate.not_identified),
                test,
                reason,
            )
        )
    return sorted(found, key=lambda score: (not np.isfinite(score.held_out_rms), score.held_out_rms, score.aicc))


def weights(aicc: Mapping[str, float]) -> dict[str, float]:
    """Akaike weights: how plausible each law is next to the others; a law without a criterion has none."""
    known = {name: value for name, value in aicc.items() if np.isfinite(value)}
    if not known:
        return {name: 1 / len(aicc) for name in aicc}
    least = min(known.values())
    raw = {name: float(np.exp(-0.5 * (known[name] - least))) if name in known else 0.0 for name in aicc}
    return {name: value / sum(raw.values()) for name, value in raw.items()}


def applicable(grid: Grid, columns: str | None, where: str | None) -> list[type[Law]]:
    """The laws of the loss of single runs whose roles all have a column in the grid."""
    found = []
    for law in laws.LAWS.values():
        if not (issubclass(law, FormulaLaw) and law.TARGET == "loss"):
            continue
        try:
            select(grid, law.ROLES, columns=columns, where=where)
        except InputError:
            continue
        found.append(law)
    return found


def together(grid: Grid, chosen: Sequence[type[Law]], columns: str | None, where: str | None) -> Columns:
    """The rows that all `chosen` laws can use, with every role that one of them needs or can use."""
    needed = dict.fromkeys(role for law in chosen for role in law.ROLES)
    optional = dict.fromkeys(role for law in chosen for role in law.OPTIONAL)
    if "N" in needed and "D" in needed:
        needed["C"] = None  # derived where no column gives it: it orders the runs
    return select(grid, tuple(needed), optional=tuple(optional), columns=columns, where=where)


def to_json(scores: Sequence[Score], grid: Grid, rows: int, command: str) -> dict[str, Any]:
    """scoreboard.json: the laws in order, numbers that do not exist null."""
    share = weights({score.law: score.aicc for score in scores})
    return {
        "schema": SCHEMA,
        "data_sha256": grid.sha256,
        "rows_used": rows,
        "command": command,
        "laws": [
            {
                "law": score.law,
                "coefficients": score.coefficients,
                **finite({
                    name: getattr(score, name)
                    for name in ("held_out_rms", "held_out_bias", "covered", "rms_residual", "aicc")
                }),
                "weight": share[score.law],
                "not_identified": list(score.not_identified),
                "by_factor": score.test.by_factor() if score.test else [],
                "reason": score.reason,
            }
            for score in scores
        ],
    }  # fmt: skip


def show(scores: Sequence[Score], console: Any) -> None:
    """Print the scoreboard for people."""
    from rich.table import Column, Table

    table = Table(
        Column("law", no_wrap=True), "k", "held-out error", "bias", "covered", "residual", "AICc", "not identified",
        title="laws by the error on larger runs than they were fitted to", title_justify="left",
    )  # fmt: skip
    least = min((score.aicc for score in scores if np.isfinite(score.aicc)), default=0.0)

    def percent(value: float, form: str = ".2%") -> str:
        return format(value, form) if np.isfinite(value) else "-"

    for score in scores:
        table.add_row(
            score.law,
            str(score.coefficients),
            percent(score.held_out_rms),
            percent(score.held_out_bias, "+.2%"),
            percent(score.covered, ".0%"),
            percent(score.rms_residual),
            f"+{score.aicc - least:.1f}" if np.isfinite(score.aicc) else "-",
            ", ".join(score.not_identified) or score.reason,
        )
    console.print(table)


def main(argv: list[str]) -> None:
    """The command line."""
    values = flags.FLAGS
    path = one_grid(argv)
    if values.out is not None:
        check_writable(values.out, "--out")
    spec, grid = options.spec(), load(path)
    chosen = [laws.load(name) for name in values.laws] or applicable(grid, values.columns, values.where)
    if not chosen:
        raise InputError(f"GRID: {grid.path} has the columns of no law; name them with --columns=N=...,D=...,loss=...")
    for law in chosen:
        if not issubclass(law, FormulaLaw) or law.TARGET != "loss":
            raise InputError(f"--laws: {law.NAME} is not a law of the loss of single runs")
    columns = together(grid, chosen, values.columns, values.where)
    scores = scoreboard(columns, chosen, spec)
    if values.out is not None:
        write(values.out, to_json(scores, grid, len(columns), command("analysis.scoreboard")), "--out")
    console = open_console()
    show(scores, console)
    if values.out is not None:
        console.print(f"written: {values.out}")


if __name__ == "__main__":
    options.define()
    flags.adopt_module_key_flags(options)
    flags.FLAGS["bootstrap"].default = 200
    flags.DEFINE_list("laws", [], "The laws to compare; by default all whose columns the grid has.")
    flags.DEFINE_string("out", None, "A JSON file to write.")
    cli.run(main)
