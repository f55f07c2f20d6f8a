"""Import and export Hugging Face checkpoints: config.json and *.safetensors.

    python -m experiments.convert import --source=HF --out=MODEL    # Hugging Face to model.json and params.safetensors
    python -m experiments.convert export --source=MODEL --out=HF    # that, or the workdir of a run, to Hugging Face

Both directions follow the tables of models/convert/hf_layouts.py. What a table cannot say is refused: a model that loads with
an option left out computes something else without a word. Tokenizers are not translated.
"""

from collections.abc import Callable, Mapping, Set
import os
import pathlib
import re
from typing import Any

from absl import flags
import numpy as np
from safetensors.numpy import save_file

from experiments import cli, files
from experiments.run import build, identity
from experiments.store import weights
from experiments.store.weights import Params, Path, Tensors
import models
from models import functional
from models.convert.hf_layouts import LAYOUTS, REQUIRED, Key, Layout
from models.errors import InputError, nearest

Content = Mapping[str, Any]  # of a config.json
Shapes = Mapping[str, tuple[int, ...]]  # of parameters by path

# Options that do not change what given parameters compute under the standard parametrization, the only one that other
# code has (besides those marked so: models/option.py).
_OF_TRAINING = {"init", "init_std", "dtype", "base_width", "base_depth", "base_head_size", "depth_alpha"}


def _flat(config: Content, path: pathlib.Path) -> dict[str, Any]:
    """Bring what lies in rope_parameters (transformers 5) or rope_scaling (4) to the top of the config."""
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
    kinds = out.get("layer_types")
    if isinstance(kinds, list):  # one a layer: any other than full attention stands for all
        others = [kind for kind in kinds if kind != "full_attention"]
        out["layer_types"] = others[0] if others else "full_attention"
    return out


def _options(layout: Layout, config: Content, path: pathlib.Path) -> Any:
    """Return the family's resolved Config. Raises InputError naming the key for what it cannot say."""
    flat = _flat(config, path)
    for name, expected in layout.fixed.items():
        value = flat.get(name, expected)
        if value != expected:
            raise InputError(f"{path}: {name}={value!r}; expected {expected!r}: family {layout.family!r} has no other")
    values = dict(layout.implied)
    for option, key in layout.keys.items():
        theirs = flat.get(key.name, key.missing)
        values[option] = _translated(key, theirs, path)
    try:
        family = models.load(layout.family)
        cfg = build.build(family.Config, values, "model.")
        cfg.check(1)
    except InputError as error:
        raise InputError(f"{path}: {_in_their_words(str(error), layout)}") from None
    return cfg.resolve(cfg.vocab, 1)


def _translated(key: Key, value: Any, path: pathlib.Path) -> Any:
    """Return the value of our option for one of theirs. Raises InputError when it is missing or not known."""
    if value is REQUIRED:
        raise InputError(f"{path}: {key.name} is missing")
    if key.values is None:
        return value
    if not isinstance(value, str) or value not in key.values:
        raise InputError(f"{path}: {key.name}={value!r}; expected one of {', '.join(key.values)}")
    return key.values[value]


def _in_their_words(text: str, layout: Layout) -> str:
    """Return an error's text with the keys of config.json in the place of our options."""
    theirs = {f"model.{option}": key.name for option, key in layout.keys.items()}

    def translate(found: re.Match[str]) -> str:
        return theirs.get(found[0], found[0])

    return re.sub(r"model\.\w+", translate, text)


def read_config(directory: Path) -> tuple[Layout, Any, int | None]:
    """Return layout, resolved Config and sequence length (None: unknown) of a Hugging Face checkpoint.

    Raises InputError naming the file and the key that is missing, unreadable, or says what the family cannot compute.
    """
    path = pathlib.Path(directory) / "config.json"
    config = weights.read_json(path, "expected a Hugging Face checkpoint")
    named = config.get("architectures")
    name = named[0] if isinstance(named, list) and named else config.get("model_type")
    layout = _layout_named(name, path)
    cfg = _options(layout, config, path)
    length = config.get(layout.length)
    return layout, cfg, length if isinstance(length, int) else None


def _layout_named(name: Any, path: pathlib.Path) -> Layout:
    """Return the layout of an architecture or a model type. Raises InputError for an unknown one."""
    for layout in LAYOUTS:
        if name in (layout.architecture, layout.model_type):
            return layout
    known = ", ".join(layout.architecture for layout in LAYOUTS)
    raise InputError(f"{path}: architectures={name!r} is not known; known: {known}")


def _compose(layout: Layout, cfg: Any, length: int | None) -> dict[str, Any]:
    """Return the config.json of a resolved Config."""
    config: dict[str, Any] = {"architectures": [layout.architecture], "model_type": layout.model_type}
    if length:
        config[layout.length] = length
    for option, key in layout.keys.items():
        value = getattr(cfg, option)
        config[key.name] = value if key.values is None else _their_name(key.values, value)
    for name, value in layout.fixed.items():
        if value is not None:
            config[name] = value
    config |= layout.written
    theta = config.get("rope_theta")
    if theta is not None:
        # Nested for transformers 5, at the top for 4.
        del config["partial_rotary_factor"]
        rope_type = config.pop("rope_type")
        config["rope_parameters"] = {"rope_type": rope_type, "rope_theta": theta}
        config["layer_types"] = [config["layer_types"]] * cfg.depth
    return config | {"dtype": "float32"}


def _their_name(values: Mapping[str, str], ours: Any) -> str:
    """Return their name of one of our choices.

    One that they do not know becomes their first: `_lost` finds the difference when it reads the config back.
    """
    for name, choice in values.items():
        if choice == ours:
            return name
    return next(iter(values))


def _lost(layout: Layout, cfg: Any) -> list[str]:
    """Return the options that do not survive the way to config.json and back, with what they are there."""
    cfg = layout.canonical(cfg)
    try:
        back = _options(layout, _compose(layout, cfg, None), pathlib.Path("config.json"))
    except InputError as error:
        return [str(error)]
    lost = []
    for name, here, metadata in sorted(identity.leaves(cfg), key=lambda leaf: leaf[0]):
        of_computation = metadata.get("numerics", True) and name not in _OF_TRAINING
        there = getattr(back, name)
        if of_computation and name not in layout.idle and here != there:
            lost.append(f"model.{name}={here!r} is {there!r} there")
    return lost


def layout_of(family: str, cfg: Any) -> Layout:
    """Return the architecture that computes what a resolved Config does.

    Raises InputError naming what none of them has.
    """
    of_family = [layout for layout in LAYOUTS if layout.family == family]
    if not of_family:
        known = ", ".join(sorted({layout.family for layout in LAYOUTS}))
        raise InputError(f"family={family!r} has no Hugging Face architecture; families that have one: {known}")
    candidates = [(_lost(layout, cfg), layout) for layout in of_family]
    lost, layout = min(candidates, key=lambda candidate: len(candidate[0]))
    if lost:
        raise InputError(f"no Hugging Face architecture fits; the nearest is {layout.architecture}: {'; '.join(lost)}")
    return layout


def _open(directory: pathlib.Path) -> Tensors:
    """Open the files of a checkpoint: those that the index names, or the only one."""
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        found = sorted(path.name for path in directory.glob("*.safetensors"))
        names = ["model.safetensors"] if "model.safetensors" in found else found
        if len(names) != 1:
            raise InputError(f"{directory} has {len(names)} .safetensors files and no {index.name}; expected one file")
        return Tensors(directory, names)
    content = weights.read_json(index, "")
    where = content.get("weight_map")
    if not isinstance(where, dict) or not all(map(_is_file_name, where.values())):
        raise InputError(f"{index}: weight_map is not an object from tensors to file names")
    names = sorted(set(where.values()))
    source = Tensors(directory, names)
    absent = sorted(name for name in where if name not in source.files)
    if absent:
        raise InputError(f"{index}: tensor {weights.and_more(absent)} is not in {where[absent[0]]}")
    return source


def _is_file_name(value: Any) -> bool:
    """Tell whether a value names a file of the same folder."""
    return isinstance(value, str) and value == os.path.basename(value)


def load_hf(directory: Path) -> tuple[str, Any, Params]:
    """Return family, resolved Config and float32 parameters by path of a Hugging Face checkpoint.

    Raises InputError, one line with the key or tensor, for whatever is missing, left over, or of another shape.
    """
    directory = pathlib.Path(directory)
    layout, cfg, _ = read_config(directory)
    source = _open(directory)
    shapes = functional.param_shapes(layout.family, cfg)
    left = _check_names(directory, layout, source, shapes)
    params = {path: _read(layout, source, path, shape) for path, shape in shapes.items()}
    # Some checkpoints keep a copy of tied embeddings as a head. One that differs would be lost.
    head = layout.tensors["head/kernel"].name
    if head in left:
        copy = source.read(head, shapes["embed"])
        if not np.array_equal(copy, params["embed"]):
            raise InputError(
                f"{directory}: tensor {head} differs from the embeddings, which config.json says are tied to it"
            )
    return layout.family, cfg, params


def _check_names(directory: pathlib.Path, layout: Layout, source: Tensors, shapes: Shapes) -> Set[str]:
    """Check that every tensor is there and no other one. Returns the names of those that are no parameter's."""
    needed = set()
    for path, shape in shapes.items():
        for _, name, _ in layout.tensors[path].pieces(shape):
            needed.add(name)
    stored = {name: _stored_name(layout, source, name) for name in needed}
    missing = sorted(name for name in needed if stored[name] not in source.files)
    if missing:
        raise InputError(f"{directory}: tensor {weights.and_more(missing)} is missing")
    left = source.files.keys() - stored.values()
    head = layout.tensors["head/kernel"].name
    extra = sorted(name for name in left if name != head and not re.search(layout.inert, name))
    if extra:
        raise InputError(f"{directory}: tensor {weights.and_more(extra)} is none of {layout.architecture}'s")
    return left


def _stored_name(layout: Layout, source: Tensors, name: str) -> str:
    """Return a tensor's name in the files: those of a body that was saved without a head lack the prefix."""
    if name in source.files:
        return name
    return name.removeprefix(layout.prefix)


def _read(layout: Layout, source: Tensors, path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Read one parameter from the tensors that hold it."""
    tensor = layout.tensors[path]
    parameter = np.empty(shape, np.float32)
    for index, name, whole in tensor.pieces(shape):
        stored = source.read(_stored_name(layout, source, name), whole)
        parts = np.split(stored, tensor.parts, axis=-1)
        piece = parts[tensor.part]
        parameter[index] = piece.T if tensor.transpose else piece
    return parameter


def save_hf(directory: Path, family: str, cfg: Any, params: Mapping[str, Any], length: int | None = None) -> Layout:
    """Write config.json and model.safetensors (float32) into a new folder; returns the architecture's layout.

    `length` goes to max_position_embeddings, which rotary models do not compute with. Raises InputError when no
    architecture computes this Config, or the parameters are not those of it.
    """
    layout = layout_of(family, cfg)
    checked = weights.check(params, functional.param_shapes(family, cfg))
    # Their tensor -> its parts by number: several of our parameters may lie side by side in one of theirs.
    parts: dict[str, dict[int, np.ndarray]] = {}
    for path, array in checked.items():
        tensor = layout.tensors[path]
        for index, name, _ in tensor.pieces(array.shape):
            piece = array[index]
            of_tensor = parts.setdefault(name, {})
            of_tensor[tensor.part] = piece.T if tensor.transpose else piece
    tensors = {}
    for name, pieces in parts.items():
        in_order = [pieces[number] for number in sorted(pieces)]
        tensors[name] = np.ascontiguousarray(np.concatenate(in_order, axis=-1))
    with weights.new_folder(directory) as folder:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        files.write_json(folder / "config.json", _compose(layout, layout.canonical(cfg), length))
    return layout


# --- the command


def _import(source: str, out: str) -> str:
    """Import a checkpoint, and return a line that says so."""
    layout, _, length = read_config(source)
    family, cfg, params = load_hf(source)
    weights.save(out, family, cfg, params, length)
    return f"imported {layout.architecture} as family {family!r} to {out}: {_count(params):,} parameters"


def _export(source: str, out: str) -> str:
    """Export a model, and return a line that says so."""
    family, cfg, params, length, origin = weights.load(source)  # of an import, or a run's newest checkpoint
    layout = save_hf(out, family, cfg, params, length)
    return f"exported {source} ({origin}) as {layout.architecture} to {out}: {_count(params):,} parameters"


def _count(params: Params) -> int:
    """Return how many numbers the parameters are."""
    sizes = [array.size for array in params.values()]
    return sum(sizes)


COMMANDS: dict[str, Callable[[str, str], str]] = {"import": _import, "export": _export}


def main(arguments: list[str]) -> int:
    """Run the command line."""
    given = " ".join(arguments)
    if given not in COMMANDS:
        raise InputError(f"expected import or export, got {given!r}; {nearest(given, COMMANDS, 'command')}")
    weights.check_new(flags.FLAGS.out)
    command = COMMANDS[given]
    print(command(flags.FLAGS.source, flags.FLAGS.out))
    return 0


if __name__ == "__main__":
    cli.define_path("source", None, "import: a Hugging Face checkpoint; export: an import, or the workdir of a run")
    cli.define_path("out", None, "folder to write; it must be new or empty")
    cli.run(main, ["source", "out"], arguments="import or export")
