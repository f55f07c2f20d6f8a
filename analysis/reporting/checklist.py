"""State what a scaling-law report must state, filled in from the grid and the fit.

The items follow the checklist of Li et al. 2025, "(Mis)Fitting: a survey of scaling laws" (arXiv 2502.18969): the form, the
training setup, the collection of data, the fit. What neither the grid nor the fit knows is said to be unknown.
"""

import collections
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from analysis.fitting.result import FitResult, judged_verdict
from analysis.grid.roles import ROLES
from analysis.grid.table import Columns, Grid
from analysis.reporting.survey import Survey
from analysis.reporting.words import test_text
from analysis.trust.verdict import Verdict
from analysis.writing.numbers import counted, human, number

if TYPE_CHECKING:
    import pandas as pd

UNKNOWN = "not stated in the grid"
MOST_VALUES = 8
CONVENTIONS = {  # what our columns count; other people's names say what they say
    "params_total": "all parameters, embeddings and head included",
    "params_no_embed": "parameters without the input embedding",
    "params_non_embedding": "parameters without input embedding and output head",
    "params_active": "parameters that one token passes through",
    "flops_total": "forward and backward FLOPs with full attention, head included",
    "flops_6nd": "6 N D",
    "6*N*D": "6 N D",
}


class Item(NamedTuple):
    """One line of the checklist."""

    section: str
    item: str
    value: str


Lines = list[tuple[str, str]]  # (what is stated, what is known of it)


def checklist(survey: Survey, grid: Grid) -> list[Item]:
    """Return every item, in the order of the source."""
    facts = Facts(survey, grid)
    sections = {
        "The law": law_items(survey),
        "Variables": variable_items(survey),
        "Training runs": [*chosen_items(survey), *recipe_items(survey, facts)],
        "Data and loss": data_items(survey, facts),
        "The fit": fit_items(survey),
        "Trust": trust_items(survey),
        "Availability": availability_items(grid, facts),
    }
    items = []
    for section, lines in sections.items():
        items += [Item(section, item, value) for item, value in lines]
    return items


class Facts:
    """What the columns of the grid say about the rows that were used."""

    def __init__(self, survey: Survey, grid: Grid):
        self.frame = grid.frame.iloc[survey.columns.row]

    def of(self, *names: str) -> str:
        """Return the values of the first of these columns that has any: the one value, a few, or a range."""
        for name in names:
            if name not in self.frame.columns:
                continue
            # A name that stands twice in the grid gives two columns; the first one counts.
            same_name = self.frame.loc[:, self.frame.columns == name]
            text = spread(same_name.iloc[:, 0].dropna())
            if text:
                return f"{text} ({name})"
        return UNKNOWN

    def several(self, **columns: tuple[str, ...]) -> str:
        """Return `label values` for each label one of whose columns is there."""
        known = []
        for label, names in columns.items():
            text = self.of(*names)
            if text != UNKNOWN:
                known.append(f"{label.replace('_', ' ')} {text}")
        return "; ".join(known) or UNKNOWN


def spread(values: "pd.Series") -> str:
    """Say the values of a column in a few words; empty when it says nothing."""
    unique = values.drop_duplicates()
    if not len(unique):
        return ""
    if values.dtype.kind in "iuf":
        low = float(unique.min())
        high = float(unique.max())
        if low == high:
            return _plain(low)
        return f"{_plain(low)} to {_plain(high)}, {len(unique)} values"
    words = {str(value).strip() for value in unique}
    listed = sorted(words - {""})
    text = ", ".join(listed[:MOST_VALUES])
    if len(listed) > MOST_VALUES:
        text += f" and {len(listed) - MOST_VALUES} more"
    return text


def _headline(survey: Survey) -> FitResult:
    """Return the fit that the report's first line is about."""
    return survey.results[survey.headline]


def law_items(survey: Survey) -> Lines:
    """Say which law was fitted, and what of it."""
    found = _headline(survey)
    fixed = found.spec.fixed
    fitted = [name for name in found.law.names() if name not in fixed]
    held = [f"{name} = {number(value)}" for name, value in fixed.items()]
    others = [name for name in survey.results if name != survey.headline]
    return [
        ("Form", found.law.FORMULA),
        ("Source of the form", found.law.SOURCE),
        ("Coefficients fitted", f"{len(fitted)}: {', '.join(fitted)}"),
        ("Coefficients held", ", ".join(held) or "none"),
        ("Other forms tried on these runs", ", ".join(others) or "none"),
    ]


def variable_items(survey: Survey) -> Lines:
    """Say what N, D, C and the loss count, and how far they reach."""
    columns = survey.columns
    items = []
    units = {"N": "parameters", "D": "tokens", "C": "FLOPs", "loss": "nats per token"}
    for role, unit in units.items():
        source = columns.sources[role]
        meaning = CONVENTIONS.get(source, f"as the column {source} counts it")
        low, high = _ends(columns[role], human if role in "ND" else number)
        items.append((f"{role} ({ROLES[role].meaning})", f"{source}: {meaning}; {low} to {high} {unit}"))
    factor = number(_headline(survey).flops_per_param_token, 3)
    low, high = _ends(columns["D"] / columns["N"], number)
    items.append(("Compute and tokens", f"C = {factor} N D on these runs"))
    items.append(("Tokens per parameter", f"{low} to {high}"))
    return items


def _ends(values: np.ndarray, write: Callable[..., str]) -> tuple[str, str]:
    """Write the least and the largest value."""
    low = float(values.min())
    high = float(values.max())
    return write(low, 3), write(high, 3)


def chosen_items(survey: Survey) -> Lines:
    """Say how many runs there are, how they were chosen, and which were left out."""
    columns = survey.columns
    sizes = _different(columns["N"])
    lengths = _different(columns["D"])
    one_each = "each row is taken as a run of its own"
    return [
        ("Number of runs", f"{counted(len(columns), 'row')}, {counted(sizes, 'size')}, {counted(lengths, 'length')}"),
        ("Runs or checkpoints", "several rows a run" if "run" in columns else one_each),
        ("How they were chosen", _design(survey)),
        ("Left out", _left_out(columns)),
    ]


def _different(values: np.ndarray) -> int:
    """Count values that differ by more than a thousandth in their logarithm."""
    places = np.round(np.log(values), 3)
    return len(np.unique(places))


def _design(survey: Survey) -> str:
    """Say whether the grid has FLOP budgets."""
    for name, result in survey.results.items():
        if name.startswith("isoflop"):
            budgets = result.details["budgets"]
            return f"{len(budgets)} FLOP budgets, sizes around each minimum"
    return f"{UNKNOWN}; no FLOP budgets are seen"


def _left_out(columns: Columns) -> str:
    """Count the rows that were dropped, with the three commonest reasons."""
    if not columns.dropped:
        return "no row"
    reasons = collections.Counter(row.reason for row in columns.dropped)
    common = [f"{count} because {reason}" for reason, count in reasons.most_common(3)]
    return f"{counted(len(columns.dropped), 'row')}: {'; '.join(common)}"


def _tuned(survey: Survey) -> str:
    """Say which learning rates and batches were tried."""
    tried = []
    for one in survey.rates:
        tried.append(f"{one.label}: rates {one.rate.min():.2g} to {one.rate.max():.2g} tried")
    if survey.cells:
        tried.append(f"learning rate and batch varied at {len(survey.cells)} sizes and lengths")
    return "; ".join(tried) or "no bracket of learning rates in the grid"


def recipe_items(survey: Survey, facts: Facts) -> Lines:
    """Say how the models were built and trained."""
    architecture = facts.several(
        family=("family", "architecture"),
        width=("width", "d_model"),
        depth=("depth", "layers", "n_layers"),
        vocabulary=("vocab", "vocab_size"),
        context=("seq_len", "context", "sequence_length"),
    )
    optimiser = facts.several(
        name=("optimizer",),
        weight_decay=("weight_decay",),
        beta1=("beta1",),
        beta2=("beta2",),
        clipping=("clip_norm",),
    )
    schedule = facts.several(
        name=("schedule_name", "schedule"),
        warm_up=("schedule_warmup_tokens", "warmup_steps", "warmup"),
        final=("schedule_final",),
    )
    start = facts.several(
        initialisation=("init",),
        scale=("init_std",),
        numbers=("dtype", "precision"),
    )
    batches = ("batch_tokens", "batch", "batch_size_tokens", "batch_size_sequences", "batch_size")
    return [
        ("Architecture", architecture),
        ("Seeds", facts.of("seed", "seeds")),
        ("Optimiser", optimiser),
        ("Learning rate", facts.of("lr", "learning_rate", "peak_lr")),
        ("Schedule", schedule),
        ("Batch", facts.of(*batches)),
        ("How they were tuned", _tuned(survey)),
        ("Initialisation and precision", start),
    ]


def data_items(survey: Survey, facts: Facts) -> Lines:
    """Say what the models were trained on and how their loss was measured."""
    training = facts.several(
        corpus=("data_corpus", "corpus", "dataset", "data"),
        weights=("data_weights",),
    )
    measured = facts.several(
        tokens=("eval_tokens", "evaluation_tokens"),
        held_out_share=("data_holdout",),
        standard_error=("loss_nats_sem",),
    )
    source = survey.columns.sources["loss"]
    return [
        ("Training data", training),
        ("Tokenizer", facts.of("data_tokenizer", "tokenizer")),
        ("Repeated data", facts.of("data_unique_tokens", "unique_tokens", "epochs")),
        ("How the loss is measured", measured),
        ("Loss column", f"{source}, taken as nats per token"),
    ]


def fit_items(survey: Survey) -> Lines:
    """Say how the law was fitted and where the fit ended."""
    found = _headline(survey)
    objective = found.spec.objective
    assert objective is not None, "a fit has settled its objective"
    certificate = found.certificate
    scatter = _share(certificate.rms_log_residual)
    if survey.headline != "chinchilla":
        return [
            ("Objective", "least squares of ln N* and ln D* on ln C over the minima of the budgets"),
            ("Optimiser and starts", "closed form for the exponents, no starts"),
            ("Quality", f"scatter of ln loss around the curves {scatter}"),
        ]
    delta = f" with delta {objective.huber_delta:g}" if objective.loss == "huber" else ""
    bounds = "no coefficient is at a bound"
    if certificate.at_bound:
        bounds = f"at a bound: {', '.join(certificate.at_bound)}"
    starts = (
        f"the best {found.spec.starts} points of an exhaustive grid of exponents, "
        f"{certificate.agreeing_starts or 0:.0%} end at one optimum"
    )
    return [
        ("Objective", f"{objective.loss}{delta} on {objective.residual} residuals, summed over rows"),
        ("Weights", "as the column says" if "weight" in survey.columns else "all rows alike"),
        ("Optimiser of the fit", "damped Newton steps in float64, linear coefficients solved for"),
        ("Starts", starts),
        ("Bounds", bounds),
        ("At the end", f"objective {found.objective:.8g}; {certificate.ending or 'no search'}"),
        ("Quality", f"root mean square of the log residuals {scatter}"),
    ]


def trust_items(survey: Survey) -> Lines:
    """Say where the intervals come from, and how the law did on runs that it had not seen."""
    found = _headline(survey)
    units = "sets of runs" if "run" in survey.columns else "sets of rows"
    made_of = f"resampled {units}" if survey.headline == "chinchilla" else "copies with noise"
    level = f"{found.spec.level:.0%}"
    how = f"{level} percentiles of {len(found.draws)} {made_of}, seed {found.spec.seed}"
    largest = number(survey.largest, 3)
    return [
        ("Uncertainty", how if found.intervals() else "no intervals"),
        ("No interval", _without_interval(judged_verdict(found))),
        ("Validation on unseen runs", test_text(survey) or f"none: {survey.no_test}"),
        ("Reach", f"predictions that the rows support are given up to 100 times {largest} FLOPs, the largest budget"),
    ]


def _without_interval(verdict: Verdict) -> str:
    """Name the numbers that have no interval."""
    if verdict.nothing:
        return f"all numbers: {verdict.nothing}"
    return ", ".join(verdict.withheld) or "nothing"


def availability_items(grid: Grid, facts: Facts) -> Lines:
    """Say what somebody needs who wants to repeat it."""
    checksum = grid.sha256[:12]
    return [
        ("Measurements", f"{counted(len(grid.frame), 'row')}, sha256 {checksum}; the rows used are listed below"),
        ("Where the runs come from", facts.of("source", "study", "paper", "data_source")),
        ("Code of the fit", "the command below repeats it; versions are listed with it"),
        ("Checkpoints", facts.of("checkpoint", "checkpoint_path", "hub", "url")),
    ]


def _plain(value: float) -> str:
    """Write a number without an exponent where that is short."""
    return f"{value:g}" if 1e-3 <= abs(value) < 1e6 else number(value, 3)


def _share(value: float | None) -> str:
    """Write a share in per cent."""
    return "unknown" if value is None else f"{value:.2%}"
