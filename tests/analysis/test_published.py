"""Published grids: every target within its tolerance, where the data come from, and what happens without them."""

import functools
import gzip
import hashlib
import http.server
import json
import pathlib
import threading
import urllib.request

import numpy as np
import pandas as pd
import pytest

from analysis.grid.table import load
from analysis.published import STUDIES, __main__, sources
from analysis.published.scipy_fit import ScipyFit, resampled
from analysis.published.target import (
    FLAWED,
    NOT_IDENTIFIED,
    NOT_REPRODUCIBLE,
    OURS,
    REPRODUCED,
    Found,
    Study,
    Target,
    compare,
)
from experiments.cli import InputError
from tests.support.commands import command
from tests.support.planted import GRIDS

here = pytest.mark.skipif(
    not all((GRIDS / file).exists() for file in sources.SOURCES),
    reason="the published grids (../shared/grids) are not here",
)
# What cannot be had from the released data; everything else with a published value must come out.
LOST = {
    "chinchilla": {"LAD: tokens per parameter at 5.88e23 FLOPs"},
    "vocabulary": {"approach 1, Huber 1e-3: a", "approach 3, D counted right: V at N_nv = 7e+10"},
    "regmix": set(),
    "data_constrained": set(),
    "clark": {"RL-R: rms residual of log10 L"},
    "steplaw": {
        *(f"refit: {name}" for name in ("c", "p", "q", "k", "r")),
        *(f"bootstrap sd of {name}" for name in ("ln c", "p", "q", "ln k", "r")),
        *(
            f"refit to {rows}: {name}"
            for rows in ("rows within 0.05%", "rows within 1%", "the best row of each cell", "vertices of parabolas")
            for name in ("p", "q")
        ),
        "our refit at 7e9 and 1.4e12: lr",
        "our refit at 7e9 and 1.4e12: batch",
    },
}
QUICK = ("steplaw", "data_constrained")
UNKNOWN = {
    "data_constrained": {"best optimum: R_D", "all rows: R_D"},
    "clark": {"S-Base: E_max", "RL-R: E_max", "Hash: E_max"},
}


@functools.cache
def outcome(name: str) -> __main__.Outcome:
    return __main__.run(name, str(GRIDS))


@here
@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in STUDIES if name not in QUICK)]
)
def test_every_target_is_met_or_known_to_be_lost(name):
    rows = outcome(name).rows
    assert {row.quantity for row in rows} == {target.quantity for target in outcome(name).study.targets}
    by_verdict = {
        verdict: {row.quantity for row in rows if row.verdict == verdict}
        for verdict in (NOT_REPRODUCIBLE, NOT_IDENTIFIED)
    }
    assert by_verdict[NOT_REPRODUCIBLE] == LOST[name] - by_verdict[NOT_IDENTIFIED]
    assert by_verdict[NOT_IDENTIFIED] == UNKNOWN.get(name, set())
    disagreeing = [(row.quantity, row.ours, row.refit) for row in rows if row.refit_agrees is False]
    assert not disagreeing
    assert all(row.note for row in rows if row.verdict in (FLAWED, NOT_IDENTIFIED))
    assert outcome(name).warnings == []


@here
@pytest.mark.slow
def test_the_whole_table_from_the_command_line(tmp_path):
    done = command(
        "analysis.published", "steplaw", "data_constrained", f"--data={GRIDS}", f"--json={tmp_path / 'p.json'}"
    )
    assert done.returncode == 0, done.stderr
    assert "not reproducible" in done.stdout and "R_D = 95.4" in done.stdout
    data = json.loads((tmp_path / "p.json").read_text())
    rows = {(row["study"], row["quantity"]): row for row in data["rows"]}
    assert rows["steplaw", "refit: q"]["ours"] == pytest.approx(0.19701, abs=1e-5)
    assert rows["data_constrained", "R_D"]["verdict"] == FLAWED
    assert set(data["grids"]) == {"datablations_c4.csv", "steplaw_dense.csv", "steplaw_published_bootstrap.csv"}


@here
@pytest.mark.parametrize("file", sorted(sources.SOURCES))
def test_known_checksums(file):
    assert sources.read(str(GRIDS), file)[1] == ""


# --- verdicts


@pytest.mark.parametrize(
    ("target", "found", "verdict"),
    [
        (Target("x", 2.0, 1e-3), Found(2.001), REPRODUCED),
        (Target("x", 2.0, 1e-3), Found(2.001, "a slip"), FLAWED),
        (Target("x", 2.0, 1e-3), Found(2.1, "a slip"), NOT_REPRODUCIBLE),
        (Target("x", 2.0, 0.2, absolute=True), Found(2.1), REPRODUCED),
        (Target("x", 2.0, 1e-3), Found(2.0, identified=False), NOT_IDENTIFIED),
        (Target("x", None), Found(2.0), OURS),
        (Target("x", 0.0, 0.5, absolute=True), Found(0.4), REPRODUCED),
        (Target("x", 2.0, 1e-3), Found(float("nan")), NOT_REPRODUCIBLE),
    ],
)
def test_verdicts(target, found, verdict):
    (row,) = compare("study", Study("", (), [target], lambda grids: {}), {"x": found})
    assert row.verdict == verdict


def test_a_quantity_without_a_target_is_a_bug():
    with pytest.raises(KeyError, match="y have no target"):
        compare("study", Study("", (), [Target("x", 1.0)], lambda grids: {}), {"y": Found(1.0)})


def test_every_target_has_a_name_of_its_own():
    for name in STUDIES:
        quantities = [target.quantity for target in __main__.study_of(name).targets]
        assert len(quantities) == len(set(quantities)), name
        assert set(__main__.study_of(name).files) <= set(sources.SOURCES)
        assert all(target.source for target in __main__.study_of(name).targets if target.published is not None)


# --- where the data come from


def test_without_data_one_line_names_folder_file_and_address(tmp_path):
    done = command("analysis.published", "chinchilla", f"--data={tmp_path}")
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    for part in (str(tmp_path), "chinchilla_epoch.csv", "https://github.com/Besiroglu/data", "--fetch"):
        assert part in done.stderr
    everything = command("analysis.published", f"--data={tmp_path}")
    assert everything.returncode == 2 and len(everything.stderr.splitlines()) == 1


def test_an_unknown_grid_names_the_nearest(tmp_path):
    with pytest.raises(InputError, match="did you mean 'chinchilla'"):
        __main__.chosen(["chinchila"], str(tmp_path), False)


@here
def test_grids_that_are_not_there_are_left_out_and_named(tmp_path):
    for file in ("steplaw_dense.csv", "steplaw_published_bootstrap.csv"):
        (tmp_path / file).symlink_to(GRIDS / file)
    names, notes = __main__.chosen([], str(tmp_path), False)
    assert names == ["steplaw"] and len(notes) == len(STUDIES) - 1
    with pytest.raises(InputError, match="routed_lm_clark.csv"):
        __main__.chosen(["steplaw", "clark"], str(tmp_path), False)


def test_no_network_without_fetch(tmp_path, monkeypatch):
    def called(*_args, **_kwargs):
        raise AssertionError("a network call")

    monkeypatch.setattr(urllib.request, "urlopen", called)
    with pytest.raises(InputError):
        __main__.chosen([], str(tmp_path), False)


@here
def test_another_checksum_is_a_warning_and_no_stop(tmp_path):
    for file in ("steplaw_dense.csv", "steplaw_published_bootstrap.csv"):
        lines = (GRIDS / file).read_text().splitlines()
        (tmp_path / file).write_text("\n".join(lines[:-1]) + "\n")
    shorter = __main__.run("steplaw", str(tmp_path))
    assert [warning.split()[0] for warning in shorter.warnings] == [
        "steplaw_dense.csv",
        "steplaw_published_bootstrap.csv",
    ]
    assert len(shorter.rows) == len(shorter.study.targets)


@here
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\1\2", "not a readable CSV"),
        (b"a,b\n1,2\n", "params_total"),
        (b"", "CSV|no rows"),
        (b"params_total,tokens,loss\nx,y,z\n", "none of the 1 rows"),
        (b"params_total,tokens,loss\n1e9,1e10,2.5\n", "expected at least 5 rows"),
    ],
)
def test_a_corrupted_file_is_bad_input(tmp_path, content, message):
    (tmp_path / "chinchilla_epoch.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        __main__.run("chinchilla", str(tmp_path))


def as_csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False).encode()


def originals(file: str) -> dict[str, bytes]:
    """The files that a tidy table is made of, from the table: the columns under their first names."""
    frame, source = pd.read_csv(GRIDS / file), sources.SOURCES[file]
    if file.startswith("regmix"):
        found: dict[str, bytes] = {}
        families = list(dict.fromkeys(frame["family"]))
        for family, mix, loss in zip(families, source.paths[::2], source.paths[1::2], strict=True):
            part = frame[frame["family"] == family]
            names = {name: name.replace("mix_", "train_the_pile_") for name in part if name.startswith("mix_")}
            found[mix] = as_csv(part[["index", *names]].rename(columns=names))
            names = {name: f"metric/the_pile_{name[5:]}_val_loss" for name in part if name.startswith("loss_")}
            found[loss] = as_csv(part[["index", *names]].rename(columns=names))
        return found
    names = {
        "chinchilla_epoch.csv": {"params_total": "Model Size", "flops": "Training FLOP"},
        "vocab_isoflop.csv": {
            "width": "embed_dim",
            "characters": "num_characters",
            "params_non_vocab": "Non_vocab_parameters",
            "flops": "FLOPs",
            "loss_unigram_normalised": "Lossu",
        },
        "steplaw_dense.csv": {
            "params_non_embedding": "N",
            "tokens": "D",
            "learning_rate": "lr",
            "batch_size_sequences": "bs",
            "steps": "ti",
            "width": "h",
            "depth": "numl",
            "heads": "numh",
            "ffn_width": "ffnh",
            "loss_smooth": "smooth loss",
            "loss_last": "loss",
        },
        "steplaw_published_bootstrap.csv": {},
        "routed_lm_clark.csv": {
            "params_active": "dense_parameter_count",
            "params_total": "total_parameter_count",
            "experts": "num_experts",
            "top_k": "k",
            "width": "d_model",
            "depth": "num_blocks",
            "heads": "num_heads",
            "kv_size": "kqv_size",
            "steps": "step",
            "loss": "loss_validation",
        },
    }[file]
    frame = frame.rename(columns=names)
    if file.startswith("routed"):  # evaluations on the way, which the table leaves out
        frame["hyper_id"] = np.arange(len(frame))
        frame = pd.concat([frame.assign(step=10_000, loss_validation=9.0), frame])
        return {source.paths[0]: gzip.compress(as_csv(frame))}
    return {source.paths[0]: as_csv(frame)}


CONVERTED = sorted(file for file, source in sources.SOURCES.items() if source.convert)


@here
@pytest.mark.parametrize("file", CONVERTED)
def test_fetch_makes_the_known_table_of_the_original(file, tmp_path, monkeypatch):
    """Over HTTP from a server of our own."""
    source, served = sources.SOURCES[file], originals(file)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.removeprefix(f"/{source.repository}/raw/{source.commit}/")
            self.send_response(200 if path in served else 404)
            self.end_headers()
            self.wfile.write(served.get(path, b""))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(sources, "HOST", f"http://127.0.0.1:{server.server_port}")
        said = sources.fetch(str(tmp_path / "new"), file)
        table = (tmp_path / "new" / file).read_bytes()
        assert hashlib.sha256(table).hexdigest() == source.sha256
        assert source.paths[0] in said and "checksum" not in said
        served.clear()
        with pytest.raises(RuntimeError, match="could not be downloaded"):
            sources.fetch(str(tmp_path), file)
        server.shutdown()


def test_a_table_that_no_program_can_make_says_where_to_put_it(tmp_path):
    with pytest.raises(InputError, match=r"datablations_c4.csv is in the cells of .*ipynb.*put the table at"):
        sources.fetch(str(tmp_path), "datablations_c4.csv")


def test_an_original_of_another_format_is_not_converted():
    with pytest.raises(ValueError, match="no column vocab_size"):
        sources.SOURCES["vocab_isoflop.csv"].convert({"exp_data.csv": b"a,b\n1,2\n"})


# --- scipy's side


def test_scipys_gradient_is_that_of_its_objective():
    draw = np.random.default_rng(0)
    N, D = 10 ** draw.uniform(7, 10, 30), 10 ** draw.uniform(9, 11, 30)
    fit = ScipyFit(N, D, 1.8 + 400 / N**0.34 + 2000 / D**0.37 + 0.02 * draw.standard_normal(30))
    at = np.array([6.0, 7.5, 0.6, 0.35, 0.36])
    slopes = [(fit(at + step)[0] - fit(at - step)[0]) / 2e-7 for step in 1e-7 * np.eye(5)]
    assert fit(at)[1] == pytest.approx(slopes, rel=1e-4, abs=1e-9)


def test_resampling_is_numpys_global_stream():
    np.random.seed(42)
    expected = [np.random.choice(np.arange(240), 240) for _ in range(3)]
    assert np.array_equal(resampled(240, 3), expected)


@here
def test_published_refits_stop_short_and_ours_do_not():
    from analysis.fitting.spec import FitSpec
    from analysis.laws.chinchilla import Chinchilla
    from analysis.published.chinchilla import columns_of
    from analysis.questions.fit import fit

    columns = columns_of(load(GRIDS / "chinchilla_epoch.csv"))
    theirs, picks = ScipyFit(columns["N"], columns["D"], columns["loss"]), resampled(240, 60)
    _, values = theirs.bootstrap(picks)
    draws = fit(columns, Chinchilla, FitSpec(bootstrap=60, thorough=False)).draws
    points = np.column_stack([np.log(draws[:, [1, 2, 0]]), draws[:, 3:]])
    ours = np.array([theirs(point, rows)[0] for point, rows in zip(points, picks, strict=True)])
    assert (ours <= values * (1 + 1e-9)).all() and (ours < values * (1 - 1e-9)).any()


def test_the_address_is_of_a_fixed_commit():
    for source in sources.SOURCES.values():
        assert (
            len(source.commit) >= 7
            and source.commit in source.address
            and source.commit in source.download_address("x")
        )
        assert len(source.sha256) == 64 and pathlib.PurePosixPath(source.paths[0]).suffix in (".csv", ".gz", ".ipynb")
