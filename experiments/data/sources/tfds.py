"""TFDS datasets by name: where they are on disk, and a fast refusal with a hint when they are not to be had."""

import json
import os
import threading
from typing import Any
import urllib.error
import urllib.request

from etils import epath

from experiments.cli import InputError, nearest

PROBE = "https://storage.googleapis.com/tfds-data/"  # where TFDS keeps what it can download without more ado
PATIENCE = 5.0  # seconds to wait for a network; a download without one hangs for minutes


def data_dir() -> epath.Path:
    """Where TFDS keeps its datasets: TFDS_DATA_DIR, by default ~/tensorflow_datasets."""
    return epath.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def find(name: str) -> epath.Path | None:
    """The folder of a prepared dataset "NAME[/CONFIG[/VERSION]]" (its newest version), None when it is not on disk.

    Raises InputError when the name leaves open which of several configurations is meant.
    """
    here = data_dir() / name
    if (here / "dataset_info.json").exists():
        return here
    if not here.is_dir():
        return None
    children = [child for child in here.iterdir() if child.is_dir()]
    versions = [child for child in children if (child / "dataset_info.json").exists()]
    if versions:
        return max(versions, key=lambda child: [int(part) if part.isdigit() else -1 for part in child.name.split(".")])
    configs = sorted(
        child.name for child in children if any((v / "dataset_info.json").exists() for v in child.iterdir())
    )
    if len(configs) > 1:
        raise InputError(
            f"data.corpus='tfds:{name}': expected a configuration, as in 'tfds:{name}/{configs[0]}';"
            f" there are {', '.join(configs)}"
        )
    return find(f"{name}/{configs[0]}") if configs else None


def info(folder: epath.Path) -> dict[str, Any]:
    """What `dataset_info.json` says. Raises InputError when the files cannot be read without TensorFlow."""
    value = json.loads((folder / "dataset_info.json").read_text())
    if value.get("fileFormat") != "array_record":
        raise InputError(
            f"{folder}: stored as {value.get('fileFormat', 'tfrecord')}, which only TensorFlow reads; build it again"
            " with `tfds build --file_format=array_record`"
        )
    return value


def absent(name: str) -> InputError:
    """What to say when a dataset is not on disk."""
    return InputError(
        f"data.corpus='tfds:{name}': not in {os.fspath(data_dir())!r} and there is no network to fetch it; set"
        f" TFDS_DATA_DIR to where it is, or run `tfds build {name} --file_format=array_record` on a machine with a"
        " network and copy the result"
    )


def download(name: str) -> epath.Path:
    """Fetch and prepare a dataset by TFDS.

    Raises InputError for an unknown name and, within seconds, without a network.
    """
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text  # c4, wiki40b and wikipedia register themselves only here

    known = tfds.list_builders(with_community_datasets=False)
    if name.split("/")[0] not in known:
        raise InputError(
            f"data.corpus='tfds:{name}': TFDS has no such dataset; {nearest(name.split('/')[0], known, 'dataset')}"
        )
    if not reachable():
        raise absent(name)
    tfds.builder(name, data_dir=data_dir(), file_format="array_record").download_and_prepare()
    found = find(name)
    if found is None:
        raise InputError(f"data.corpus='tfds:{name}': TFDS prepared it, yet it is not in {os.fspath(data_dir())!r}")
    return found


def reachable(url: str = PROBE) -> bool:
    """Whether the place answers at all within `PATIENCE` seconds; through a proxy when the environment names one."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE).close()
            answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)  # an answer, if not a kind one
        except OSError:
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)  # resolving a name has no time limit of its own
    thread.start()
    thread.join(PATIENCE + 1)
    return bool(answers and answers[0])
