"""Published grids refitted by one command: the published numbers, ours, and what is wrong with some of them.

A study file (chinchilla, vocabulary, regmix, data_constrained, clark, steplaw) states its targets, which are facts from papers
and repositories, and a `refit` that computes every number of ours from the grid. sources.py knows where the grids are from.
"""

STUDIES = {  # name -> its module; imported when it is asked for, so that --help is instant
    "chinchilla": "chinchilla",
    "vocabulary": "vocabulary",
    "regmix": "regmix",
    "data_constrained": "data_constrained",
    "clark": "clark",
    "steplaw": "steplaw",
}
