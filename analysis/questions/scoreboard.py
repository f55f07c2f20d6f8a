"""Which law to believe on a grid: every law that its columns allow, by the error on runs that it has not seen.

python -m analysis.scoreboard GRID [--laws=chinchilla,kaplan,overtraining] [--where=...] --out=scoreboard.json
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from analysis import laws
from analysis.fitting.result import FitError, finite
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns, Grid, select
from analysis.laws.base import FormulaLaw, Law
from analysis.questions import backtest
from analysis.questions import fit as fitting
from analysis.solve.objective import Objective
from analysis.writing.terminal import track
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
