"""How large should the vocabulary of a model of a given size be? Tokenizers x sizes at equal compute.

    python -m sweeps.launch --study=sweeps/studies/vocabulary.py --workdir=runs/vocabulary

Each byte-pair tokenizer is trained on the corpus itself, once, when the study is launched (experiments/data/tokenizer.py).
Losses per token of different tokenizers do not compare: look at `bits_per_byte`, or at loss minus unigram entropy (Tao et
al. 2024, arXiv 2407.13623, law `vocabulary`). Tables count: a budget buys fewer tokens with a larger one. Sizes include
the one that Tao's rule gives (rule_tokenizer = tao_tokenizer).

Fit: --law=vocabulary_frontier --columns=loss=loss_unigram_normalised
Told: all
Fit: --law=vocabulary --columns=loss=loss_unigram_normalised
Told: E, A2, B
Also: --law=vocabulary_power

Cost: 54 runs, 4.68e+12 FLOPs.
"""

from sweeps.study import common, rules
from sweeps.study.grid import Grid, chain, derive, over, product, tag, tags_over

SIZES = {"full": ("bytes", "bpe:512", "bpe:1024", "bpe:2048", "bpe:4096"), "smoke": ("bytes", "bpe:400")}
WIDTHS = {"full": (16, 32, 48), "smoke": (16,)}
BUDGETS = {"full": (2e10, 6e10, 1.8e11), "smoke": (1e9,)}


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke, and a family."""
    chosen = common.arguments(argument, scale=("full", "smoke"), family="dense")
    sizes = common.small_models(chosen.family, WIDTHS[chosen.scale])
    budgets = tags_over("budget_flops", *BUDGETS[chosen.scale])
    models = product(common.settings(chosen.scale), budgets, sizes)
    every_size = product(models, over("data.tokenizer", *SIZES[chosen.scale]))
    best_size = derive(models, "data.tokenizer", rules.tao_tokenizer)
    grid = derive(chain(every_size, best_size), "tokens", rules.tokens_of_budget)
    return tag(common.with_warmup(common.with_small_lr(grid)), group="vocabulary")
