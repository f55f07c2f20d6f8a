"""Draw random numbers that depend on nothing but a seed and what they are for."""

import numpy as np

RULES = 0  # what a process is: its probabilities, its facts
TEXTS = 1  # what it says
TRIALS = 2  # documents from which an entropy is estimated; they are in no corpus


def generator(seed: int, purpose: int, number: int = 0) -> np.random.Generator:
    """Return the generator of a purpose; `number` tells the many of one purpose apart."""
    sequence = np.random.SeedSequence((seed, purpose, number))
    return np.random.Generator(np.random.PCG64(sequence))


def lengths(random: np.random.Generator, mean: float, count: int) -> np.ndarray:
    """Draw lengths of documents [count]: after each symbol the end is as likely, so a model cannot know it better."""
    return random.geometric(1 / mean, count)


def choose(random: np.random.Generator, cumulative: np.ndarray) -> np.ndarray:
    """Draw one choice by each row of cumulative probabilities [rows, choices]."""
    drawn = random.random(len(cumulative))
    chosen = (cumulative < drawn[:, None]).sum(1)
    return np.minimum(chosen, cumulative.shape[1] - 1)  # a row may end a little below 1
