"""Grids as people have them: in any format, encoding and notation, exported by other tools, in one file or many."""

import bz2
import gzip
import json
import lzma
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest

from analysis.grid import condition, numerals, units
from analysis.grid.selection import select
from analysis.grid.table import Columns, Grid, load
from analysis.grid.text_table import Reading
from experiments.cli import InputError
from tests.support.commands import command

FRAME = pd.DataFrame(
    {
        "params": [50_000_000, 1_264_911_064, 127_900_000],
        "tokens": [10_000_000_000, 5_946_035_575, 2_100_000_000],
        "loss": [3.0781, 2.9703, 2.545],
        "family": ["dichte", "größer", "dichte"],
    }
)
RECORDS = FRAME.to_dict(orient="records")


def csv(**options) -> str:
    return FRAME.to_csv(index=False, lineterminator="\n", **options)


def nested(record: dict) -> dict:
    return {"config": {"params": record["params"]}, **{name: record[name] for name in ("tokens", "loss", "family")}}


def grouped(value: float, mark: str) -> str:
    return f"{value:,}".replace(",", mark)


def written(mark: str, decimal: str, delimiter: str) -> str:
    """The table with marks between thousands and in decimals."""
    lines = [delimiter.join(FRAME)]
    for record in RECORDS:
        cells = [grouped(record["params"], mark), grouped(record["tokens"], mark)]
        lines.append(delimiter.join([*cells, str(record["loss"]).replace(".", decimal), record["family"]]))
    return "\n".join(lines)


def zipped(text: str, path) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("grid.csv", text)
    return path.read_bytes()


PACKED = {
    "grid.csv.gz": gzip.compress(csv().encode()),
    "grid.csv.bz2": bz2.compress(csv().encode()),
    "grid.csv.xz": lzma.compress(csv().encode()),
    "grid.csv.zst": pa.compress(csv().encode(), "zstd", asbytes=True),
    "named_wrongly.csv": gzip.compress(csv().encode()),
    "records.jsonl.gz": gzip.compress("\n".join(map(json.dumps, RECORDS)).encode()),
}
TEXTS = {
    "plain.csv": csv(),
    "semicolons.csv": csv(sep=";"),
    "decimal_commas.csv": csv(sep=";", decimal=","),
    "tabs.tsv": csv(sep="\t"),
    "pipes.txt": csv(sep="|"),
    "markdown.md": "| params | tokens | loss | family |\n|---|---:|---|---|\n"
    + "\n".join("| " + " | ".join(map(str, record.values())) + " |" for record in RECORDS),
    "spaces.txt": FRAME.to_string(index=False),
    "excel.csv": "sep=;\n" + csv(sep=";"),
    "quoted.csv": csv(quoting=1),
    "comments.csv": "# runs of May, with spaces\n#\n" + csv() + "# the end\n",
    "comment_is_header.txt": "# " + csv(sep=" "),
    "trailing.csv": csv().replace("\n", ",\n").replace("family,", "family", 1),
    "row_names.csv": csv().splitlines()[0] + "\n" + "\n".join(f"run{i},{x}" for i, x in enumerate(csv().splitlines()[1:])),
    "carriage.csv": csv().replace("\n", "\r\n"),
    "thousands.csv": "params,tokens,loss,family\n"
    + "\n".join(f'"{r["params"]:,}","{r["tokens"]:,}",{r["loss"]},{r["family"]}' for r in RECORDS),
    "thousands.tsv": written(",", ".", "\t"),
    "german.csv": written(".", ",", ";"),
    "french.csv": written("\u202f", ",", ";"),
    "swiss.tsv": written("'", ".", "\t"),
    "records.json": json.dumps(RECORDS),
    "lines.jsonl": "\n".join(map(json.dumps, RECORDS)) + "\n\n",
    "columns.json": json.dumps(FRAME.to_dict(orient="list")),
    "pandas.json": FRAME.to_json(),
    "index.json": FRAME.assign(name=["a", "b", "c"]).set_index("name").to_json(orient="index"),
    "split.json": FRAME.to_json(orient="split"),
    "schema.json": FRAME.to_json(orient="table"),
    "under_a_name.json": json.dumps({"about": "sweep", "found": {"runs": RECORDS}}),
    "lists.json": json.dumps([list(FRAME), *FRAME.to_numpy().tolist()]),
}  # fmt: skip


@pytest.mark.parametrize("name", [*TEXTS, *PACKED, "grid.zip", "grid.feather", "grid.parquet"])
def test_a_grid_is_read_whatever_its_format(tmp_path, name):
    path = tmp_path / name
    if name in TEXTS:
        path.write_text(TEXTS[name], newline="")
    elif name == "grid.zip":
        zipped(csv(), path)
    elif name == "grid.feather":
        pyarrow.feather.write_feather(FRAME, path)
    elif name == "grid.parquet":
        FRAME.to_parquet(path)
    else:
        path.write_bytes(PACKED[name])
    grid = load(path)
    for column in ("params", "tokens", "loss"):
        np.testing.assert_allclose(grid.numbers(column, ""), FRAME[column], rtol=1e-12, err_msg=column)
    assert grid.words("family").tolist() == FRAME["family"].tolist()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_grid_is_read_whatever_its_encoding(tmp_path, encoding):
    path = tmp_path / "grid.csv"
    path.write_bytes(csv(sep="\t").encode(encoding))
    grid = load(path)
    assert grid.words("family").tolist() == FRAME["family"].tolist() and "params" in grid
    assert bool(grid.notes) == (encoding == "latin-1")  # the one that had to be guessed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("127.9M", 127.9e6), ("7B", 7e9), ("1.4B", 1.4e9), ("70m", 70e6), ("258.2 M", 258.2e6), ("50.1M", 50_100_000.0),
        ("1e9", 1e9), ("2.5e-3", 2.5e-3), ("1.5x10^9", 1.5e9), ("6 \u00d7 10^18", 6e18), ("10^9", 1e9), ("12%", 0.12),
        ("1,264,911,064", 1264911064.0), ("1.264.911,5", 1264911.5), ("3,0781", 3.0781), ("1_000", 1000.0),
        ("\u22122.5", -2.5), ("3 billion", 3e9), ("1,264", 1264.0), (".5", 0.5), ("0,125", 0.125), ("inf", np.inf),
        ("7Q", np.nan), ("1,2,3", np.nan), ("1.2.3", np.nan), ("2024-01-01", np.nan), ("", np.nan), ("B", np.nan),
        ("llama-7B", np.nan), ("12,34,567", np.nan), ("1e", np.nan), ("9" * 80, np.nan),
    ],
)  # fmt: skip
def test_numbers_as_people_write_them(text, value):
    assert numerals.number(text) == pytest.approx(value, rel=1e-15, nan_ok=True)


def test_what_can_be_read_in_two_ways_is_read_as_the_rest_or_as_asked(tmp_path):
    """1,264 is a thousand and more, or one and a part."""
    path = tmp_path / "grid.csv"
    path.write_text("params;loss\n1,264;3,078\n2,100;2,545\n")
    guessed = load(path)
    assert guessed.numbers("loss", "").tolist() == [3.078, 2.545]
    assert any("--decimal=." in note for note in guessed.notes)
    asked = load(path, Reading(decimal="."))
    assert asked.numbers("loss", "").tolist() == [3078, 2545] and not asked.notes
    path.write_text("params;loss\n1,264;3,0784\n2,100;2,545\n")  # one number can only have a decimal comma
    clear = load(path)
    assert clear.numbers("params", "").tolist() == [1.264, 2.1] and not clear.notes
    path.write_text("params\tloss\n1,264\t3.0784\n2,100\t2.545\n")
    assert load(path).numbers("params", "").tolist() == [1264, 2100]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 no archive", "packed with zip and damaged"),
        (b"\x1f\x8b no gzip", "packed with gzip and damaged"),
        (b"\xd0\xcf\x11\xe0", "an old Excel workbook; save its sheet as CSV"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "a web page; download the file itself"),
        (b"\x80\x04\x95", "a Python pickle"),
        (b"\x93NUMPY", "a NumPy array"),
        (bytes(range(256)), "holds zero bytes: a binary file"),
        (b"{\"law\": \"chinchilla\", \"draws\": [1, 2]}", "JSON of one object with the keys law, draws"),
        (b'{"a": [{"x": 1}], "b": [{"y": 1}]}', "lists of records under 'a', 'b'; keep one of them"),
        (b'[1, 2, 3]', "JSON of a list of int; expected a list of records"),
        (b'{"N": 1}\n{"N": oops}\n', "begins as JSON and is not: line 2"),
        (b"Runs of May\nN,D,loss\n1,2,3\n4,5,6\n", "begin lines above the header with #"),
        (b"N,loss\n1,264,911,3.0\n2,100,000,2.5\n", "put numbers with such a mark in quotes"),
        (b"", "has no rows"), (b"N,D,loss\n", "has no rows"), (b"[]", "has no rows"), (b"# only a comment\n", "no rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_what_it_looks_like(tmp_path, content, message):
    path = tmp_path / "grid.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_file_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"an address, and nothing is downloaded here.*curl -LO.*runs\.csv"):
        load("https://example.org/runs.csv?raw=1")
    with pytest.raises(InputError, match=r"is a folder; expected .*/\*\.csv"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"no file is named .*nothing\*\.csv"):
        load(str(tmp_path / "nothing*.csv"))
    with pytest.raises(InputError, match="--encoding: 'utf9' is not an encoding"):
        Reading(encoding="utf9")
    with pytest.raises(InputError, match="--delimiter: 'semi' is not one character"):
        Reading(delimiter="semi")
    with pytest.raises(InputError, match="--decimal: ';' is not a decimal mark"):
        Reading(decimal=";")


def test_options_say_how_to_read(tmp_path):
    path = tmp_path / "grid.csv"
    path.write_bytes(csv(sep="~").encode("cp1250"))
    grid = load(path, Reading(delimiter="~", encoding="cp1250"))
    assert grid.words("family").tolist() == FRAME["family"].tolist()
    with pytest.raises(InputError, match="not text in utf-8"):
        load(path, Reading(encoding="utf-8"))


def test_records_hold_records_and_curves(tmp_path):
    """Fields of fields have names with dots; a record with a curve is as many rows as the curve has points."""
    path = tmp_path / "runs.json"
    path.write_text(json.dumps([nested(record) for record in RECORDS]))
    assert load(path).numbers("config.params", "").tolist() == FRAME["params"].tolist()
    curves = [{"params": 1e6 * at, "curve": [{"step": step, "loss": 3 - step} for step in (1, 2)]} for at in (1, 2)]
    path.write_text(json.dumps({"runs": curves}))
    grid = load(path)
    assert grid.frame["params"].tolist() == [1e6, 1e6, 2e6, 2e6] and grid.frame["step"].tolist() == [1, 2, 1, 2]
    lists = [{"params": 1e6 * at, "step": [1, 2], "loss": [3.0, 2.0]} for at in (1, 2)]
    path.write_text("\n".join(map(json.dumps, lists)))
    assert load(path).frame["loss"].tolist() == [3, 2, 3, 2]


def chart(ends: bool) -> str:
    """What W&B exports of one chart of two runs, of which the second stopped early."""
    lines = ["Step"]
    for run in ("small - lr 3e-4", "large"):
        lines[0] += f",{run} - eval/loss"
        lines[0] += f",{run} - eval/loss__MIN,{run} - eval/loss__MAX" if ends else ""
    rows = [(100, "3.5", "3.3"), (200, "3.1", "")]
    for step, first, second in rows:
        cells = [first] * (3 if ends else 1) + [second] * (3 if ends else 1)
        lines.append(",".join([str(step), *cells]))
    return "\n".join(lines)


@pytest.mark.parametrize("ends", [True, False])
def test_a_chart_of_weights_and_biases_is_a_row_for_each_run_and_step(tmp_path, ends):
    path = tmp_path / "wandb_export.csv"
    path.write_text(chart(ends))
    columns = select(load(path), ("loss", "run"), columns="run=run,X=Step")
    assert columns["run"].tolist() == ["small - lr 3e-4", "small - lr 3e-4", "large"]
    assert columns["loss"].tolist() == [3.5, 3.1, 3.3] and columns["X"].tolist() == [100, 200, 100]
    assert columns.sources["loss"] == "eval/loss" and "chart of W&B with 2 runs" in columns.notes[0]


def test_curves_of_tensorboard_are_rows_of_runs(tmp_path):
    for run, shift in (("small", 0.0), ("large", 0.5)):
        for tag, value in (("loss", 3.0), ("lr", 0.01)):
            rows = [f"17000.{step},{step},{value - shift}" for step in (1, 2)]
            (tmp_path / f"run-{run}-tag-{tag}.csv").write_text("Wall time,Step,Value\n" + "\n".join(rows))
    grid = load(str(tmp_path / "run-*.csv"))
    assert len(grid) == 4 and set(grid.frame["run"]) == {"small", "large"}
    small = grid.frame[grid.frame["run"] == "small"]
    assert small["loss"].tolist() == [3.0, 3.0] and small["lr"].tolist() == [0.01, 0.01]


def test_event_files_of_tensorboard_are_read(tmp_path):
    from tensorboardX import SummaryWriter

    for run in ("small", "large"):
        with SummaryWriter(str(tmp_path / run)) as writer:
            for step in (1, 2):
                writer.add_scalar("eval/loss", 3.0 / step, step)
                writer.add_scalar("lr", 0.01, step)
    grid = load(str(tmp_path / "*" / "events.out.tfevents.*"))
    assert len(grid) == 4 and grid.frame["file"].unique().tolist() == ["large", "small"]
    columns = select(grid, ("loss", "lr", "run"), columns="run=run", where="run=='small'")
    assert columns["loss"].tolist() == [3.0, 1.5]


def test_several_files_are_one_grid_with_a_column_of_their_names(tmp_path):
    for name in ("1B-5xC", "7B-1xC"):
        (tmp_path / f"{name}.csv.gz").write_bytes(gzip.compress(csv().encode()))
    paths = sorted(tmp_path.glob("*.gz"))
    for grid in (load(paths), load(str(tmp_path / "*.gz"))):
        assert grid.words("file").tolist() == ["1B-5xC"] * 3 + ["7B-1xC"] * 3
        assert any("2 files with 6 rows" in note for note in grid.notes)
    columns = select(load(paths), ("N", "D", "loss"), where="file like '7B*'")
    assert columns.row.tolist() == [3, 4, 5]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder in ("a", "b"):
        (tmp_path / folder / "metrics.csv").write_text(csv())
    assert set(load(str(tmp_path / "?" / "metrics.csv")).words("file")) == {"a", "b"}


WANDB = pd.DataFrame(
    {
        "Name": ["isoflop-1", "isoflop-2", "sweep-1"],
        "Parameter Count": ["50M", "7B", "1.4B"],
        "throughput/total_gflops": [3.0, 4.0, 5.0],
        "eval/c4 en/loss": [3.5, 3.1, 3.3],
        "summary.Tokens": [1e9, 2e9, 3e9],
        "outlier": [False, True, False],
    }
)


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("Name like 'isoflop-*'", [0, 1]), ("Name not like 'isoflop-*'", [2]), ("'flop' in Name", [0, 1]),
        ("not outlier and Name like '*1'", [0, 2]), ("outlier", [1]), ("`eval/c4 en/loss` < 3.4", [1, 2]),
        ("`Parameter Count` > 1e9", [1, 2]), ("`Parameter Count` == '7B'", [1]), ("NAME == 'sweep-1'", [2]),
        ("summary.Tokens / `Parameter Count` < 2", [1]), ("'swoop' not in Name and summary.tokens >= 2e9", [1, 2]),
        ("eval_c4_en_loss < 3.2", [1]),
    ],
)  # fmt: skip
def test_rows_are_chosen_by_any_column(where, rows):
    grid = Grid("grid.csv", WANDB, "0" * 64)
    columns = select(grid, ("loss",), columns="loss=`eval/c4 en/loss`", where=where)
    assert columns.row.tolist() == rows


def test_formulas_name_any_column():
    grid = Grid("grid.csv", WANDB, "0" * 64)
    text = "C=`throughput/total_gflops`*1e9,D=summary.Tokens,N=parameter count,loss=eval/c4 en/loss"
    columns = select(grid, ("N", "D", "C", "loss"), columns=text)
    assert columns["C"].tolist() == [3e9, 4e9, 5e9] and columns["N"].tolist() == [50e6, 7e9, 1.4e9]
    with pytest.raises(
        InputError, match=r"'throughput' is not a column.*in back-ticks in a formula: `throughput/total"
    ):
        select(grid, ("C",), columns="C=throughput/total_gflops*1e9")


def test_a_text_that_no_row_has_names_the_nearest():
    grid = Grid("grid.csv", FRAME.assign(family=["dense", "moe", "dense"]), "0" * 64)
    kept = select(grid, ("N",), where="family != 'dnse'")
    assert any("no row has family == 'dnse'; did you mean 'dense'" in note for note in kept.notes)
    with pytest.raises(InputError, match="none of the 3 rows.*did you mean 'moe'"):
        select(grid, ("N",), where="family == 'mow'")
    with pytest.raises(InputError, match="family is no column of yes and no, it holds 'dense'"):
        select(grid, ("N",), where="not family")


def test_nothing_of_a_condition_is_evaluated():
    for text in ("a.__class__ == 1", "name like pattern", "like 'x'", "`a` like 'x' like 'y'", "(a @ b) == 1"):
        with pytest.raises(InputError, match="--where"):
            condition.rows_where(text, lambda name: FRAME["family"].to_numpy())


@pytest.mark.parametrize(
    ("source", "is_doubted"),
    [("loss", False), ("log(perplexity)", False), ("0.693*bpb", False), ("bpb*log(2)", False), ("bits/1.4427", False),
     ("perplexity", True), ("bpb", True), ("val/ppl", True), ("2*perplexity", True), ("eval/bits per token", True)],
)  # fmt: skip
def test_a_unit_that_was_converted_is_not_doubted(source, is_doubted):
    columns = Columns(
        {"loss": np.full(5, 0.65 if "b" in source and not is_doubted else 3.0)}, np.arange(5), {"loss": source}, ()
    )
    assert bool(units.doubts(columns)) == is_doubted


def test_commands_read_several_files_as_they_are_told(tmp_path):
    N, D = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4)))
    frame = pd.DataFrame({"Model Size": N, "Tokens": D, "eval/loss": 1.7 + 400 / N**0.34 + 410 / D**0.28})
    for at, part in enumerate((frame[:8], frame[8:])):
        part.to_csv(tmp_path / f"part{at}.csv", sep="~", decimal=",", index=False)
    done = command(
        "analysis.fit", *sorted(map(str, tmp_path.glob("*.csv"))), "--delimiter=~", "--columns=N=`Model Size`",
        "--where=file like 'part*'", "--bootstrap=0", f"--out={tmp_path / 'fit.json'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    fitted = json.loads((tmp_path / "fit.json").read_text())
    assert fitted["rows_used"] == 16 and fitted["coefficients"]["alpha"] == pytest.approx(0.34, rel=1e-4)
    assert any("2 files with 16 rows" in note for note in fitted["notes"])
