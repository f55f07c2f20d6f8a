"""How do abilities follow from the loss? Sums, expressions and recall of several difficulties, by size and tokens.

    python -m sweeps.launch --study=sweeps/studies/tasks.py --workdir=runs/tasks
    python -m sweeps.collect --workdir=runs/tasks --evaluations --out=curves.csv

Five kinds of invented text are read in equal shares, and each is asked about: `task_NAME_loss` (nats of the answer),
`_accuracy` (over four choices) and `_pass_rate` (the exact probability of the answer, where Hu et al. 2024, arXiv 2310.03262,
count samples until one passes). Does the loss on answers follow a power law, and accuracy that loss (two steps, Gadre et al.
2024, arXiv 2403.08540; Bhagia et al. 2024, arXiv 2412.04403)?

Sums are learned by every size once it has read enough of them, at losses on answers that foretell the accuracy whatever the
size; recall comes late, and not to the larger models first.

Fit of curves: --law=accuracy --columns=task_loss=task_sums_loss,accuracy=task_sums_accuracy
Told: all
Also of curves: --law=error_from_loss --columns=error=1-task_sums_accuracy,loss=loss_nats
Also: --law=two_step,two_step_compute,two_step_log --columns=task_loss=task_sums_loss,accuracy=task_sums_accuracy
Also: --law=task_loss,answer_loss,task_loss_compute,task_loss_log --columns=task_loss=task_expressions_loss
Also: --law=difficulty,accuracy_log --columns=accuracy=task_expressions_accuracy
Also: --law=pass_until --columns=pass_rate=task_long_sums_pass_rate --where="tokens>900000 and tokens<1100000"
Also: --law=coverage --melt=samples,coverage=task_big_sums_coverage_* --where="width==64 and tokens>3000000"

Cost: 15 runs, 9.36e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, cases, over, product, tag

CORPORA = {
    "sums": ("synthetic:arithmetic,digits=1,documents=10000", "answers"),
    "long_sums": ("synthetic:arithmetic,digits=1,terms=3,documents=10000", "answers"),
    "big_sums": ("synthetic:arithmetic,digits=2,documents=10000", "answers"),
    "expressions": ("synthetic:expressions,documents=10000", "answers"),
    "recall": ("synthetic:recall,keys=16,values=16,pairs=4,queries=4,documents=100000", "values"),
}
QUESTIONS = 100
CHOICES = 4
SAMPLES = (1, 3, 10, 30, 100, 300, 1_000)
WIDTHS = {"full": (16, 24, 32, 48, 64), "smoke": (16,)}
TOKENS = {"full": (250_000, 1_000_000, 4_000_000), "smoke": (20_000,)}


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke, and a family."""
    chosen = common.arguments(argument, scale=("full", "smoke"), family="dense")
    scale = chosen.scale
    tasks = tuple(f"{name}={corpus}@{sort}:{QUESTIONS}:{CHOICES}" for name, (corpus, sort) in CORPORA.items())
    text = cases(
        {
            "data.corpus": tuple(corpus for corpus, _ in CORPORA.values()),
            "data.weights": tuple(1.0 for _ in CORPORA),
            "evaluation.tasks": tasks,
            "evaluation.tokens": 16_384,
            "evaluation.coverage": SAMPLES,
            "execution.eval_every_tokens": TOKENS[scale][0],
        }
    )
    settings = cases({"seq_len": 64, "batch_tokens": 512})
    grid = product(settings, text, common.small_models(chosen.family, WIDTHS[scale]), over("tokens", *TOKENS[scale]))
    return tag(common.with_warmup(common.with_small_lr(grid)), group="tasks")
