"""Doubt units that cannot be right. A law fits billions of tokens as well as tokens; its constants and optima are then wrong."""

import ast

import numpy as np

from analysis.grid import expression
from analysis.grid.cost import FLOPS_PER_PARAM_TOKEN, log_factor
from analysis.grid.table import Columns
from experiments.cli import InputError

FEWEST_PARAMETERS = 1e3  # of the largest run of any grid
FEWEST_TOKENS = 1e5  # of the same
LARGEST_LOSS = 12.6  # nats: a guess among 300,000 tokens; trained models lie below
SMALLEST_LOSS = 0.7  # nats per token, median; language models of bytes reach about this
FLOPS_OFF = 8.0  # from 6 N D: attention, embeddings and recomputation are within that
FEWEST_FLOPS = 1e10  # of the largest run: a thousand parameters and as many tokens cost 6e6
IN_BITS = ("bit", "bpb", "bpc", "bits")
NATS = "nats per token"
CONVERTED = "nats"
PERPLEXITIES = ("ppl", "perplexity")


def doubts(columns: Columns) -> list[str]:
    """Say what a reader should check about the units of N, D, C and loss, in words; usually nothing."""
    return [
        *_doubt_size(columns, "N", FEWEST_PARAMETERS, "parameters"),
        *_doubt_size(columns, "D", FEWEST_TOKENS, "tokens"),
        *_doubt_compute(columns),
        *_doubt_flops(columns),
        *_doubt_loss(columns),
    ]


def _source(columns: Columns, role: str) -> str:
    """The column or formula that gave a role."""
    return columns.sources.get(role, role)


def _reach(columns: Columns, role: str) -> str:
    value = columns[role]
    return f"{role} ({_source(columns, role)}) is {value.min():.3g} to {value.max():.3g}"


def _doubt_size(columns: Columns, role: str, least: float, what: str) -> list[str]:
    """Ask whether sizes or tokens are in millions or billions where the largest is small."""
    if role not in columns or columns[role].max() >= least:
        return []
    reach = _reach(columns, role)
    fixed = f"--columns={role}=1e9*{_source(columns, role)}"
    return [f"{reach}, too few for {what}: in millions or billions? {fixed} fits in {what}"]


def _doubt_compute(columns: Columns) -> list[str]:
    """Ask for the unit of compute where the largest is small, and N and D do not say what it should be."""
    if "C" not in columns or ("N" in columns and "D" in columns) or columns["C"].max() >= FEWEST_FLOPS:
        return []
    fixed = f"--columns=C=1e18*{_source(columns, 'C')}"
    return [f"{_reach(columns, 'C')}, too few for FLOPs: in exaFLOPs or PFLOP-days? {fixed} would fit in FLOPs"]


def _doubt_flops(columns: Columns) -> list[str]:
    """Ask whether FLOPs are in another unit where they are far from 6 N D."""
    if not all(role in columns for role in ("N", "D", "C")):
        return []
    logs = log_factor(columns["C"], columns["N"], columns["D"])
    factor = float(np.exp(logs.mean()))
    least = FLOPS_PER_PARAM_TOKEN / FLOPS_OFF
    most = FLOPS_PER_PARAM_TOKEN * FLOPS_OFF
    if least <= factor <= most:
        return []
    return [f"C is {factor:.3g} N D on average, not about 6 N D: other units (PFLOP-days?) or another run's C?"]


def _doubt_loss(columns: Columns) -> list[str]:
    """Ask whether losses are in nats per token."""
    if "loss" not in columns:
        return []
    loss = columns["loss"]
    unit = loss_unit(_source(columns, "loss"))
    if loss.max() > LARGEST_LOSS:
        reach = _reach(columns, "loss")
        return [f"{reach}, above the loss of a guess: perplexity, or a sum over tokens, and not nats?"]
    if unit == CONVERTED:
        return []
    if np.median(loss) < SMALLEST_LOSS:
        return [f"{_reach(columns, 'loss')}, low for nats per token: bits per byte, or of other units?"]
    if unit != NATS:
        return [f"loss is {unit}, which does not sound like nats per token (bits are 0.693 nats)"]
    return []


def loss_unit(source: str) -> str:
    """Return the unit of a loss by its column or formula: nats per token, nats where that was computed, or the column.

    The logarithm of a perplexity and a number of bits times a constant are nats: what the user computed is believed.
    """
    name = source.lower()
    is_in_bits = any(word in name for word in IN_BITS)
    is_perplexity = any(word in name for word in PERPLEXITIES)
    if not is_in_bits and not is_perplexity:
        return NATS
    kinds = _operations(source)
    is_converted = "log" in kinds or (is_in_bits and "times" in kinds)
    return CONVERTED if is_converted else source


def _operations(source: str) -> set[str]:
    """Return what a formula does: log where it calls it, times where it multiplies with or divides by a number."""
    try:
        tree = expression.parse(source, "loss")
    except InputError:  # the name of a column
        return set()
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)):
                found.add(name)
            case ast.BinOp(op=ast.Mult() | ast.Div(), left=left, right=right):
                if isinstance(left, ast.Constant) or isinstance(right, ast.Constant):
                    found.add("times")
    return found
