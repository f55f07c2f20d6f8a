"""From the files that were published to the tidy tables that are fitted: one function a table, bytes to bytes.

Each takes the original files by path. A table that is inside a notebook, or whose original order is not known, has none.
"""

from collections.abc import Mapping
import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

Files = Mapping[str, bytes]
SEQUENCE = 2048  # tokens, of Step Law's runs


def _read(files: Files, path: str, needed: tuple[str, ...] = ()) -> "pd.DataFrame":
    """A CSV among the files; ValueError when it does not have the columns that it had."""
    import pandas as pd

    frame = pd.read_csv(io.BytesIO(files[path]))
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; the format of the original has changed")
    return frame


def _bytes(frame: "pd.DataFrame") -> bytes:
    return frame.to_csv(index=False, lineterminator="\n").encode()


def chinchilla(files: Files) -> bytes:
    """Points read off a figure: sizes, FLOPs, losses; tokens are FLOPs/(6 N), as the notebook has them."""
    import pandas as pd

    ((path, _),) = files.items()
    names = ("Model Size", "Training FLOP", "loss")
    frame = _read(files, path, names).dropna(subset=list(names))
    N = frame["Model Size"]
    C = frame["Training FLOP"]
    loss = pd.Series(frame["loss"])
    highest = loss.nlargest(5)
    return _bytes(
        pd.DataFrame(
            {
                "family": "chinchilla",
                "params_total": N,
                "tokens": C / (6.0 * N),
                "flops": C,
                "loss": loss,
                "in_published_fit": (loss < highest.min()).astype(int),
            }
        )
    )


def vocabulary(files: Files) -> bytes:
    """Characters become tokens by f(V) of the paper."""
    import pandas as pd

    from analysis.laws.vocabulary import tokens_per_character

    ((path, _),) = files.items()
    names = ("vocab_size", "embed_dim", "num_characters", "Non_vocab_parameters", "FLOPs", "Lossu")
    frame = _read(files, path, names)
    V = frame["vocab_size"].astype(int)
    width = frame["embed_dim"].astype(int)
    return _bytes(
        pd.DataFrame(
            {
                "family": "vocab_slimpajama",
                "params_non_vocab": frame["Non_vocab_parameters"].astype(int),
                "params_vocab": V * width,
                "vocab_size": V,
                "width": width,
                "characters": frame["num_characters"],
                "tokens": frame["num_characters"] * tokens_per_character(V.to_numpy(np.float64)),
                "flops": frame["FLOPs"],
                "loss_unigram_normalised": frame["Lossu"],
            }
        )
    )


def step_law(files: Files) -> bytes:
    """Batch sizes also in tokens; architecture columns by their full names."""
    import pandas as pd

    ((path, _),) = files.items()
    names = ("N", "D", "lr", "bs", "ti", "h", "numl", "numh", "ffnh", "smooth loss", "loss")
    frame = _read(files, path, names)
    return _bytes(
        pd.DataFrame(
            {
                "family": "steplaw_dense",
                "params_non_embedding": frame["N"].astype(int),
                "tokens": frame["D"].astype(int),
                "learning_rate": frame["lr"],
                "batch_size_sequences": frame["bs"].astype(int),
                "batch_size_tokens": frame["bs"].astype(int) * SEQUENCE,
                "steps": frame["ti"].astype(int),
                "width": frame["h"].astype(int),
                "depth": frame["numl"].astype(int),
                "heads": frame["numh"].astype(int),
                "ffn_width": frame["ffnh"].astype(int),
                "loss_smooth": frame["smooth loss"],
                "loss_last": frame["loss"],
            }
        )
    )


def step_law_bootstrap(files: Files) -> bytes:
    """The five fitted coefficients of every bootstrap row."""
    ((path, _),) = files.items()
    names = ("lr_intercept", "lr_coefN", "lr_coefD", "bs_intercept", "bs_coefD")
    return _bytes(_read(files, path, names).loc[:, list(names)])


def mixtures(files: Files) -> bytes:
    """Pairs of files (mixtures, losses) side by side by their index, one pair after the other, with short names."""
    import pandas as pd

    paths = list(files)
    parts = []
    for mix, loss in zip(paths[::2], paths[1::2], strict=True):
        share = _read(files, mix, ("index",)).rename(columns=lambda name: name.replace("train_the_pile_", "mix_"))
        value = _read(files, loss, ("index",)).rename(
            columns=lambda name: name.replace("metric/the_pile_", "loss_").removesuffix("_val_loss")
        )
        size = loss.rsplit("_", 1)[1].removesuffix(".csv").lower()
        part = share.merge(value, on="index", validate="one_to_one")
        part.insert(0, "family", f"regmix_{size}_{'train' if 'train' in mix else 'test'}")
        parts.append(part)
    return _bytes(pd.concat(parts, ignore_index=True))


def routed(files: Files) -> bytes:
    """The last evaluation of every run."""
    import gzip

    import pandas as pd

    ((path, data),) = files.items()
    frame = _read({path: gzip.decompress(data)}, path, ("hyper_id", "step", "router_type", "num_experts"))
    last = frame.loc[frame.groupby("hyper_id", sort=False)["step"].idxmax()]
    renamed = {
        "router_type": "router_type",
        "dense_parameter_count": "params_active",
        "total_parameter_count": "params_total",
        "num_experts": "experts",
        "k": "top_k",
        "routing_frequency": "routing_frequency",
        "flop_increase": "flop_increase",
        "d_model": "width",
        "num_blocks": "depth",
        "num_heads": "heads",
        "kqv_size": "kv_size",
        "seed": "seed",
        "step": "steps",
        "flops_per_step": "flops_per_step",
        "model_size_label": "model_size_label",
        "loss_validation": "loss",
    }
    renamed |= {name: name for name in last.columns if name.startswith("loss_") and name != "loss_validation"}
    tidy = last[list(renamed)].rename(columns=renamed)
    tidy.insert(0, "family", "routed_" + tidy["router_type"].str.lower())
    example = (tidy["routing_frequency"] == 0.5) & (tidy["top_k"] == 1) & (tidy["seed"] == 42)
    return _bytes(pd.DataFrame(tidy.assign(in_example_fit=example.astype(int))))
