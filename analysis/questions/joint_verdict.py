"""Judge the families of a joint fit: by one likelihood region of all their coefficients, and each by its own rows."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from analysis.fitting.judging import judge_family
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.questions.family import Family
from analysis.solve.optimum import Optimum
from analysis.trust import bootstrap
from analysis.trust.design_check import Design, lay_out
from analysis.trust.region import Region, explore
from analysis.trust.residuals import row_counts


def run_names(columns: Columns) -> np.ndarray | None:
    """Return the run of every row [rows], with its family: runs of two families may have one name."""
    if "run" not in columns:
        return None
    family = np.char.add(columns["family"].astype(str), " ")
    return np.char.add(family, columns["run"].astype(str))


def judge_families(
    families: Mapping[str, Family],
    parts: Mapping[str, Columns],
    columns: Columns,
    best: Optimum,
    refits: np.ndarray,
    spec: FitSpec,
    shared: Sequence[str],
) -> dict[str, Family]:
    """Return the families with their verdicts.

    parts: rows by family; best: the joint fit to all rows `columns`; refits [replicates, p]: to resampled rows; shared:
    the coefficients that all families have in common.
    """
    run = run_names(columns)
    counting = row_counts(columns) > 0
    member = bootstrap.units(len(columns), run)
    runs = len(np.unique(member[counting]))
    freedom = runs - best.problem.size
    designs = {}
    for name, part in parts.items():
        law = families[name].law
        designs[name] = lay_out(part, law.inputs(), law.TARGET, best.problem.size, runs)
    explored = None
    if spec.judge and len(refits) and freedom >= 1:
        explored = explore(best, refits, run, freedom, spec.level, spec.seed, translate=_as_they_are)
    told_by_others = _roles_told(designs)
    judged = {}
    for copy, (name, family) in enumerate(families.items()):
        region = None if explored is None else _of_copy(explored, best.problem, copy)
        verdict = judge_family(
            family.law,
            designs[name],
            region,
            family.intervals(spec.level),
            family.not_identified,
            told_by_others,
            spec,
            shared,
        )
        judged[name] = dataclasses.replace(family, verdict=verdict)
    return judged


def _as_they_are(points: np.ndarray) -> np.ndarray:
    """Keep the parameters [points, p] of all families: what they are of one family is told later."""
    return points


def _of_copy(explored: Region, problem: Any, copy: int) -> Region:
    """Return a region of the joint parameters as one of the coefficients of one family."""
    return dataclasses.replace(explored, coefficients=problem.coefficients(explored.coefficients, copy))


def _roles_told(designs: Mapping[str, Design]) -> set[str]:
    """Return the inputs that the rows of some family tell apart, and so what all families learn from them together."""
    found = set()
    for design in designs.values():
        found |= set(design.ranges) - set(design.tied)
    return found
