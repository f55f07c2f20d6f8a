"""Certify laws whose coefficients are computed, not searched for: there is no end of a search to speak of."""

from collections.abc import Iterable, Mapping

import numpy as np

from analysis.laws.base import Array
from analysis.trust.certificate import Certificate


def certify(
    rms_log_residual: float, warnings: Iterable[str] = (), not_identified: Mapping[str, str] | None = None
) -> Certificate:
    """Return the certificate of such a law: its scatter, what a reader should know, and what the rows leave open."""
    return Certificate(
        converged=None,
        agreeing_starts=None,
        gradient=None,
        not_identified=not_identified or {},
        rms_log_residual=rms_log_residual,
        warnings=tuple(warnings),
    )


def root_mean_square(residual: Array) -> float:
    """Return the root of the mean square of residuals."""
    return float(np.sqrt(np.mean(residual**2)))
