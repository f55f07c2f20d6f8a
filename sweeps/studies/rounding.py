"""Does rounding a trained model cost more the longer it was trained? Sizes x tokens x bits, by children that take no step.

    python -m sweeps.launch --study=sweeps/studies/rounding.py --workdir=runs/rounding

Every trained model is evaluated again with the matrices of its linear layers rounded to whole numbers of 2 to 6 bits, a scale
for each column (`reevaluate`: children with tokens=0). `added_loss` is what that costs, `bits_after` the bits. Ouyang et al. 2024
(arXiv 2411.17691) find k D^0.53 / (N^0.23 P^5.5): what has seen many tokens a parameter has the more to lose. Kumar et al. 2024
(arXiv 2411.04330) have exp(-P/g) in the place of the power of the bits, and a number of tokens beyond which more of them do
harm (the law `rounded`). `joint` trains in few bits (`bits_weights`, `bits_activations`, `bits_cache`), and rounds the weights
to fewer: what was trained in few bits has less to lose (the law `precision_joint`, whose fifteen coefficients take minutes to fit).

Below 256,000 tokens and above 5 bits the differences are noise of the rounding, of either sign.

Fit: --law=rounding_penalty --columns=D=lineage_tokens,N=params_no_embed,bits_weights=bits_after --where="bits_after<=5 and lineage_tokens>=256000"
Told: k, beta, gamma
Fit: --law=post_training --columns=D=lineage_tokens,N=params_no_embed --where="bits_after<=5 and lineage_tokens>=256000"
Told: C_T, gamma_D, gamma_post
Fit: --law=rounded --columns=D=lineage_tokens
Told: E, A, B, beta, C_T, gamma_D, gamma_post

Fit of :joint: --law=precision_joint --columns=D=lineage_tokens
Told: beta, g_kv, gamma_D, gamma_N, C_w

Cost: 144 runs, 7.24e+12 FLOPs.
Cost of :joint: 162 runs, 4.59e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, cases, chain, over, product, reevaluate, tag

UNROUNDED = 32  # bits of what is not rounded
AFTER = {"full": (2, 3, 4, 5, 6), "smoke": (3,)}
WIDTHS = {"full": (16, 32, 48, 72), "smoke": (8,)}
STEPS = {"full": (125, 250, 500, 1_000, 2_000, 4_000), "smoke": (20,)}
# What is rounded in training, by the variable of the law.
OPTIONS = {"bits_weights": "quant_weight", "bits_activations": "quant_act", "bits_cache": "quant_kv"}
WHILE = {"full": (4, 6), "smoke": (4,)}
AFTER_FEW = {"full": (2, 3), "smoke": (3,)}
JOINT_WIDTHS = {"full": (16, 48), "smoke": (8,)}
JOINT_STEPS = {"full": (250, 500, 1_000), "smoke": (20,)}


def trained(scale: str, widths: tuple[int, ...], steps: tuple[int, ...], options: dict[str, str]) -> Grid:
    """Make runs of every size and number of tokens with these options of the model."""
    sizes = common.small_models("dense", widths)
    lengths = over("tokens", *(common.batch_tokens(scale) * count for count in steps))
    grid = product(common.settings(scale), sizes, lengths, cases(options))
    return common.with_warmup(common.with_small_lr(grid))


def with_rounded(trunks: Grid, bits: tuple[int, ...], **trained_in: int) -> Grid:
    """Return trained models, and each of them rounded to these bits. `trained_in`: the bits of their training, as tags."""
    groups = [tag(trunks, group="trained", bits_after=UNROUNDED, **trained_in)]
    for after in bits:
        rounded = reevaluate(trunks, cases({"model.quant_weight": f"int{after}"}))
        groups.append(tag(rounded, group="rounded", bits_after=after, **trained_in))
    return chain(*groups)


def alike(bits: int) -> dict[str, int]:
    """Return one number of bits for everything that is rounded in training."""
    return dict.fromkeys(OPTIONS, bits)


def joint(scale: str) -> Grid:
    """Make models that are trained in few bits, of one thing at a time or of all, and rounded to fewer."""
    unrounded = alike(UNROUNDED)
    ways = [unrounded]
    for bits in WHILE[scale]:
        ways += [unrounded | {name: bits} for name in OPTIONS]
        ways.append(alike(bits))
    groups = []
    for way in ways:
        options = {f"model.{OPTIONS[name]}": f"int{bits}" for name, bits in way.items() if bits != UNROUNDED}
        trunks = trained(scale, JOINT_WIDTHS[scale], JOINT_STEPS[scale], options)
        fewer = tuple(bits for bits in AFTER_FEW[scale] if bits < way["bits_weights"])
        groups.append(with_rounded(trunks, fewer, **way))
    return chain(*groups)


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon alone (rounding after training) or joint, and full or smoke."""
    chosen = common.arguments(argument, part=("alone", "joint"), scale=("full", "smoke"))
    scale = chosen.scale
    if chosen.part == "joint":
        return joint(scale)
    trunks = trained(scale, WIDTHS[scale], STEPS[scale], {})
    return with_rounded(trunks, AFTER[scale])
