"""How many bits of knowledge does a parameter hold? Sizes x people x exposures, on invented biographies.

    python -m sweeps.launch --study=sweeps/studies/knowledge.py --workdir=runs/knowledge

Every person has a date of birth, cities, a university, a major and an employer, drawn evenly (bioS, Allen-Zhu & Li 2024,
arXiv 2404.05405): `data_bits` is what there is to know of them, and what a model knows follows from its loss on each value,
asked for by `evaluation.tasks`. They find two bits a parameter after a thousand exposures, one after a hundred. Here models
are ten thousand times smaller and read less: the order of magnitude is what can be looked at. Where a model guesses worse
than chance it knows nothing, and its row is left out.

Fit: --law=knowledge_capacity --columns="bits=data_bits-people*(task_birth_date_loss+task_birth_city_loss+task_university_loss+task_major_loss+task_employer_loss)/log(2)" --where=exposures==60
Told: k

Cost: 18 runs, 4.68e+12 FLOPs.
"""

import math

from experiments.data.sources.synthetic.biographies import ATTRIBUTES, VALUES
from sweeps.study import common
from sweeps.study.grid import Grid, cases, chain, product, tag

ASKED = ATTRIBUTES[:5]  # the city of work follows from the employer
BITS = math.log2(math.prod(VALUES[1:]))  # of a person: the values that are asked for
PEOPLE = {"full": (50, 100, 200), "smoke": (20,)}
EXPOSURES = {"full": (20, 60), "smoke": (3,)}
WIDTHS = {"full": (16, 24, 32), "smoke": (16,)}
TOKENS_OF_DOCUMENT = 200  # characters of a biography, a little less than the mean


def text(people: int, exposures: int) -> Grid:
    """Make one point: every person is read about so often, and asked for at the end."""
    # Beside what is held out there are as many documents of each person as are read.
    corpus = f"synthetic:biographies,people={people},exposures={exposures + max(2, exposures // 10)}"
    tasks = tuple(f"{sort}={corpus}@{sort}:{people}" for sort in ASKED)
    tokens = people * exposures * TOKENS_OF_DOCUMENT
    point = cases({"data.corpus": (corpus,), "evaluation.tasks": tasks, "tokens": tokens, "data.holdout": 0.05})
    return tag(point, people=people, exposures=exposures, data_bits=round(people * BITS, 3))


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke, and a family."""
    chosen = common.arguments(argument, scale=("full", "smoke"), family="dense")
    scale = chosen.scale
    texts = chain(*(text(people, exposures) for people in PEOPLE[scale] for exposures in EXPOSURES[scale]))
    settings = cases({"seq_len": 256, "batch_tokens": 1_024, "evaluation.tokens": 16_384})
    grid = product(settings, common.small_models(chosen.family, WIDTHS[scale]), texts)
    return tag(common.with_warmup(common.with_small_lr(grid)), group="knowledge")
