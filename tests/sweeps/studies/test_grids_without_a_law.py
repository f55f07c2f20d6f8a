"""What the recorded grids of studies say that have no law: the sentence of the docstring, worked out from the grid."""

import math
import pathlib

import pandas as pd

RECORDED = pathlib.Path(__file__).parent / "recorded"


def grid_of(study: str) -> pd.DataFrame:
    return pd.read_csv(RECORDED / f"{study}.csv")


def test_depth_helps_deepnorm_at_each_doubling_and_sandwich_at_none():
    """Post-norm learns how often bytes occur and no more, at depth 8, at all rates above the rule's."""
    grid = grid_of("norms")
    cells = grid.groupby(["norm_placement", "depth"])["loss_nats"]
    best = cells.min().unstack()
    falls = best.diff(axis=1).iloc[:, 1:] < 0
    assert falls.loc["deepnorm"].all() and not falls.loc["sandwich"].any()
    deep = grid[(grid["norm_placement"] == "post") & (grid["depth"] == 8)].set_index("rate")["loss_nats"]
    assert (deep[deep.index > 1] > 3).all() and (deep[deep.index <= 1] < 2.5).all()


def test_recurrent_routers_gain_nothing_that_the_scatter_over_seeds_leaves():
    """Neither size's mean difference to the linear router lies below zero by two standard errors; the larger's is within 0.02 nats."""
    losses = grid_of("routers").pivot(index=["width", "seed"], columns="router", values="loss_nats")
    gain = (losses["linear"] - losses["recurrent"]).groupby("width")
    mean = gain.mean()
    error = gain.sem()
    assert (mean < 2 * error).all()
    assert abs(mean[32]) + 2 * error[32] < 0.02


def test_what_was_read_is_told_better_by_larger_models_and_what_follows_from_it_worse():
    """After a hundred exposures: accuracies by chance are a quarter, and the loss on what was never said rises with the size."""
    grid = grid_of("facts")
    most_read = grid[grid["exposures"] == grid["exposures"].max()].set_index("width").sort_index()
    smallest = most_read.iloc[0]
    largest = most_read.iloc[-1]
    for relation in ("mentor", "pupil"):
        assert smallest[f"task_{relation}_said_accuracy"] < 0.3 < 0.6 < largest[f"task_{relation}_said_accuracy"]
        assert largest[f"task_{relation}_said_loss"] < smallest[f"task_{relation}_said_loss"] - 1
    for relation in ("mentor", "pupil", "two_hops"):
        unsaid = f"task_{relation}_unsaid"
        chance = most_read[f"{unsaid}_accuracy"] - 2 * most_read[f"{unsaid}_accuracy_sem"]
        assert (chance < 0.25).all()
        assert largest[f"{unsaid}_loss"] > smallest[f"{unsaid}_loss"] + 0.25


def left_to_learn(grid: pd.DataFrame, parts: tuple[int, ...]) -> pd.Series:
    """The mean loss of these parts above their entropy, by family and tokens, of the largest models."""
    largest = grid[grid["width"] == grid["width"].max()].set_index(["family", "tokens"]).sort_index()
    above = [largest[f"loss_part_{part}"] - largest[f"entropy_part_{part}"] for part in parts]
    return sum(above[1:], above[0]) / len(parts)


def test_series_out_of_the_distribution_do_not_fall_as_those_in_it():
    """Over 32 times the tokens: to less than a fifth in the distribution, to no less than two thirds out of it."""
    grid = grid_of("series")
    inside = left_to_learn(grid, (1, 2, 3)).unstack()
    outside = left_to_learn(grid, (4, 5, 6)).unstack()
    assert (inside.iloc[:, -1] < inside.iloc[:, 0] / 5).all()
    assert (outside.iloc[:, -1] > outside.iloc[:, 0] * 2 / 3).all()


def test_it_does_not_matter_here_whether_layers_are_of_one_size():
    """Neither growing nor shrinking layers differ from uniform ones by two standard errors, or by 0.03 nats."""
    pairs = grid_of("layerwise").pivot(index=["width", "tokens", "seed"], columns="layers", values="loss_nats")
    for layers in ("growing", "shrinking"):
        difference = pairs[layers] - pairs["uniform"]
        assert len(difference) == 24 and abs(difference.mean()) < min(0.03, 2 * difference.sem())


def test_attention_copies_what_states_of_fixed_size_do_not():
    """Nats of each symbol that is to be copied: none for attention from 16 symbols on, those of a guess for the others."""
    grid = grid_of("copying")
    of_symbol = grid["task_copies_loss"] / grid["length"]
    attends = grid["kind"] == "dense"
    assert (of_symbol[attends & (grid["length"] >= 16)] < 0.01).all()
    assert (of_symbol[~attends] > 0.95 * math.log(16)).all()


def test_a_mixture_out_of_a_scaled_up_model_is_ahead_until_it_is_trained_long():
    """At equal FLOPs of the whole lineage, from the shortest to the longest."""
    grid = grid_of("aquila")
    by_cost = grid.sort_values("flops_lineage")
    scaled = by_cost[by_cost["group"] == "scaled out"]
    scratch = by_cost[by_cost["group"] == "scratch"]
    assert abs(scaled["flops_lineage"].to_numpy() / scratch["flops_lineage"].to_numpy() - 1).max() < 0.01
    ahead = scratch["loss_nats"].to_numpy() - scaled["loss_nats"].to_numpy()
    assert [round(float(nats), 2) for nats in ahead] == [0.21, 0.34, 0.14, 0.0]


def test_a_grown_tokenformer_is_ahead_of_one_from_scratch_that_costs_as_much():
    grid = grid_of("tokenformer").sort_values("flops_lineage")
    grown = grid[grid["group"] == "grown"].iloc[-1]
    scratch = grid[grid["group"] == "scratch"].iloc[-1]
    assert 1 < grown["flops_lineage"] / scratch["flops_lineage"] < 1.25
    assert round(scratch["loss_nats"] - grown["loss_nats"], 2) == 0.22


def test_no_size_has_learned_to_translate():
    """Of a cipher whose translations are certain once the words are known."""
    losses = grid_of("translation").set_index(["encoder_depth", "depth"])["loss_nats"]
    assert losses.min() > 1.29
    assert losses.max() < 1.62
    assert losses.idxmin() == (1, 1)
