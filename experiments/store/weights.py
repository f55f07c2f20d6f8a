"""Keep parameters without a run: a folder with model.json (family, options, checksums) and params.safetensors (our paths).

It is what an import leaves (experiments/convert.py) and what a run may start from. `load` reads the newest checkpoint of a run's
workdir as well. safetensors alone restores a flipped byte silently, hence the checksums.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import os
import pathlib
import shutil
from typing import Any, NamedTuple
import uuid
import zlib

from etils import epath
from jaxtyping import Float
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from experiments import files
from experiments.cli import InputError
from experiments.objects.bucket import is_remote
from experiments.run import build, stored
import models
from models import functional
from models.option import with_idle_options_unset

SCHEMA = 1  # of model.json
DTYPES = ("F32", "F16", "BF16")  # that are read; all become float32

Path = str | os.PathLike[str]
Directory = pathlib.Path | epath.Path
Params = dict[str, Float[np.ndarray, "..."]]


class Weights(NamedTuple):
    """A model: its family, its resolved Config, float32 parameters by path, its sequence length (None: unknown).

    `origin` says in words where the parameters are from.
    """

    family: str
    cfg: Any
    params: Params
    length: int | None = None
    origin: str = "model.json"


def check(params: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> Params:
    """Return the parameters as float32 numpy arrays. Raises InputError naming one that is missing, unknown or misshapen."""
    for path in sorted(params.keys() | expected.keys()):
        found = np.shape(params[path]) if path in params else None
        shape = expected.get(path)
        if found != shape:
            raise InputError(f"parameter {path} has shape {found}; expected {shape} (None: there is none)")
    checked = {}
    for path, shape in expected.items():
        array = np.ascontiguousarray(params[path], np.float32)
        checked[path] = array.reshape(shape)  # ascontiguousarray gives a scalar an axis
    return checked


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(array.data)


def save(directory: Path, family: str, cfg: Any, params: Mapping[str, Any], length: int | None = None) -> None:
    """Write a new folder. Raises InputError when it holds something, or the parameters are not those of the Config."""
    arrays = check(params, functional.param_shapes(family, cfg))
    value = {
        "schema": SCHEMA,
        "family": family,
        "model": dataclasses.asdict(cfg),
        "length": length,
        "crc32": {path: _checksum(array) for path, array in arrays.items()},
    }
    with new_folder(directory) as folder:
        save_file(arrays, folder / "params.safetensors")
        files.write_json(folder / "model.json", value)


def load(directory: Path) -> Weights:
    """Read what `save` wrote, or the newest checkpoint of a run.

    Raises InputError naming the file and the field or parameter that is missing or damaged.
    """
    directory = epath.Path(directory)
    is_run = (directory / "run.json").exists()
    path = directory / ("run.json" if is_run else "model.json")
    value = read_json(path, "expected the folder of an import, or the workdir of a run with its run.json")
    try:
        described = _describe_run(value) if is_run else _describe_import(value, path.name)
        checksums = {} if is_run else dict(value["crc32"])
        described.cfg.check(described.length or 1)
        expected = functional.param_shapes(described.family, described.cfg)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {_one_line(error)})") from error
    if not is_run:
        return described._replace(params=_read_import(directory, expected, checksums))
    # Orbax takes long to import, and imports need none of it.
    from experiments.store import stored_state

    params, step = stored_state.read_params(directory / "checkpoints", expected)
    return described._replace(params=params, origin=f"{described.origin}, step {step}")


def _describe_run(value: Mapping[str, Any]) -> Weights:
    """Return what run.json says of a model, without its parameters."""
    stored.version(value)
    run = value["run"]
    cfg = _config(run["family"], run["model"])
    return Weights(run["family"], cfg, {}, run["seq_len"], f"run {value['fingerprint']}")


def _describe_import(value: Mapping[str, Any], origin: str) -> Weights:
    """Return what model.json says of a model, without its parameters."""
    if value["schema"] != SCHEMA:
        raise InputError(f"schema {value['schema']!r} is not known; this program knows {SCHEMA}")
    cfg = _config(value["family"], value["model"])
    return Weights(value["family"], cfg, {}, value["length"], origin)


def _config(family: str, options: Mapping[str, Any]) -> Any:
    cfg = build.build(models.load(family).Config, options, "model.")
    return with_idle_options_unset(cfg)


def _read_import(directory: Directory, expected: Mapping[str, tuple[int, ...]], checksums: Mapping[str, int]) -> Params:
    """Read the parameters of an import and check them."""
    source = Tensors(directory, ["params.safetensors"])
    if differ := sorted(source.files.keys() ^ expected.keys()):
        raise InputError(f"{directory}/params.safetensors: parameter {and_more(differ)} is missing or left over")
    params = {name: source.read(name, shape) for name, shape in expected.items()}
    for name, array in params.items():
        if _checksum(array) != checksums.get(name):
            raise InputError(f"{directory}/params.safetensors: parameter {name} is damaged (its checksum differs)")
    return params


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class Tensors:
    """The tensors of the safetensors files of a folder by name, read one at a time."""

    def __init__(self, directory: Directory, names: list[str]):
        """Open the files. Raises InputError for one that is missing or cut short, or a tensor that is there twice.

        They are mapped into memory, and so have to lie on a disk.
        """
        if is_remote(directory):
            raise InputError(f"{directory}: weights are read from a disk; expected a copy of the folder there")
        self.directory = directory
        self.files: dict[str, Any] = {}
        for name in names:
            path = directory / name
            try:
                file = safe_open(os.fspath(path), framework="numpy")
                found = list(file.keys())
            except FileNotFoundError:
                raise InputError(f"{path} is missing") from None
            except (OSError, SafetensorError) as error:
                raise InputError(f"{path} is damaged or cut short ({_one_line(error)})") from error
            if twice := sorted(self.files.keys() & found):
                raise InputError(f"{path}: tensor {and_more(twice)} is in another file of the folder too")
            self.files |= dict.fromkeys(found, file)

    def read(self, name: str, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
        """Read one tensor in float32. Raises InputError when it is of another shape, or of a type that is not read."""
        file = self.files[name]
        header = file.get_slice(name)
        found = tuple(header.get_shape())
        if found != shape:
            raise InputError(f"{self.directory}: tensor {name} has shape {list(found)}; expected {list(shape)}")
        dtype = header.get_dtype()
        if dtype not in DTYPES:
            raise InputError(f"{self.directory}: tensor {name} is {dtype}; expected {', '.join(DTYPES)}")
        tensor = np.asarray(file.get_tensor(name))
        return tensor.astype(np.float32)


def and_more(names: list[str]) -> str:
    """Return the first of some names, and how many there are besides."""
    if len(names) == 1:
        return names[0]
    return f"{names[0]} (and {len(names) - 1} more)"


def read_json(path: Directory, hint: str) -> dict[str, Any]:
    """Read a JSON object. Raises InputError naming the file; `hint` says what was expected where there is none."""
    try:
        value = files.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} is missing; {hint}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON ({_one_line(error)})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}; expected a JSON object")
    return value


def check_new(directory: Path) -> pathlib.Path:
    """Return the folder as a path. Raises InputError when it holds something, or is not on a disk of this machine."""
    path = pathlib.Path(directory)
    if is_remote(directory):
        raise InputError(f"{directory} is not a local folder; expected one")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path} is there already; expected a new or an empty folder")
    return path


@contextlib.contextmanager
def new_folder(directory: Path) -> Iterator[pathlib.Path]:
    """Make a folder to fill; it gets its name when it is complete. Raises InputError when the name is taken."""
    path = check_new(directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    unfinished.mkdir()
    try:
        yield unfinished
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
