"""The notebooks: their sources and the .ipynb that people read say the same, and they run from top to bottom in a kernel."""

import pathlib
import re

import pandas as pd
import pytest

from analysis.notebooks import __main__ as notebooks
from analysis.notebooks import tables
from tests.support import planted

pytest.importorskip("jupytext", reason="jupytext is not installed (requirements-lab.txt)")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (requirements-lab.txt)")
pytest.importorskip("ipykernel", reason="ipykernel is not installed (requirements-lab.txt)")

NAMES = ("choosing", "families", "ladder", "next_runs", "published", "tutorial")
MOST_CELLS = 40
LARGEST = 400_000  # bytes of a notebook with its outputs
MACHINE = re.compile(r"/(home|root|tmp|work|Users)/|[A-Z]:\\\\")


def outputs(notebook, kind: str) -> list[str]:
    """What the cells gave, of a kind of content (text/html, image/png), or what they printed (stream)."""
    every = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    if kind == "stream":
        return [output["text"] for output in every if output["output_type"] == "stream"]
    return [output["data"][kind] for output in every if kind in output.get("data", {})]


def shape(notebook) -> list[tuple[int, list[str], list[str]]]:
    """What every cell shows, without its numbers: which kinds of output, and the words of its tables."""
    found = []
    for at, cell in enumerate(notebook.cells):
        given = cell.get("outputs", [])
        kinds = sorted(kind for output in given for kind in output.get("data", {}))
        html = "".join(output.get("data", {}).get("text/html", "") for output in given)
        found.append((at, kinds, re.findall(r"<th[^>]*>(?:<b>)?([A-Za-z ]+)", html)))
    return found


def stored(name: str):
    return nbformat.read(notebooks.FOLDER / f"{name}.ipynb", as_version=4)


def test_there_are_notebooks_and_the_tables_that_they_read():
    assert tuple(notebooks.sources()) == NAMES
    for name, make in tables.TABLES.items():
        pd.testing.assert_frame_equal(
            pd.read_csv(notebooks.FOLDER / f"{name}.csv", keep_default_na=False, na_values={"val_loss": [""]}), make()
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_notebook_is_its_source_with_outputs(name):
    """`make notebooks` writes it; what is read on a web page needs no kernel."""
    source = notebooks.read(notebooks.sources()[name])
    found = stored(name)
    assert [(cell.cell_type, cell.source) for cell in found.cells] == [
        (cell.cell_type, cell.source) for cell in source.cells
    ]
    assert [cell.id for cell in found.cells] == [cell.id for cell in source.cells]
    assert 4 < len(found.cells) < MOST_CELLS
    assert found.cells[0].cell_type == "markdown" and found.cells[0].source.startswith("# ")
    assert all(
        cell.outputs for cell in found.cells if cell.cell_type == "code" and not cell.source.startswith("import os")
    )
    assert not any(output.output_type == "error" for cell in found.cells for output in cell.get("outputs", []))
    assert outputs(found, "text/html") and not outputs(found, "stream")


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_notebook_is_small_and_says_nothing_of_a_machine(name):
    path = notebooks.FOLDER / f"{name}.ipynb"
    text = path.read_text()
    assert len(text) < LARGEST
    without_pictures = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not MACHINE.search(without_pictures)
    assert "sys.path" not in text and not re.search(r"^\s*(from|import) analysis\.", "\n".join(code(name)), re.M)


def code(name: str) -> list[str]:
    return [cell.source for cell in stored(name).cells if cell.cell_type == "code"]


def test_the_tutorial_takes_three_lines_from_a_table_to_a_law_with_a_picture():
    lines = [line for cell in code("tutorial")[:3] for line in cell.splitlines() if line and "import" not in line]
    assignments = [line for line in lines if "=" in line or "plot" in line]
    assert len(assignments) == 3
    assert len(outputs(stored("tutorial"), "image/png")) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_shows_what_is_stored(name, monkeypatch):
    if name == "published":
        if not planted.EPOCH.exists():
            pytest.skip("the published grids are not here")
        monkeypatch.setenv("LOSSGRID_GRIDS", str(planted.GRIDS))
    done = notebooks.run(notebooks.sources()[name])
    assert shape(done) == shape(stored(name))
    for picture in outputs(done, "image/png"):
        assert len(picture) > 3000


@pytest.mark.slow
def test_a_notebook_is_written_the_same_twice(tmp_path: pathlib.Path):
    texts = []
    for turn in range(2):
        path = tmp_path / f"{turn}.ipynb"
        notebooks.write(notebooks.run(notebooks.sources()["choosing"]), path)
        texts.append(path.read_text())
    assert texts[0] == texts[1]
