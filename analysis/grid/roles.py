"""Say what the columns of a loss grid can mean: the roles that several laws ask for, and the names that they usually have.

A role that one subject alone asks for stands with the law that asks for it first (`Law.OWN_ROLES`) and joins ROLES when
that law is loaded.
"""

from collections.abc import Mapping
import dataclasses


@dataclasses.dataclass(frozen=True)
class Role:
    """Describe a meaning. columns: the names that are tried for it, in this order; then the role's own name.

    positive: rows with other values are dropped. label: not a number; rows with equal labels belong together.
    many: one column for each of several parts, named by a pattern such as mix_*. shares: the parts add up to 1.
    """

    meaning: str
    columns: tuple[str, ...] = ()
    positive: bool = True
    label: bool = False
    many: bool = False
    shares: bool = False


ROLES: dict[str, Role] = {
    "N": Role(
        "parameters",
        ("N", "params_total", "params", "parameters", "n_params", "num_params", "params_non_embedding"),
    ),
    "D": Role("training tokens", ("D", "tokens", "n_tokens", "num_tokens", "train_tokens", "training_tokens")),
    "C": Role("training FLOPs", ("C", "flops_total", "flops", "compute", "training_flops", "flops_6nd")),
    "loss": Role(
        "loss in nats per token",
        ("loss", "loss_nats", "val_loss", "eval_loss", "final_loss", "L", "loss_smooth", "loss_unigram_normalised"),
    ),
    "group": Role("what makes rows one FLOP budget", ("budget_flops", "flops_budget", "budget"), label=True),
    "weight": Role("weight of the row in the objective"),
    "run": Role("what makes rows one run; runs are resampled, not rows", ("run", "run_id", "run_name"), label=True),
    "lr": Role("peak learning rate", ("lr", "learning_rate", "peak_lr")),
    "batch": Role("tokens of one optimizer step", ("batch", "batch_tokens", "batch_size_tokens")),
    "censored": Role(
        "1 where the loss is only an upper bound: the run was stopped early", ("censored",), positive=False
    ),
    "X": Role("the one quantity that the loss is a function of"),
    "S": Role("optimizer steps", ("S", "steps", "steps_done", "step")),
    "share": Role(
        "share of each part of the training data",
        ("share_*", "mix_*", "mixture_*"),
        positive=False,
        many=True,
        shares=True,
    ),
    "proportion": Role("share of one part of the training data, 0 to 1", ("proportion", "share", "task_weight")),
    "family": Role("which family a model belongs to", ("family", "model_family", "architecture"), label=True),
    "cost": Role("what a run that could be made costs, in any unit", ("cost", "price", "cost_usd")),
    "hours": Role("accelerator hours", ("accelerator_hours", "gpu_hours", "device_hours", "hours")),
    "width": Role("model width", ("width", "d_model", "hidden_size", "model_width")),
    "depth": Role("layers", ("depth", "layers", "n_layers", "num_layers", "model_depth")),
}


def usual_names(role: str) -> tuple[str, ...]:
    """Return the names that are tried for a role, its own name among them."""
    names = dict.fromkeys([*ROLES[role].columns, role])
    return tuple(names)


def declare(roles: Mapping[str, Role]) -> None:
    """Make roles of one's own known to every reader of a grid. Raises ValueError for a name with another meaning."""
    for name, role in roles.items():
        known = ROLES.setdefault(name, role)
        if known != role:
            raise ValueError(
                f"role {name!r} means {known.meaning!r} already; expected another name than for {role.meaning!r}"
            )
