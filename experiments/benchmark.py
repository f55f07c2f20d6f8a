"""Speed and memory, side by side in one run: a table on the terminal and JSON.

    python -m experiments.benchmark                     the quick part: steps, start, 16 small runs (about 6 minutes)
    python -m experiments.benchmark --parts=population --runs=1,4,16,64 --sizes=small,large

step        our train step against hand-written jax.jit steps of the same shapes, taken in turn
start       from process start to the first step, with an empty and with a warm compilation cache
population  runs of 100 steps as one population, in sequence in one process, and in cold processes of their own; records,
            checkpoints and evaluation on 16,384 tokens included
analysis    Chinchilla's approach 3 from 4500 starts and with 4000 bootstrap refits, ours against scipy (about a minute)
families    what each family promises: step times and memory beside the dense family, compiled FLOPs, compile times
Times are of this machine at this moment: compare within one table, quote ratios and medians.
"""

from collections.abc import Callable, Sequence
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags
from etils import epath
import numpy as np
from rich.console import Console
from rich.table import Table

from analysis.benchmark import bench_analysis
from experiments import cli, files
from experiments.benchmarks.families import bench_families, stepper, take_turns
from experiments.cli import InputError

SHAPES = {
    "128 wide, 4 deep, 16x256": {"width": 128, "depth": 4, "heads": 4, "batch": 16, "seq_len": 256},
    "512 wide, 8 deep, 8x512": {"width": 512, "depth": 8, "heads": 8, "batch": 8, "seq_len": 512},
}
SIZES = {
    "small": {"width": 48, "depth": 3, "heads": 3, "batch": 8, "seq_len": 128},
    "large": {"width": 128, "depth": 4, "heads": 4, "batch": 8, "seq_len": 128},
}
STEPS = 100
PARTS = ("step", "start", "population", "families", "analysis")


def config_of(shape: dict[str, int], **options: Any) -> dict[str, Any]:
    """A config as a plain mapping, for schema.freeze."""
    batch, seq_len = shape["batch"], shape["seq_len"]
    model = {name: shape[name] for name in ("width", "depth", "heads")}
    value = {"family": "dense", "model": model, "seq_len": seq_len, "batch_tokens": batch * seq_len}
    value |= {
        "tokens": STEPS * batch * seq_len,
        "opt": {"lr": 4e-3},
        "schedule": {"warmup_tokens": 10 * batch * seq_len},
        "evaluation": {"tokens": 16_384},
    }
    return value | options


# --- the train step


def hand_written(shape: dict[str, int], ff: int, vocab: int) -> tuple[Callable[..., Any], Any]:
    """A lean decoder step as one would write it by hand: 3-D einsums, scanned layers, whole-matrix attention, AdamW."""
    import jax
    import jax.numpy as jnp
    import optax

    D, Y, H, L = shape["width"], shape["depth"], shape["heads"], shape["seq_len"]
    K = D // H
    draw = np.random.default_rng(0)

    def normal(*size: int) -> Any:
        return jnp.asarray(draw.normal(0, 0.02, size), jnp.float32)

    layers = {"q": normal(Y, D, H, K), "k": normal(Y, D, H, K), "v": normal(Y, D, H, K), "o": normal(Y, H, K, D)}
    layers |= {"gate": normal(Y, D, ff), "up": normal(Y, D, ff), "down": normal(Y, ff, D)}
    layers |= {"n1": jnp.ones((Y, D)), "n2": jnp.ones((Y, D))}
    params = {"embed": normal(vocab, D), "head": normal(D, vocab), "norm": jnp.ones(D), "layers": layers}
    angle = np.outer(np.arange(L), 1e4 ** (-np.arange(0, K, 2) / K)).astype(np.float32)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    mask = jnp.tril(jnp.ones((L, L), bool))

    def norm(x: Any, scale: Any) -> Any:
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * scale

    def turn(x: Any) -> Any:
        a, b = jnp.split(x, 2, -1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def layer(x: Any, p: Any) -> Any:
        y = norm(x, p["n1"])
        q, k, v = (jnp.einsum("bld,dhk->blhk", y, p[name]) for name in "qkv")
        scores = jnp.einsum("blhk,bmhk->bhlm", turn(q), turn(k)) * K**-0.5
        weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf))
        x = x + jnp.einsum("bhlm,bmhk,hkd->bld", weights, v, p["o"])
        y = norm(x, p["n2"])
        h = jax.nn.silu(jnp.einsum("bld,df->blf", y, p["gate"])) * jnp.einsum("bld,df->blf", y, p["up"])
        return x + jnp.einsum("blf,fd->bld", h, p["down"]), None

    def loss(params: Any, tokens: Any) -> Any:
        x, _ = jax.lax.scan(layer, params["embed"][tokens[:, :-1]], params["layers"])
        logits = jnp.einsum("bld,dv->blv", norm(x, params["norm"]), params["head"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, b2=0.95, weight_decay=0.1))

    def step(state: Any, tokens: Any) -> Any:
        params, opt = state
        value, grads = jax.value_and_grad(loss)(params, tokens)
        updates, opt = tx.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), value

    return jax.jit(step, donate_argnums=0), (params, tx.init(params))


def bench_steps(rounds: int) -> list[dict[str, Any]]:
    """Steady step times, the contestants taken in turn."""
    import jax

    from experiments.run.freeze import freeze
    from experiments.store import record

    rows = []
    for name, shape in SHAPES.items():
        run, execution = freeze(config_of(shape))
        tokens = np.random.default_rng(0).integers(0, 256, (shape["batch"], shape["seq_len"] + 1)).astype(np.uint16)
        contestants: dict[str, Callable[[], None]] = {}
        plain, state = hand_written(shape, run.model.ff, run.model.vocab)
        held = {"plain": state}

        def run_plain(plain: Any = plain, held: Any = held, tokens: Any = tokens) -> None:
            held["plain"], value = plain(held["plain"], tokens)
            jax.block_until_ready(value)

        contestants["hand-written"] = run_plain
        for label, devices in (("ours, 1 device", 1), (f"ours, {len(jax.devices())} devices", None)):
            contestants[label] = stepper(run, execution, jax.devices()[:devices])
        times = take_turns(contestants, rounds)
        base = np.array(times["hand-written"])
        flops = record.ledger(run)["flops_per_token"] * run.batch_tokens
        for label, seconds in times.items():
            median = float(np.median(seconds))
            row = {
                "shape": name,
                "step": label,
                "median_seconds": median,
                "tokens_per_second": run.batch_tokens / median,
            }
            row |= {"flops_per_second": flops / median, "speedup": float(np.median(base / np.array(seconds)))}
            rows.append(row)
    return rows


# --- whole processes


def child(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job in a fresh process; returns its wall seconds, peak memory and the events with their times since start."""
    start = time.time()
    command = [sys.executable, "-m", "experiments.benchmark", f"--job={json.dumps(job)}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a benchmark process failed: {done.stderr.strip().splitlines()[-1:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    result["seconds"] = time.time() - start
    result["events"] = [(event, at - start) for event, at in result["events"]]
    return result


def do_job(job: dict[str, Any]) -> dict[str, Any]:
    """In the child: train the runs, in one population or one after the other."""
    from experiments import train
    from experiments.run.freeze import freeze

    events: list[tuple[str, float]] = []
    frozen = [freeze(config) for config in job["configs"]]
    folders = [epath.Path(folder) for folder in job["folders"]]

    def report(event: dict[str, Any]) -> None:
        events.append((event["event"], time.time()))

    groups = [[i] for i in range(len(frozen))] if job["sequence"] else [list(range(len(frozen)))]
    for group in groups:
        train.train([frozen[i][0] for i in group], [folders[i] for i in group], frozen[0][1], report)
    return {"events": events, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def _job(shape: dict[str, int], count: int, folder: str, root: str, cache: str | None, sequence: bool = False) -> dict:
    execution = {"data_root": root, "compile_cache": cache, "steps_per_dispatch": None}
    configs = [config_of(shape, seed=seed, execution=execution) for seed in range(count)]
    return {"configs": configs, "folders": [f"{folder}/{seed}" for seed in range(count)], "sequence": sequence}


def bench_start(scratch: str, root: str, rounds: int) -> list[dict[str, Any]]:
    """Seconds from process start to the end of the first dispatch (a few steps) of a small run."""
    rows = []
    cache = f"{scratch}/cache"
    for label, use, times in (("cold", None, rounds), ("warm", cache, rounds + 1)):
        seconds = []
        for i in range(times):
            job = _job(SIZES["small"], 1, f"{scratch}/start-{label}-{i}", root, use)
            result = child(job)
            seconds.append(next(at for event, at in result["events"] if event == "progress"))
        seconds = seconds[times - rounds :]
        rows.append({"cache": label, "median_seconds": float(np.median(seconds)), "all": seconds})
    return rows


def bench_population(scratch: str, root: str, sizes: Sequence[str], runs: Sequence[int]) -> list[dict[str, Any]]:
    """Runs per hour in the three ways of training them."""
    from experiments.run.freeze import freeze
    from experiments.store import record

    rows = []
    for size in sizes:
        params = record.ledger(freeze(config_of(SIZES[size]))[0])["params_total"]
        single = child(_job(SIZES[size], 1, f"{scratch}/{size}-process", root, None))
        for count in runs:
            folder = f"{scratch}/{size}-{count}"
            packed = child(_job(SIZES[size], count, folder + "-packed", root, None))
            in_turn = child(_job(SIZES[size], count, folder + "-sequence", root, None, sequence=True))
            ways = {"population": packed, "sequence": in_turn}
            processes = single | {"seconds": single["seconds"] * count}
            for way, result in (ways | {"processes": processes}).items():
                row = {"size": size, "params": params, "runs": count, "way": way, "seconds": result["seconds"]}
                row |= {"runs_per_hour": 3600 * count / result["seconds"], "peak_bytes": float(result["peak_bytes"])}
                row["over_sequence"] = in_turn["seconds"] / result["seconds"]
                rows.append(row | {"over_processes": processes["seconds"] / result["seconds"]})
    return rows


# --- the command


_UNITS = {"_bytes": ("MB", 1e-6), "flops_per_second": ("GFLOP/s", 1e-9), "seconds": ("s", 1.0), "per_second": ("/s", 1)}


def _cell(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    scale = next((scale for suffix, (_, scale) in _UNITS.items() if name.endswith(suffix)), 1.0)
    return f"{value * scale:,.0f}" if value * scale >= 100 else f"{value * scale:.3g}"


def _heading(name: str) -> str:
    for suffix, (unit, _) in _UNITS.items():
        if name.endswith(suffix):
            return " ".join((name.removesuffix(suffix).replace("_", " ").strip() + " " + unit).split())
    return name.replace("_", " ")


def _table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    names = [name for name in rows[0] if name != "all"]
    for name in names:
        table.add_column(_heading(name), justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(_cell(name, row[name]) for name in names))
    return table


def main(_: list[str]) -> int:
    """The command line."""
    given = flags.FLAGS
    if given.job:
        print(json.dumps(do_job(json.loads(given.job))))
        return 0
    for part in given.parts:
        if part not in PARTS:
            raise InputError(f"--parts={part}; {cli.nearest(part, PARTS, 'part')}")
    for size in given.sizes:
        if size not in SIZES:
            raise InputError(f"--sizes={size}; {cli.nearest(size, SIZES, 'size')}")
    try:
        runs = [int(count) for count in given.runs]
    except ValueError:
        raise InputError(f"--runs={','.join(given.runs)}; expected counts such as 1,4,16") from None
    from experiments import prepare, train
    from experiments.data.options import Data
    from experiments.run.schema import Execution

    root = os.path.abspath(given.data_root)
    if {"start", "population"} & set(given.parts):
        prepare.prepare(Data(), epath.Path(root))
    result: dict[str, Any] = {"schema": 1}
    with tempfile.TemporaryDirectory() as scratch:
        if "start" in given.parts:
            result["start"] = bench_start(scratch, root, given.rounds)
        if "population" in given.parts:
            result["population"] = bench_population(scratch, root, given.sizes, runs)
        if "analysis" in given.parts:
            result["analysis"] = bench_analysis(given.rounds, given.data)
        if "step" in given.parts:
            train.set_up_devices(Execution(compile_cache=None))
            result["step"] = bench_steps(given.rounds)
        if "families" in given.parts:
            train.set_up_devices(Execution(compile_cache=None))
            result["families"] = bench_families(given.rounds)
    console = Console(width=None if sys.stdout.isatty() else 120)
    for part, rows in result.items():
        if part != "schema":
            console.print(_table(part, rows))
    if given.json:
        files.write_json(given.json, result)
        console.print(f"written to {given.json}")
    return 0


if __name__ == "__main__":
    flags.DEFINE_list(
        "parts", ["step", "start", "population"], "which parts: step, start, population, families, analysis"
    )
    flags.DEFINE_list("sizes", ["small"], "run sizes of the population part: small (width 48), large (width 128)")
    flags.DEFINE_list("runs", ["1", "16"], "numbers of runs of the population part")
    flags.DEFINE_integer("rounds", 5, "rounds of the step, start and families parts", lower_bound=1)
    flags.DEFINE_string("data_root", "data", "where prepared corpora are")
    flags.DEFINE_string("data", None, "grid of the analysis part (chinchilla_epoch.csv); a planted one without it")
    flags.DEFINE_string("json", None, "write the numbers here too")
    flags.DEFINE_string("job", None, "used by the benchmark itself: a job for a child process")
    cli.run(main)
