"""The areas of a learning-rate schedule that the annealing law takes for its inputs (Tissue et al. 2024, arXiv 2408.11029).

analysis/laws/schedules.py has the law; the laboratory and the launcher do not import each other, and a test compares the two.
"""

import numpy as np

DECAY = 0.999  # of one step's memory of an earlier fall of the rate, as the law's own areas have it


def areas(rate: np.ndarray, decay: float = DECAY) -> tuple[np.ndarray, np.ndarray]:
    """Return (S1, S2) after each step, from the learning rate of each step: arrays [steps].

    S1(s) = sum_{i<=s} rate_i; S2(s) = sum_{i<=s} m_i with m_i = decay m_{i-1} + rate_{i-1} - rate_i. The rise of a
    warm-up at the start is not annealing and counts zero; a later rise counts as negative annealing.
    """
    from scipy.signal import lfilter

    if not len(rate):
        return np.empty(0), np.empty(0)
    rate = np.asarray(rate, dtype=np.float64)
    fall = -np.diff(rate, prepend=rate[0])
    falls = np.flatnonzero(fall > 0)
    warmup = falls[0] if len(falls) else len(rate)
    fall[:warmup] = 0.0
    memory = lfilter([1.0], [1.0, -decay], fall)
    return np.cumsum(rate), np.cumsum(memory)
