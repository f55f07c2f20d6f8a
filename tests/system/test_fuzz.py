"""Whatever is in the files of a workdir: each reader gives a value or one line that names the file. LOSSGRID_FUZZ_SECONDS: for longer."""

import collections
import dataclasses
import json
import os
import pathlib
import random
import shutil
import time
import traceback

import pytest
from rich.console import Console

from experiments import files, train
from experiments.alive import stops
from experiments.cli import InputError
from experiments.run import freeze, identity
from experiments.store import inherit, record
from experiments.store.run_file import reserve
from sweeps.cost import plan_file
from sweeps.study.cells import Cell
from sweeps.study.file import Study
from sweeps.watch import grid_table, overview, status_table
from sweeps.work import curves
from sweeps.work import workdir as store

VALUES = [None, [], {}, "", "x", -1, 0, 0.5, 1e308, -1e308, float("nan"), float("inf"), 10**400, 2**63, True, [[[]]]]
VALUES += [
    {"a": {"b": []}},
    "../../../etc/passwd",
    "$(touch run)",
    "`touch run`",
    "a b;touch run",
    "[/]",
    "[red",
    "\x00",
]
VALUES += ["\ud800", "9" * 5000, [1] * 50]
WAYS = ["json"] * 8 + ["cut", "flip", "binary", "empty", "folder", "loop", "dangling", "deep", "missing"]


@pytest.fixture
def workdir(tiny, tmp_path: pathlib.Path) -> pathlib.Path:
    """Three runs: recorded, running elsewhere, recorded as diverged; a plan; a population."""
    root = tmp_path / "whole"
    held, cells = store.Workdir(root), []
    for rate in (1e-2, 2e-2, 3e-2):
        run, execution = freeze.freeze(tiny(**{"opt.lr": rate}))
        cells.append(Cell(f"lr={rate}", run, execution, {"group": "rates", "note": rate}, None))
    study = Study("fuzz", "fuzz.py", "What if?", tuple(cells), ())
    nodes = [store.Node(identity.fingerprint(c.run, ("m",)), c.name, c.run, c.execution, ("m",)) for c in cells]
    held.write_study(study, nodes)
    rows = [
        {"step": s, "tokens": 256 * s, "loss": 5 / s**0.5, "tokens_per_second": 9.0, "seconds": 0.1 * s}
        for s in range(1, 50)
    ]
    for node, state in zip(nodes, ("complete", None, "diverged"), strict=True):
        folder = held.run_dir(node.fingerprint)
        reserve(folder, node.run, node.fingerprint, node.manifests)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files.write_json(folder / "machine.json", {"schema": 1, **record.environment()})
        held.note_attempt(node.fingerprint, "node", "killed by SIGKILL")
        if state:
            results = {"loss_nats": 2.0, "wall_seconds": 1.0, "steps_done": 50, "batches_left_out": 0}
            record.write(folder, record.make(node.run, node.fingerprint, ("m",), state, None, results))
    running = nodes[1].fingerprint
    stops.ask(held.run_dir(running), stops.Stop("complete", "why"))
    token = held.claims.take([running], os.getpid(), "p")
    far = dataclasses.asdict(dataclasses.replace(held.claims.me, host="elsewhere"))
    claim = files.read_json(held.run_dir(running) / "claim.json")
    files.write_json(held.run_dir(running) / "claim.json", claim | {"launcher": far, "worker": far})
    files.write_json(root / "workers" / f"{token}.json", {"schema": 1, "beat": 3, "worker": far})
    files.write_json(
        root / "plan.json", {"hash": "x", "target": "v5e-16", "totals": {"price_usd": 6.0, "chip_hours": 2.0}}
    )
    values = {"schema": 1, "execution": dataclasses.asdict(cells[0].execution)}
    values |= {"runs": [identity.to_dict(n.run) for n in nodes], "fingerprints": [n.fingerprint for n in nodes]}
    files.write_json(root / "populations" / "p.json", values)
    return root


def change(value, draw: random.Random):
    """One node of a JSON value, at any depth, is another value or gone."""
    places: list[tuple] = []

    def walk(node) -> None:
        for key in node if isinstance(node, dict) else range(min(len(node), 5)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(value)
    if not places or draw.random() < 0.02:
        return draw.choice(VALUES)
    node, key = draw.choice(places)
    if draw.random() < 0.25:
        del node[key]
    else:
        node[key] = draw.choice(VALUES)
    return value


def damage(path: pathlib.Path, draw: random.Random) -> str:
    """What was done to the file."""
    way, content = draw.choice(WAYS), path.read_bytes()
    if way == "json":
        lines = content.splitlines() if path.suffix == ".jsonl" else [content]
        at = draw.randrange(len(lines))
        lines[at] = json.dumps(change(json.loads(lines[at]), draw)).encode()
        path.write_bytes(b"\n".join(lines) + b"\n")
    elif way == "cut":
        path.write_bytes(content[: draw.randrange(len(content))])
    elif way == "flip":
        at = draw.randrange(len(content))
        path.write_bytes(content[:at] + draw.randbytes(draw.randrange(1, 4)) + content[at + 1 :])
    elif way in ("binary", "empty", "deep"):
        path.write_bytes({"binary": draw.randbytes(500), "empty": b"", "deep": b"[" * 100_000}[way])
    else:
        path.unlink()
        if way == "folder":
            path.mkdir()
        elif way != "missing":
            path.symlink_to(path.name if way == "loop" else "nowhere")
    return f"{path.name}: {way}"


def readers(root: pathlib.Path, out: pathlib.Path):
    """Everything that reads a workdir, by name."""
    held, console = store.Workdir(root), Console(file=open(os.devnull, "w"), width=190)

    def look() -> None:
        seen = overview.look(held)
        console.print(status_table.render(seen))
        json.dumps(seen.to_json(), allow_nan=False)

    def table() -> None:
        frame, _ = grid_table.build(held)
        for name in ("grid.csv", "grid.parquet"):
            grid_table.write(frame, out / name)

    def curve(name: str) -> None:
        found = held.curve(name)
        curves.diverging(found)
        curves.forecast(found, 2_000)

    yield from (("status", look), ("collect", table), ("plan", lambda: plan_file.read(root)))
    yield "population", lambda: train._train_population(str(root / "populations" / "p.json"), str(root))
    for name in [path.name for path in (root / "runs").iterdir()]:
        folder = held.run_dir(name)
        yield from (("state", lambda n=name: held.finished(n)), ("attempts", lambda n=name: held.attempts(n)))
        yield from (("stop", lambda f=folder: stops.asked(f)), ("parent", lambda f=folder: inherit.read(f)))
        yield "curve", lambda n=name: curve(n)
        yield "claim", lambda n=name: [held.claims.alive(claim) for claim in [held.claims.read(n)] if claim]
    yield "sweep", lambda: held.claims.sweep([path.name for path in (root / "runs").iterdir()])


def test_whatever_a_file_holds_is_a_value_or_one_line(workdir, tmp_path, monkeypatch):
    """Files cut, flipped, binary, of wrong types, of huge numbers, of names that are paths or shell words, link loops."""
    seed = int(os.environ.get("LOSSGRID_FUZZ_SEED", random.SystemRandom().randrange(10**6)))
    draw, end = random.Random(seed), time.monotonic() + float(os.environ.get("LOSSGRID_FUZZ_SECONDS", "2"))
    monkeypatch.setattr(train, "train", lambda *_: None)
    monkeypatch.setattr(train.watchdog, "breathe", lambda *_: None)
    (out := tmp_path / "out").mkdir()
    monkeypatch.chdir(out)
    rounds, wrong = 0, collections.Counter()
    while rounds < 5 or time.monotonic() < end:
        root = tmp_path / "damaged"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(workdir, root)
        kept = [path for path in sorted(root.rglob("*.json*")) if path.is_file()]
        done = [damage(path, draw) for path in draw.sample(kept, draw.choice([1, 1, 2, 3]))]
        for name, read in readers(root, out):
            try:
                read()
            except InputError as error:
                if "\n" in str(error):
                    wrong[f"{name}: two lines: {error}"] += 1
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                wrong[f"{name}: {error!r} at {where.filename}:{where.lineno} after {done}"] += 1
        rounds += 1
    print(f"seed {seed}: {rounds} rounds")
    assert not wrong, f"seed {seed}: {dict(wrong)}"
    assert {path.name for path in out.iterdir()} <= {"grid.csv", "grid.parquet"}, "nothing was run"
