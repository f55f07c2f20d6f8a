"""Say what the columns of a loss grid can mean: the roles that several laws ask for, and the names that they usually have.

A role that one subject alone asks for stands with the law that asks for it first (`Law.OWN_ROLES`) and joins ROLES when
that law is loaded.
"""

from collections.abc import Mapping
import dataclasses


@dataclasses.dataclass(frozen=True)
class Role:
    """Describe a meaning. columns: the names that are tried for it, in this order.

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
    "run": Role("what makes rows one run; runs are resampled, not rows", label=True),
    "N_nv": Role("parameters beside the vocabulary's", ("N_nv", "params_non_vocab")),
    "N_v": Role("parameters of the vocabulary, its size times the width", ("N_v", "params_vocab")),
    "V": Role("vocabulary size", ("V", "vocab_size", "vocab")),
    "H": Role("training characters", ("H", "characters")),
    "lr": Role("peak learning rate", ("lr", "learning_rate", "peak_lr")),
    "batch": Role("tokens of one optimizer step", ("batch", "batch_tokens", "batch_size_tokens")),
    "censored": Role(
        "1 where the loss is only an upper bound: the run was stopped early", ("censored",), positive=False
    ),
    "X": Role("the one quantity that the loss is a function of"),
    "S": Role("optimizer steps", ("S", "steps", "steps_done", "step")),
    "U": Role("unique training tokens", ("U", "unique_tokens", "tokens_unique")),
    "share": Role(
        "share of each part of the training data",
        ("share_*", "mix_*", "mixture_*"),
        positive=False,
        many=True,
        shares=True,
    ),
    "proportion": Role("share of one part of the training data, 0 to 1", ("proportion", "share", "task_weight")),
    "validation": Role("1 in rows that only decide when boosting stops", ("validation",), positive=False),
    "task_loss": Role("loss on a task's answers, nats or bits", ("task_loss", "answer_loss", "nll")),
    "accuracy": Role("accuracy on a task, 0 to 1", ("accuracy", "acc", "task_accuracy"), positive=False),
    "pass_rate": Role("share of samples that solve a task, 0 to 1", ("pass_rate",)),
    "family": Role("which family a model belongs to", ("family", "model_family", "architecture"), label=True),
    "hours": Role("accelerator hours", ("accelerator_hours", "gpu_hours", "device_hours", "hours")),
    "error": Role("error of a task, 0 to 1", ("error", "err", "error_rate"), positive=False),
    "experts": Role("experts of a routed layer", ("experts", "num_experts", "n_experts")),
    "granularity": Role("feed-forward width over expert width", ("granularity",)),
    "sparsity": Role("share of experts that a token does not use", ("sparsity",), positive=False),
    "active_share": Role("share of experts that a token uses", ("active_share", "activation_ratio")),
    "leverage": Role("compute of a dense model over that of the mixture at equal loss", ("leverage",)),
    "bits_weights": Role("bits of a weight", ("bits_weights", "weight_bits")),
    "bits_activations": Role("bits of an activation", ("bits_activations", "activation_bits")),
    "bits_cache": Role("bits of an entry of the key-value cache", ("bits_cache", "kv_bits")),
    "exponent_bits": Role("exponent bits of a float", ("exponent_bits",), positive=False),
    "mantissa_bits": Role("mantissa bits of a float", ("mantissa_bits",), positive=False),
    "block": Role("numbers that share one scale", ("block", "block_size")),
    "added_loss": Role("loss after rounding minus loss before, nats per token", ("added_loss", "delta_loss")),
    "critical_batch": Role("critical batch size, tokens", ("critical_batch", "B_crit", "b_crit")),
    "S1": Role("area under the learning-rate curve, rate x steps", ("S1", "lr_area")),
    "S2": Role("annealing area of the learning-rate curve", ("S2", "annealing_area"), positive=False),
    "growth_tokens": Role("tokens of the small model before it is grown", ("growth_tokens", "tokens_before_growth")),
    "growth_factor": Role("parameters after growth over those before", ("growth_factor",)),
    "speedup": Role("FLOPs from scratch over FLOPs of the grown run, minus 1", ("speedup",), positive=False),
    "width": Role("model width", ("width", "d_model", "hidden_size", "model_width")),
    "depth": Role("layers", ("depth", "layers", "n_layers", "num_layers", "model_depth")),
    "N_e": Role("parameters of the encoder", ("N_e", "params_encoder", "encoder_params")),
    "N_d": Role("parameters of the decoder", ("N_d", "params_decoder", "decoder_params")),
    "bits": Role("bits of knowledge that the model holds", ("bits", "knowledge_bits")),
    "data_bits": Role("bits of knowledge in the data", ("data_bits", "bits_data")),
    "days": Role("days since a date", ("days", "day"), positive=False),
    "density": Role("effective over actual parameters", ("density", "capacity_density")),
}


def declare(roles: Mapping[str, Role]) -> None:
    """Make roles of one's own known to every reader of a grid. Raises ValueError for a name with another meaning."""
    for name, role in roles.items():
        known = ROLES.setdefault(name, role)
        if known != role:
            raise ValueError(
                f"role {name!r} means {known.meaning!r} already; expected another name than for {role.meaning!r}"
            )
