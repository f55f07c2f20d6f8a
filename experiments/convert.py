"""Import and export of Hugging Face checkpoints: config.json and *.safetensors.

    python -m experiments.convert import --source=HF --out=MODEL    # Hugging Face to model.json and params.safetensors
    python -m experiments.convert export --source=MODEL --out=HF    # that, or the workdir of a run, to Hugging Face

Both directions follow the tables of models/convert/hf_layouts.py. What a table cannot say is refused: a model that loads with
an option left out computes something else without a word. Tokenizers are not translated.
"""

from collections.abc import Callable, Mapping
import math
import os
import pathlib
import re
from typing import Any

from absl import flags
import numpy as np
from safetensors.numpy import save_file

from experiments import cli, files
from experiments.cli import InputError, nearest
from experiments.run import build, identity
from experiments.store import weights
from experiments.store.weights import Params, Path, Tensors
import models
from models import functional
from models.convert.hf_layouts import LAYOUTS, REQUIRED, Layout

# Options that do not change what given parameters compute under the standard parametrization, the only one that other
# code has (besides those marked so: models/option.py).
_OF_TRAINING = {"init", "init_std", "dtype", "base_width", "base_depth", "base_head_size", "depth_alpha"}


def _flat(config: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """The config with what lies in rope_parameters (transformers 5) or rope_scaling (4) brought to the top."""
    out = dict(config)
    for section in ("rope_parameters", "rope_scaling"):
        nested = out.pop(section, None) or {}
        if not isinstance(nested, dict):
            raise InputError(f"{path}: {section}={nested!r}; expected an object")
        for name, value in nested.items():
            key = "rope_type" if name == "type" else name
            if key not in ("rope_type", "rope_theta", "partial_rotary_factor"):
                kind = nested.get("rope_type", nested.get("type"))
                raise InputError(f"{path}: {section} has {name} (rope_type={kind!r}); expected unscaled positions")
            if out.setdefault(key, value) != value:
                raise InputError(f"{path}: {section}.{name}={value!r}, but elsewhere it is {out[key]!r}")
    if isinstance(kinds := out.get("layer_types"), list):
        out["layer_types"] = next((kind for kind in kinds if kind != "full_attention"), "full_attention")
    return out


def _options(layout: Layout, config: Mapping[str, Any], path: pathlib.Path) -> Any:
    """The family's resolved Config. Raises InputError naming the key for what it cannot say."""
    flat, values = _flat(config, path), dict(layout.implied)
    for name, expected in layout.fixed.items():
        if (value := flat.get(name, expected)) != expected:
            raise InputError(f"{path}: {name}={value!r}; expected {expected!r}: family {layout.family!r} has no other")
    for option, key in layout.keys.items():
        value = flat.get(key.name, key.missing)
        if value is REQUIRED:
            raise InputError(f"{path}: {key.name} is missing")
        if key.values is not None:
            if not isinstance(value, str) or value not in key.values:
                raise InputError(f"{path}: {key.name}={value!r}; expected one of {', '.join(key.values)}")
            value = key.values[value]
        values[option] = value
    try:
        cfg = build.build(models.load(layout.family).Config, values, "model.")
        cfg.check(1)
    except InputError as error:
        theirs = {f"model.{option}": key.name for option, key in layout.keys.items()}
        text = re.sub(r"model\.\w+", lambda found: theirs.get(found[0], found[0]), str(error))
        raise InputError(f"{path}: {text}") from None
    return cfg.resolve(cfg.vocab, 1)


def read_config(directory: Path) -> tuple[Layout, Any, int | None]:
    """Layout, resolved Config and sequence length (None: unknown) of a Hugging Face checkpoint.

    Raises InputError naming the file and the key that is missing, unreadable, or says what the family cannot compute.
    """
    path = pathlib.Path(directory) / "config.json"
    config = weights.read_json(path, "expected a Hugging Face checkpoint")
    named = config.get("architectures")
    name = named[0] if isinstance(named, list) and named else config.get("model_type")
    layout = next((layout for layout in LAYOUTS if name in (layout.architecture, layout.model_type)), None)
    if layout is None:
        known = ", ".join(layout.architecture for layout in LAYOUTS)
        raise InputError(f"{path}: architectures={name!r} is not known; known: {known}")
    cfg = _options(layout, config, path)
    length = config.get(layout.length)
    return layout, cfg, length if isinstance(length, int) else None


def _compose(layout: Layout, cfg: Any, length: int | None) -> dict[str, Any]:
    """The config.json of a resolved Config."""
    config: dict[str, Any] = {"architectures": [layout.architecture], "model_type": layout.model_type}
    config |= {layout.length: length} if length else {}
    for option, key in layout.keys.items():
        config[key.name] = value = getattr(cfg, option)
        if key.values is not None:  # one that the architecture does not know is found when it is read back
            config[key.name] = next((t for t, o in key.values.items() if o == value), next(iter(key.values)))
    config |= {name: value for name, value in layout.fixed.items() if value is not None} | layout.written
    if "rope_theta" in config:  # nested for transformers 5, at the top for 4
        del config["partial_rotary_factor"]
        config["rope_parameters"] = {"rope_type": config.pop("rope_type"), "rope_theta": config["rope_theta"]}
        config["layer_types"] = [config["layer_types"]] * cfg.depth
    return config | {"dtype": "float32"}


def _lost(layout: Layout, cfg: Any) -> list[str]:
    """Options that do not survive the way to config.json and back, with what they are there."""
    cfg = layout.canonical(cfg)
    try:
        back = _options(layout, _compose(layout, cfg, None), pathlib.Path("config.json"))
    except InputError as error:
        return [str(error)]
    matter = (
        {path for path, _, meta in identity.leaves(cfg) if meta.get("numerics", True)} - _OF_TRAINING - {*layout.idle}
    )
    return [
        f"model.{name}={getattr(cfg, name)!r} is {getattr(back, name)!r} there"
        for name in sorted(matter)
        if getattr(cfg, name) != getattr(back, name)
    ]


def layout_of(family: str, cfg: Any) -> Layout:
    """The architecture that computes what a resolved Config does. Raises InputError naming what none of them has."""
    of_family = [layout for layout in LAYOUTS if layout.family == family]
    if not of_family:
        known = ", ".join(sorted({layout.family for layout in LAYOUTS}))
        raise InputError(f"family={family!r} has no Hugging Face architecture; families that have one: {known}")
    lost, layout = min(((_lost(layout, cfg), layout) for layout in of_family), key=lambda pair: len(pair[0]))
    if lost:
        raise InputError(f"no Hugging Face architecture fits; the nearest is {layout.architecture}: {'; '.join(lost)}")
    return layout


def _open(directory: pathlib.Path) -> Tensors:
    """The files of a checkpoint: those that the index names, or the only one."""
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        found = sorted(path.name for path in directory.glob("*.safetensors"))
        names = ["model.safetensors"] if "model.safetensors" in found else found
        if len(names) != 1:
            raise InputError(f"{directory} has {len(names)} .safetensors files and no {index.name}; expected one file")
        return Tensors(directory, names)
    where = weights.read_json(index, "").get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(n, str) and n == os.path.basename(n) for n in where.values()):
        raise InputError(f"{index}: weight_map is not an object from tensors to file names")
    source = Tensors(directory, sorted(set(where.values())))
    if absent := sorted(where.keys() - source.files.keys()):
        raise InputError(f"{index}: tensor {weights.and_more(absent)} is not in {where[absent[0]]}")
    return source


def load_hf(directory: Path) -> tuple[str, Any, Params]:
    """Family, resolved Config and float32 parameters by path of a Hugging Face checkpoint.

    Raises InputError, one line with the key or tensor, for whatever is missing, left over, or of another shape.
    """
    directory = pathlib.Path(directory)
    layout, cfg, _ = read_config(directory)
    source = _open(directory)

    def stored(name: str) -> str:
        return name if name in source.files else name.removeprefix(layout.prefix)

    shapes = functional.param_shapes(layout.family, cfg)
    needed = {name for path, shape in shapes.items() for _, name, _ in layout.tensors[path].pieces(shape)}
    if missing := sorted(name for name in needed if stored(name) not in source.files):
        raise InputError(f"{directory}: tensor {weights.and_more(missing)} is missing")
    left = source.files.keys() - {stored(name) for name in needed}
    head = layout.tensors["head/kernel"].name
    if extra := sorted(name for name in left if name != head and not re.search(layout.inert, name)):
        raise InputError(f"{directory}: tensor {weights.and_more(extra)} is none of {layout.architecture}'s")
    params: Params = {}
    for path, shape in shapes.items():
        tensor = layout.tensors[path]
        params[path] = np.empty(shape, np.float32)
        for index, name, whole in tensor.pieces(shape):
            piece = np.split(source.read(stored(name), whole), tensor.parts, axis=-1)[tensor.part]
            params[path][index] = piece.T if tensor.transpose else piece
    # Some checkpoints keep a copy of tied embeddings as a head. One that differs would be lost.
    if head in left and not np.array_equal(source.read(head, shapes["embed"]), params["embed"]):
        raise InputError(
            f"{directory}: tensor {head} differs from the embeddings, which config.json says are tied to it"
        )
    return layout.family, cfg, params


def save_hf(directory: Path, family: str, cfg: Any, params: Mapping[str, Any], length: int | None = None) -> Layout:
    """Write config.json and model.safetensors (float32) into a new folder; returns the architecture's layout.

    `length` goes to max_position_embeddings, which rotary models do not compute with. Raises InputError when no
    architecture computes this Config, or the parameters are not those of it.
    """
    layout, tensors = layout_of(family, cfg), {}
    for path, array in weights.check(params, functional.param_shapes(family, cfg)).items():
        tensor = layout.tensors[path]
        for index, name, _ in tensor.pieces(array.shape):
            tensors.setdefault(name, {})[tensor.part] = array[index].T if tensor.transpose else array[index]
    whole = {n: np.ascontiguousarray(np.concatenate([p[i] for i in sorted(p)], axis=-1)) for n, p in tensors.items()}
    with weights.new_folder(directory) as folder:
        save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
        files.write_json(folder / "config.json", _compose(layout, layout.canonical(cfg), length))
    return layout


def _import(source: str, out: str) -> str:
    layout, _, length = read_config(source)
    family, cfg, params = load_hf(source)
    weights.save(out, family, cfg, params, length)
    return f"imported {layout.architecture} as family {family!r} to {out}: {_count(params):,} parameters"


def _export(source: str, out: str) -> str:
    family, cfg, params, length, origin = weights.load(source)
    layout = save_hf(out, family, cfg, params, length)
    return f"exported {source} ({origin}) as {layout.architecture} to {out}: {_count(params):,} parameters"


def _count(params: Params) -> int:
    return sum(math.prod(array.shape) for array in params.values())


COMMANDS: dict[str, Callable[[str, str], str]] = {"import": _import, "export": _export}


def main(arguments: list[str]) -> int:
    """The command line."""
    given = " ".join(arguments)
    if given not in COMMANDS:
        raise InputError(f"expected import or export, got {given!r}; {nearest(given, COMMANDS, 'command')}")
    weights.check_new(flags.FLAGS.out)
    print(COMMANDS[given](flags.FLAGS.source, flags.FLAGS.out))
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("source", None, "import: a Hugging Face checkpoint; export: an import, or the workdir of a run")
    flags.DEFINE_string("out", None, "folder to write; it must be new or empty")
    cli.run(main, ["source", "out"])
