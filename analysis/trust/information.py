"""Compare laws of different size by Akaike's criterion, corrected for few rows (Hurvich & Tsai 1989)."""

import math


def aicc_penalty(rows: int, parameters: int) -> float:
    """Return what a law pays for its parameters: 2 k + 2 k (k + 1) / (n - k - 1); infinite where the rows are too few.

    The noise counts as one of the parameters.
    """
    spare = rows - parameters - 1
    if spare <= 0:
        return math.inf
    return 2 * parameters + 2 * parameters * (parameters + 1) / spare


def aicc_of_squares(rows: int, mean_square: float, parameters: int) -> float:
    """Return the criterion of a least-squares fit from its mean squared residual, up to what all fits to the rows share."""
    penalty = aicc_penalty(rows, parameters)
    if math.isinf(penalty):
        return penalty
    return rows * math.log(mean_square) + penalty
