"""The notebooks run from top to bottom in a real kernel."""

import os
import pathlib

import pytest

from tests.support import planted

jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed (requirements-lab.txt)")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (requirements-lab.txt)")
pytest.importorskip("ipykernel", reason="ipykernel is not installed (requirements-lab.txt)")

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "analysis" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.read_text().startswith("# ---"))
MOST_CELLS = 40
SECONDS = 240


def run(name: str, **environment: str):
    """The notebook with its outputs."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    client = nbclient.NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(FOLDER)}})
    return client.execute(env=os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"} | environment)


def outputs(notebook, kind: str) -> list[str]:
    """What the cells gave, of a kind of content (text/html, image/svg+xml, or stream)."""
    every = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    if kind == "stream":
        return [output["text"] for output in every if output["output_type"] == "stream" and output["name"] == "stdout"]
    return [output["data"][kind] for output in every if kind in output.get("data", {})]


def test_there_are_notebooks_and_they_are_small():
    assert NAMES == ["choosing", "families", "next_runs", "published", "quickstart"]
    for name in NAMES:
        notebook = jupytext.read(FOLDER / f"{name}.py")
        assert 5 < len(notebook.cells) < MOST_CELLS
        assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")


def test_quickstart():
    done = run("quickstart")
    assert len(outputs(done, "image/svg+xml")) == 3
    tables = outputs(done, "text/html")
    assert any("exponent_N" in text for text in tables) and any("tokens_per_param" in text for text in tables)
    assert "starts agree" in "".join(outputs(done, "stream"))


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param("nowhere"),
        pytest.param(
            planted.GRIDS,
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(not planted.EPOCH.exists(), reason="the published grids are not here"),
            ],
        ),
    ],
)
def test_published(folder):
    done = run("published", LOSSGRID_GRIDS=str(folder))
    if folder == "nowhere":
        assert "chinchilla_epoch.csv is not here" in "".join(outputs(done, "stream"))
    else:
        assert len(outputs(done, "image/svg+xml")) == 1
        assert any("published" in text and "alpha" in text for text in outputs(done, "text/html"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pictures"), [("choosing", 1), ("next_runs", 0), ("families", 1)])
def test_the_other_notebooks(name, pictures):
    done = run(name)
    assert len(outputs(done, "image/svg+xml")) == pictures
    assert outputs(done, "text/html")
