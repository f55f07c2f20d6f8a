"""Run the notebooks and write them with their outputs, so that they can be read where nothing is installed.

    python -m analysis.notebooks                      all of them: `make notebooks`
    python -m analysis.notebooks tutorial ladder      some

A notebook is written as NAME.py, cell by cell (jupytext's percent format), which is what is edited, linted and reviewed;
NAME.ipynb is made from it and holds the outputs.
"""

import argparse
import importlib
import os
import pathlib
import shutil
import sys
import tempfile
from typing import Any

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parents[1]
FIRST_LINE = "# ---"  # of a notebook's source
SECONDS = 600  # that one cell may take
NEEDS = {"published": "LOSSGRID_GRIDS"}  # notebooks about files that are not part of the project: the folder of them


def sources() -> dict[str, pathlib.Path]:
    """Return the notebooks by name."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        if path.read_text().startswith(FIRST_LINE):
            found[path.stem] = path
    return found


def tool(name: str) -> Any:
    """Return a library of notebooks, which nothing else needs. Ends the program where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        sys.exit(f"error: {name} is not installed; pip install -r requirements-lab.txt")


def read(path: pathlib.Path) -> Any:
    """Return a notebook (nbformat's NotebookNode) without outputs; its cells are named by their place.

    A name by chance would make every rebuild another file.
    """
    notebook = tool("jupytext").read(path)
    for place, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{place}"
        cell["metadata"] = {}
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def run(path: pathlib.Path) -> Any:
    """Return a notebook with its outputs. It runs in a folder of its own, beside copies of the tables."""
    nbclient = tool("nbclient")
    notebook = read(path)
    with tempfile.TemporaryDirectory() as folder:
        for table in FOLDER.glob("*.csv"):
            shutil.copy(table, folder)
        client = nbclient.NotebookClient(
            notebook,
            timeout=SECONDS,
            startup_timeout=SECONDS,
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        # Where the project is installed nothing of this is needed; here the kernel finds it as Python finds packages.
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        client.execute(env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"})
    # The version of Python is no part of what the notebook says.
    notebook["metadata"]["language_info"] = {"name": "python"}
    return notebook


def write(notebook: Any, path: pathlib.Path) -> None:
    """Write a notebook as .ipynb."""
    nbformat = tool("nbformat")
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook) + "\n")


def main() -> None:
    """Run the notebooks that are named, or all, and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    known = sources()
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; by default all")
    names = parser.parse_args().names
    for name in names:
        if name not in known:
            parser.error(f"NAME: {name!r} is not a notebook; expected one of {', '.join(known)}")
    for name in names or known:
        needed = NEEDS.get(name)
        if needed is not None and needed not in os.environ:
            print(f"left as it is: {name}.ipynb ({needed} names no folder)")
            continue
        target = known[name].with_suffix(".ipynb")
        write(run(known[name]), target)
        print(f"written: {target.relative_to(ROOT)} ({target.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
