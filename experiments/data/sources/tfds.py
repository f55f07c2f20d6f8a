"""Datasets of TFDS by name: "tfds:NAME", "tfds:NAME/CONFIG", "tfds:NAME/CONFIG/VERSION".

Those on disk are read where they are. Others are fetched, or refused at once with a hint when there is no network.
"""

from collections.abc import Callable
import json
import os
import re
import threading
from typing import Any
import urllib.error
import urllib.request

from etils import epath

from experiments.data.documents import Documents
from experiments.data.origin import Origin
from experiments.data.sources import Found
from models.errors import InputError, nearest

PREFIX = "tfds:"
DEDUPLICATES = False  # a dataset is read where it is
PROBE = "https://storage.googleapis.com/tfds-data/"  # where TFDS keeps what it can download without more ado
PATIENCE = 5.0  # seconds to wait for a network; a download without one hangs for minutes


def check(name: str) -> None:
    """Check the form of the name. Raises InputError."""
    if not re.fullmatch(r"tfds:\w+(/[\w.+-]+){0,2}", name):
        raise InputError(f"data.corpus={name!r}: expected 'tfds:NAME' or 'tfds:NAME/CONFIG', such as 'tfds:wiki40b/en'")


def options(name: str, text_field: str) -> dict[str, Any]:
    """Return the field that holds the text; which dataset it is, its description says."""
    del name
    return {"text_field": text_field}


def look(name: str) -> Found:
    """Return what TFDS says of the dataset on disk. Raises InputError when it is not there or cannot be read."""
    dataset = name.removeprefix(PREFIX)
    folder = find(dataset)
    if folder is None:
        raise absent(dataset)
    described = info(folder)
    details = {"dataset": described["name"], "version": described["version"], "folder": os.fspath(folder)}
    return Found(described, details)


def obtain(name: str) -> None:
    """Fetch a dataset that is not on disk. Raises InputError when it is unknown or cannot be reached."""
    dataset = name.removeprefix(PREFIX)
    if find(dataset) is None:
        download(dataset)


def open_documents(
    origin: Origin, folder: epath.Path, text_field: str, say: Callable[[str], None]
) -> tuple[Documents, dict[str, Any]]:
    """Open the dataset where it is; nothing is written to `folder`."""
    del folder, say
    documents = Documents(epath.Path(origin.details["folder"]), text_field)
    details = {name: value for name, value in origin.details.items() if name != "folder"}
    return documents, details


# --- datasets on disk


def data_dir() -> epath.Path:
    """Return where TFDS keeps its datasets: TFDS_DATA_DIR, by default ~/tensorflow_datasets."""
    return epath.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def find(name: str) -> epath.Path | None:
    """Return the folder of a prepared dataset "NAME[/CONFIG[/VERSION]]" (its newest version), None without one.

    Raises InputError when the name leaves open which of several configurations is meant.
    """
    here = data_dir() / name
    if _is_dataset(here):
        return here
    if not here.is_dir():
        return None
    children = [child for child in here.iterdir() if child.is_dir()]
    versions = [child for child in children if _is_dataset(child)]
    if versions:
        return max(versions, key=_version)
    configs = sorted(child.name for child in children if any(map(_is_dataset, child.iterdir())))
    if len(configs) > 1:
        raise InputError(
            f"data.corpus='tfds:{name}': expected a configuration, as in 'tfds:{name}/{configs[0]}';"
            f" there are {', '.join(configs)}"
        )
    return find(f"{name}/{configs[0]}") if configs else None


def _is_dataset(folder: epath.Path) -> bool:
    return (folder / "dataset_info.json").exists()


def _version(folder: epath.Path) -> list[int]:
    """Return the parts of a version's number, to compare versions by."""
    return [int(part) if part.isdigit() else -1 for part in folder.name.split(".")]


def info(folder: epath.Path) -> dict[str, Any]:
    """Read `dataset_info.json`. Raises InputError when the dataset cannot be read without TensorFlow."""
    described = json.loads((folder / "dataset_info.json").read_text())
    if described.get("fileFormat") != "array_record":
        raise InputError(
            f"{folder}: stored as {described.get('fileFormat', 'tfrecord')}, which only TensorFlow reads; build it "
            "again with `tfds build --file_format=array_record`"
        )
    return described


def absent(name: str) -> InputError:
    """Return the error for a dataset that is not on disk."""
    return InputError(
        f"data.corpus='tfds:{name}': not in {os.fspath(data_dir())!r} and there is no network to fetch it; set"
        f" TFDS_DATA_DIR to where it is, or run `tfds build {name} --file_format=array_record` on a machine with a"
        " network and copy the result"
    )


# --- datasets on the network


def download(name: str) -> epath.Path:
    """Fetch and prepare a dataset by TFDS.

    Raises InputError for an unknown name and, within seconds, without a network.
    """
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text  # c4, wiki40b and wikipedia register themselves only here

    known = tfds.list_builders(with_community_datasets=False)
    dataset = name.split("/")[0]
    if dataset not in known:
        raise InputError(f"data.corpus='tfds:{name}': TFDS has no such dataset; {nearest(dataset, known, 'dataset')}")
    if not reachable():
        raise absent(name)
    tfds.builder(name, data_dir=data_dir(), file_format="array_record").download_and_prepare()
    found = find(name)
    if found is None:
        raise InputError(f"data.corpus='tfds:{name}': TFDS prepared it, yet it is not in {os.fspath(data_dir())!r}")
    return found


def reachable(url: str = PROBE) -> bool:
    """Ask whether a place answers at all within PATIENCE seconds; through a proxy when the environment names one."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=PATIENCE).close()
            answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)  # an answer, if not a kind one
        except OSError:
            answers.append(False)

    # In a thread of its own: resolving a name has no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE + 1)
    return bool(answers and answers[0])
