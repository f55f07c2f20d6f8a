"""What a scaling-law report must state, filled in from the grid and the fit.

The items follow the checklist of Li et al. 2025, "(Mis)Fitting: a survey of scaling laws" (arXiv 2502.18969): the form, the
training setup, the collection of data, the fit. What neither the grid nor the fit knows is said to be unknown.
"""

from typing import Any, NamedTuple

import numpy as np

from analysis.grid.roles import ROLES
from analysis.reporting.words import test_text
from analysis.writing.numbers import human, number

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
    section: str
    item: str
    value: str


def checklist(survey: Any, grid: Any) -> list[Item]:
    """Every item, in the order of the source."""
    facts = Facts(survey, grid)
    parts = {
        "The law": law_items(survey),
        "Variables": variable_items(survey),
        "Training runs": run_items(survey, facts),
        "Data and loss": data_items(survey, facts),
        "The fit": fit_items(survey),
        "Trust": trust_items(survey),
        "Availability": availability_items(grid, facts),
    }
    return [Item(section, item, value) for section, items in parts.items() for item, value in items]


class Facts:
    """What the columns of the grid say about the rows that were used."""

    def __init__(self, survey: Any, grid: Any):
        self.frame = grid.frame.iloc[survey.columns.row]

    def of(self, *names: str) -> str:
        """The values of the first of these columns that has any: the one value, a few, or a range."""
        for name in names:
            if name not in self.frame.columns or name in ("", None):
                continue
            values = self.frame.loc[:, self.frame.columns == name].iloc[:, 0].dropna()
            text = spread(values)
            if text:
                return f"{text} ({name})"
        return UNKNOWN

    def several(self, **columns: tuple[str, ...]) -> str:
        """`label: values` for each label whose column is there."""
        found = {label.replace("_", " "): self.of(*names) for label, names in columns.items()}
        known = [f"{label} {text}" for label, text in found.items() if text != UNKNOWN]
        return "; ".join(known) or UNKNOWN


def spread(values: Any) -> str:
    """The values of a column in a few words; empty when it says nothing."""
    unique = values.drop_duplicates()
    if not len(unique):
        return ""
    if values.dtype.kind in "iuf":
        low, high = float(unique.min()), float(unique.max())
        return _plain(low) if low == high else f"{_plain(low)} to {_plain(high)}, {len(unique)} values"
    words = sorted({str(value).strip() for value in unique} - {""})
    more = f" and {len(words) - MOST_VALUES} more" if len(words) > MOST_VALUES else ""
    return ", ".join(words[:MOST_VALUES]) + more


def law_items(survey: Any) -> list[tuple[str, str]]:
    found = survey.results[survey.headline]
    known = len(found.law.names()) - len(found.spec.fixed)
    fixed = ", ".join(f"{name} = {number(value)}" for name, value in found.spec.fixed.items())
    return [
        ("Form", found.law.FORMULA),
        ("Source of the form", found.law.SOURCE),
        ("Coefficients fitted", f"{known}: {', '.join(n for n in found.law.names() if n not in found.spec.fixed)}"),
        ("Coefficients held", fixed or "none"),
        ("Other forms tried on these runs", ", ".join(name for name in survey.results if name != survey.headline) or "none"),
    ]  # fmt: skip


def variable_items(survey: Any) -> list[tuple[str, str]]:
    columns = survey.columns
    items = []
    for role, unit in (("N", "parameters"), ("D", "tokens"), ("C", "FLOPs"), ("loss", "nats per token")):
        source, values = columns.sources[role], columns[role]
        write = human if role in "ND" else number
        meaning = CONVENTIONS.get(source, f"as the column {source} counts it")
        reach = f"{write(float(values.min()), 3)} to {write(float(values.max()), 3)} {unit}"
        items.append((f"{role} ({ROLES[role].meaning})", f"{source}: {meaning}; {reach}"))
    factor = survey.results[survey.headline].flops_per_param_token
    items.append(("Compute and tokens", f"C = {number(factor, 3)} N D on these runs"))
    ratio = columns["D"] / columns["N"]
    items.append(("Tokens per parameter", f"{number(float(ratio.min()), 3)} to {number(float(ratio.max()), 3)}"))
    return items


def run_items(survey: Any, facts: Facts) -> list[tuple[str, str]]:
    columns = survey.columns
    sizes = len(np.unique(np.round(np.log(columns["N"]), 3)))
    lengths = len(np.unique(np.round(np.log(columns["D"]), 3)))
    reasons: dict[str, int] = {}
    for row in columns.dropped:
        reasons[row.reason] = reasons.get(row.reason, 0) + 1
    common = sorted(reasons, key=lambda reason: -reasons[reason])[:3]
    left_out = "; ".join(f"{reasons[reason]} because {reason}" for reason in common)
    budgets = next(
        (survey.results[name].details["budgets"] for name in survey.results if name.startswith("isoflop")), None
    )
    tuned = "; ".join(f"{one.label}: rates {one.rate.min():.2g} to {one.rate.max():.2g} tried" for one in survey.rates)
    if survey.cells:
        tuned = f"{tuned}; " * bool(tuned) + f"learning rate and batch varied at {len(survey.cells)} sizes and lengths"
    return [
        ("Number of runs", f"{len(columns)} rows, {sizes} sizes, {lengths} lengths"),
        ("Runs or checkpoints", "several rows a run" if "run" in columns else "each row is taken as a run of its own"),
        ("How they were chosen", f"{len(budgets)} FLOP budgets, sizes around each minimum" if budgets else f"{UNKNOWN}; no FLOP budgets are seen"),
        ("Left out", f"{len(columns.dropped)} rows: {left_out}" if reasons else "no row"),
        ("Architecture", facts.several(family=("family", "architecture"), width=("width", "d_model"), depth=("depth", "layers", "n_layers"), vocabulary=("vocab", "vocab_size"), context=("seq_len", "context", "sequence_length"))),
        ("Seeds", facts.of("seed", "seeds")),
        ("Optimiser", facts.several(name=("optimizer",), weight_decay=("weight_decay",), beta1=("beta1",), beta2=("beta2",), clipping=("clip_norm",))),
        ("Learning rate", facts.of("lr", "learning_rate", "peak_lr")),
        ("Schedule", facts.several(name=("schedule_name", "schedule"), warm_up=("schedule_warmup_tokens", "warmup_steps", "warmup"), final=("schedule_final",))),
        ("Batch", facts.of("batch_tokens", "batch", "batch_size_tokens", "batch_size_sequences", "batch_size")),
        ("How they were tuned", tuned or "no bracket of learning rates in the grid"),
        ("Initialisation and precision", facts.several(initialisation=("init",), scale=("init_std",), numbers=("dtype", "precision"))),
    ]  # fmt: skip


def data_items(survey: Any, facts: Facts) -> list[tuple[str, str]]:
    return [
        ("Training data", facts.several(corpus=("data_corpus", "corpus", "dataset", "data"), weights=("data_weights",))),
        ("Tokenizer", facts.of("data_tokenizer", "tokenizer")),
        ("Repeated data", facts.of("data_unique_tokens", "unique_tokens", "epochs")),
        ("How the loss is measured", facts.several(tokens=("eval_tokens", "evaluation_tokens"), held_out_share=("data_holdout",), standard_error=("loss_nats_sem",))),
        ("Loss column", f"{survey.columns.sources['loss']}, taken as nats per token"),
    ]  # fmt: skip


def fit_items(survey: Any) -> list[tuple[str, str]]:
    found = survey.results[survey.headline]
    objective, certificate = found.spec.objective, found.certificate
    if survey.headline != "chinchilla":
        return [
            ("Objective", "least squares of ln N* and ln D* on ln C over the minima of the budgets"),
            ("Optimiser and starts", "closed form for the exponents, no starts"),
            ("Quality", f"scatter of ln loss around the curves {_share(certificate.rms_log_residual)}"),
        ]
    delta = f" with delta {objective.huber_delta:g}" if objective.loss == "huber" else ""
    return [
        ("Objective", f"{objective.loss}{delta} on {objective.residual} residuals, summed over rows"),
        ("Weights", "as the column says" if "weight" in survey.columns else "all rows alike"),
        ("Optimiser of the fit", "damped Newton steps in float64, linear coefficients solved for"),
        ("Starts", f"the best {found.spec.starts} points of an exhaustive grid of exponents, {certificate.agreeing_starts:.0%} end at one optimum"),
        ("Bounds", f"at a bound: {', '.join(certificate.at_bound)}" if certificate.at_bound else "no coefficient is at a bound"),
        ("At the end", f"objective {found.objective:.8g}, scaled gradient {certificate.gradient:.1e}"),
        ("Quality", f"root mean square of the log residuals {_share(certificate.rms_log_residual)}"),
    ]  # fmt: skip


def trust_items(survey: Any) -> list[tuple[str, str]]:
    found = survey.results[survey.headline]
    units = "sets of runs" if "run" in survey.columns else "sets of rows"
    how = f"{found.spec.level:.0%} percentiles of {len(found.draws)} resampled {units}, seed {found.spec.seed}"
    if survey.headline != "chinchilla":
        how = f"{found.spec.level:.0%} percentiles of {len(found.draws)} copies with noise, seed {found.spec.seed}"
    return [
        ("Uncertainty", how if len(found.draws) else "no intervals"),
        ("Not identified", ", ".join(found.certificate.not_identified) or "nothing"),
        ("Validation on unseen runs", test_text(survey) or f"none: {survey.no_test}"),
        ("Reach", f"predictions are given up to 100 times {number(survey.largest, 3)} FLOPs, the largest budget"),
    ]


def availability_items(grid: Any, facts: Facts) -> list[tuple[str, str]]:
    return [
        ("Measurements", f"{len(grid.frame)} rows, sha256 {grid.sha256[:12]}; the rows used are listed below"),
        ("Where the runs come from", facts.of("source", "study", "paper", "data_source")),
        ("Code of the fit", "the command below repeats it; versions are listed with it"),
        ("Checkpoints", facts.of("checkpoint", "checkpoint_path", "hub", "url")),
    ]


def _plain(value: float) -> str:
    return f"{value:g}" if 1e-3 <= abs(value) < 1e6 else number(value, 3)


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2%}"
