"""Do larger models tell facts backwards, or over two hops, that they have only read forwards? Sizes x exposures of facts.

    python -m sweeps.launch --study=sweeps/studies/facts.py --workdir=runs/facts

Everybody has a mentor, whose pupil they are, and a home (`synthetic:facts`). Of half the pairs only one side is said, and of
half the people the home of their mentor. `task_mentor_said` and `task_pupil_said` ask for what was read, `task_pupil_unsaid`
for what was said as "the mentor of A is B" only, `task_two_hops_unsaid` for what follows from two statements. One of four
choices is right: by chance 0.25. Large models of no size tell what they have read from the other side only (the reversal
curse, Berglund et al. 2023, arXiv 2309.12288), nor do two hops gain as one does (Press et al. 2022, arXiv 2210.03350).

After a hundred exposures the accuracy on what was read rises from 0.25 to 0.65 over these sizes, on two hops that were read
to 0.37. On what was never said it stays at a quarter, while the loss on it rises with the size, by up to a nat: no law
of loss rises, so that what was read is fitted only.

Fit: --law=task_loss --columns=task_loss=task_mentor_said_loss
Told: B, beta

Cost: 15 runs, 3.37e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, cases, chain, product, tag

SORTS = tuple(f"{relation}_{told}" for relation in ("mentor", "pupil", "two_hops") for told in ("said", "unsaid"))
STATEMENTS = 3  # of a person: a pair and half of the other side, the home, and half of the mentor's
PEOPLE = {"full": 150, "smoke": 20}
PLACES = 20
CHOICES = 4  # of a question
EXPOSURES = {"full": (10, 30, 100), "smoke": (3,)}
WIDTHS = {"full": (16, 24, 32, 48, 64), "smoke": (16,)}
TOKENS_OF_DOCUMENT = 30  # characters of a statement, the mean


def text(people: int, exposures: int) -> Grid:
    """Make one point: every statement is read about so often, and asked for at the end."""
    # Beside what is held out there are as many documents of each statement as are read.
    corpus = f"synthetic:facts,people={people},places={PLACES},exposures={exposures + max(2, exposures // 5)}"
    tasks = tuple(f"{sort}={corpus}@{sort}:{people}:{CHOICES}" for sort in SORTS)
    tokens = people * STATEMENTS * exposures * TOKENS_OF_DOCUMENT
    point = cases({"data.corpus": (corpus,), "evaluation.tasks": tasks, "tokens": tokens, "data.holdout": 0.05})
    return tag(point, people=people, exposures=exposures)


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke."""
    scale = common.arguments(argument, scale=("full", "smoke")).scale
    texts = chain(*(text(PEOPLE[scale], exposures) for exposures in EXPOSURES[scale]))
    settings = cases({"seq_len": 64, "batch_tokens": 512, "evaluation.tokens": 16_384})
    grid = product(settings, common.small_models("dense", WIDTHS[scale]), texts)
    return tag(common.with_warmup(common.with_small_lr(grid)), group="facts")
