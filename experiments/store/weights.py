"""Parameters without a run: a folder with model.json (family, options, checksums) and params.safetensors (our paths).

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

from jaxtyping import Float
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from experiments import files
from experiments.cli import InputError
from experiments.run import build, stored
import models
from models import functional
from models.option import with_idle_options_unset

SCHEMA = 1  # of model.json
DTYPES = ("F32", "F16", "BF16")  # that are read; all become float32

Path = str | os.PathLike[str]
Params = dict[str, Float[np.ndarray, "..."]]


class Weights(NamedTuple):
    """A model: its family, its resolved Config, float32 parameters by path, its sequence length (None: unknown)."""

    family: str
    cfg: Any
    params: Params
    length: int | None = None
    origin: str = "model.json"


def check(params: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> Params:
    """The parameters as float32 numpy arrays. Raises InputError naming one that is missing, unknown or misshapen."""
    for path in sorted(params.keys() | expected.keys()):
        found, shape = np.shape(params[path]) if path in params else None, expected.get(path)
        if found != shape:
            raise InputError(f"parameter {path} has shape {found}; expected {shape} (None: there is none)")
    return {path: np.ascontiguousarray(params[path], np.float32).reshape(shape) for path, shape in expected.items()}


def save(directory: Path, family: str, cfg: Any, params: Mapping[str, Any], length: int | None = None) -> None:
    """Write a new folder. Raises InputError when it holds something, or the parameters are not those of the Config."""
    arrays = check(params, functional.param_shapes(family, cfg))
    sealed = {path: zlib.crc32(array) for path, array in arrays.items()}
    value = {"schema": SCHEMA, "family": family, "model": dataclasses.asdict(cfg), "length": length, "crc32": sealed}
    with new_folder(directory) as folder:
        save_file(arrays, folder / "params.safetensors")
        files.write_json(folder / "model.json", value)


def load(directory: Path) -> Weights:
    """What `save` wrote, or the newest checkpoint of a run.

    Raises InputError naming the file and the field or parameter that is missing or damaged.
    """
    directory = pathlib.Path(directory)
    of_run = (directory / "run.json").exists()
    path = directory / ("run.json" if of_run else "model.json")
    value = read_json(path, "expected the folder of an import, or the workdir of a run with its run.json")
    try:
        if of_run:
            stored.version(value)
        elif value["schema"] != SCHEMA:
            raise InputError(f"schema {value['schema']!r} is not known; this program knows {SCHEMA}")
        run = value["run"] if of_run else value
        family, length = run["family"], run["seq_len" if of_run else "length"]
        sealed = {} if of_run else dict(value["crc32"])
        cfg = with_idle_options_unset(build.build(models.load(family).Config, run["model"], "model."))
        cfg.check(1)
        expected = functional.param_shapes(family, cfg)
        origin = f"run {value['fingerprint']}" if of_run else path.name
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {' '.join(str(error).split())})") from error
    if of_run:
        from experiments.store import checkpoint

        params, at = checkpoint.read_params(directory / "checkpoints", expected)
        return Weights(family, cfg, params, length, f"{origin}, step {at}")
    source = Tensors(directory, ["params.safetensors"])
    if differ := sorted(source.files.keys() ^ expected.keys()):
        raise InputError(f"{directory}/params.safetensors: parameter {and_more(differ)} is missing or left over")
    params = {name: source.read(name, shape) for name, shape in expected.items()}
    for name, array in params.items():
        if zlib.crc32(array) != sealed.get(name):
            raise InputError(f"{directory}/params.safetensors: parameter {name} is damaged (its checksum differs)")
    return Weights(family, cfg, params, length, origin)


class Tensors:
    """The tensors of the safetensors files of a folder by name, read one at a time."""

    def __init__(self, directory: pathlib.Path, names: list[str]):
        """Open the files. Raises InputError for one that is missing or cut short, or a tensor that is there twice."""
        self.directory, self.files = directory, {}
        for name in names:
            path = directory / name
            try:
                file = safe_open(os.fspath(path), framework="numpy")
                found = list(file.keys())
            except FileNotFoundError:
                raise InputError(f"{path} is missing") from None
            except (OSError, SafetensorError) as error:
                raise InputError(f"{path} is damaged or cut short ({' '.join(str(error).split())})") from error
            if twice := sorted(self.files.keys() & found):
                raise InputError(f"{path}: tensor {and_more(twice)} is in another file of the folder too")
            self.files |= dict.fromkeys(found, file)

    def read(self, name: str, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
        """One tensor in float32. Raises InputError when it is of another shape, or of a type that is not read."""
        piece = self.files[name].get_slice(name)
        if tuple(piece.get_shape()) != shape:
            found = list(piece.get_shape())
            raise InputError(f"{self.directory}: tensor {name} has shape {found}; expected {list(shape)}")
        if piece.get_dtype() not in DTYPES:
            raise InputError(f"{self.directory}: tensor {name} is {piece.get_dtype()}; expected {', '.join(DTYPES)}")
        return np.asarray(self.files[name].get_tensor(name)).astype(np.float32)


def and_more(names: list[str]) -> str:
    """The first of some names, and how many there are besides."""
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")


def read_json(path: pathlib.Path, hint: str) -> dict[str, Any]:
    """A JSON object. Raises InputError naming the file; `hint` says what was expected where there is none."""
    try:
        value = files.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} is missing; {hint}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON ({' '.join(str(error).split())})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}; expected a JSON object")
    return value


def check_new(directory: Path) -> pathlib.Path:
    """The folder as a path. Raises InputError when it holds something, or is not on a disk of this machine."""
    path = pathlib.Path(directory)
    if "://" in os.fspath(directory):
        raise InputError(f"{directory} is not a local folder; expected one")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path} is there already; expected a new or an empty folder")
    return path


@contextlib.contextmanager
def new_folder(directory: Path) -> Iterator[pathlib.Path]:
    """A folder to fill; it gets its name when it is complete. Raises InputError when the name is taken."""
    path = check_new(directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    part.mkdir()
    try:
        yield part
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
