"""Hugging Face checkpoints: against transformers itself where it is installed (marker `hf`), and alone."""

import dataclasses
import importlib.util
import json
import math
import pathlib
import random
import re
import shutil

from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from experiments import convert, train
from experiments.cli import InputError
from experiments.run import freeze, schema
from experiments.store import stored_state, weights
import models
from models import functional
from models.convert.hf_layouts import LAYOUTS, REQUIRED
from tests.support.commands import run_command
from tests.support.paths import GOLDEN

INSTALLED = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
BY_NAME = {layout.model_type: layout for layout in LAYOUTS}
LLAMA = {"width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "ff": 40, "vocab": 61}
MOE = {name: value for name, value in LLAMA.items() if name != "ff"} | {"experts": 4, "expert_ff": 24}
GPT2 = {"norm": "layer", "bias": True, "activation": "gelu", "position": "learned", "positions": 24, "norm_eps": 1e-5}
# name: (architecture, family, options)
CONFIGS = {
    "llama": ("llama", "dense", LLAMA),
    "llama tied": ("llama", "dense", LLAMA | {"tied": True, "head_size": 12, "rope_theta": 5e5, "norm_eps": 1e-3}),
    "qwen3": ("qwen3", "dense", LLAMA | {"qk_norm": True, "tied": True, "head_size": 16, "kv_heads": 1}),
    "qwen3 untied": ("qwen3", "dense", LLAMA | {"qk_norm": True, "kv_heads": 4}),
    "gpt2": ("gpt2", "dense", LLAMA | GPT2 | {"kv_heads": 4, "tied": True}),
    "gpt2 untied": ("gpt2", "dense", LLAMA | GPT2 | {"kv_heads": None, "activation": "gelu_exact", "ff": 128}),
    "mixtral": ("mixtral", "moe", MOE | {"head_size": 12, "score": "softmax"}),
    "mixtral tied": ("mixtral", "moe", MOE | {"kv_heads": 4, "tied": True, "experts": 3, "top_k": 3}),
    "olmoe": ("olmoe", "moe", MOE | {"qk_norm": True, "qk_norm_over": "all", "renormalise": False}),
    "olmoe renormalised": ("olmoe", "moe", MOE | {"qk_norm": True, "qk_norm_over": "all", "kv_heads": 1, "tied": True}),
}


def against_transformers(test):
    """Marks of a test that needs transformers."""
    skip = pytest.mark.skipif(not INSTALLED, reason="transformers and torch are not installed: make test-hf")
    return pytest.mark.hf(skip(test))


def make(name: str, seed: int = 0):
    """(family, Config, parameters) in which every norm, bias and weight matters."""
    _, family, options = CONFIGS[name]
    cfg = models.load(family).Config(**options).resolve(61, 24)
    draw, params = np.random.default_rng(seed), {}
    for path, shape in functional.param_shapes(family, cfg).items():
        scale = 0.5 if len(shape) < 3 and "kernel" not in path else 0.7 * shape[-2] ** -0.5
        params[path] = (draw.normal(size=shape) * scale + path.endswith("scale")).astype(np.float32)
    return family, cfg, params


def logits(family, cfg, params, tokens):
    run = schema.Run(family, cfg, seq_len=tokens.shape[1])
    arrays = {path: jnp.asarray(array) for path, array in params.items()}
    return np.asarray(
        jax.jit(lambda p, x: functional.apply(run.family, run.model, p, x).logits_BLV)(arrays, jnp.asarray(tokens))
    )


def some_tokens(vocab: int, rows: int = 2, length: int = 17):
    return np.random.default_rng(1).integers(0, vocab, (rows, length))


def same(one, other):
    assert one.keys() == other.keys()
    for path, array in one.items():
        assert array.dtype == np.float32 and array.shape == np.shape(other[path]), path
        np.testing.assert_array_equal(array, other[path], err_msg=path)


def close(ours, theirs):
    assert np.std(theirs) > 0.1, "the logits say something"
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


# --- without transformers


@pytest.mark.parametrize("name", CONFIGS)
def test_round_trips_are_bit_identical(name, tmp_path):
    family, cfg, params = make(name)
    layout = convert.save_hf(tmp_path / "hf", family, cfg, params, 24)
    assert layout.model_type == CONFIGS[name][0]
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["architectures"] == [layout.architecture] and config[layout.length] == 24
    back, back_cfg, back_params = convert.load_hf(tmp_path / "hf")
    assert (back, back_cfg) == (family, cfg)
    same(back_params, params)
    weights.save(tmp_path / "own", family, cfg, params, 24)
    loaded = weights.load(tmp_path / "own")
    assert (loaded.family, loaded.cfg, loaded.length) == (family, cfg, 24)
    same(loaded.params, params)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf", "own"], "no temporary folder is left"


@pytest.mark.parametrize("kind", ["llama_gqa", "gpt2"])
def test_reference_arrays_give_the_reference_logits(kind, tmp_path):
    golden = np.load(GOLDEN / f"dense_{kind}_tiny.npz")
    tensors = {n.removeprefix("param/"): golden[n] for n in golden.files if n.startswith("param/")}
    config = json.loads(str(golden["config"]))
    layout = BY_NAME[config["model_type"]]
    write(tmp_path / "hf", config | {"architectures": [layout.architecture]}, tensors)
    family, cfg, params = convert.load_hf(tmp_path / "hf")
    np.testing.assert_allclose(logits(family, cfg, params, golden["input_ids"]), golden["logits"], rtol=1e-4, atol=1e-5)
    bare = {name.removeprefix(layout.prefix): array for name, array in tensors.items()}  # as gpt2 on the hub
    if kind == "gpt2":
        bare["h.0.attn.bias"] = np.ones((1, 1, 8, 8), np.float32)
    write(tmp_path / "bare", config | {"architectures": [layout.architecture]}, bare)
    same(convert.load_hf(tmp_path / "bare")[2], params)


def write(folder: pathlib.Path, config: dict, tensors: dict, shards: int = 1) -> pathlib.Path:
    """A checkpoint as the hub has it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    names, where = sorted(tensors), {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        save_file({name: tensors[name] for name in names[i::shards]}, folder / file, {"format": "pt"})
        where |= dict.fromkeys(names[i::shards], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def checkpoint_of(name: str, folder: pathlib.Path):
    """(config.json, tensors) of a checkpoint that save_hf writes."""
    convert.save_hf(folder, *make(name), 24)
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_other_types_and_shards(dtype, tmp_path):
    config, tensors = checkpoint_of("qwen3 untied", tmp_path / "one")
    small = {name: array.astype(dtype) for name, array in tensors.items()}
    wide = {name: array.astype(np.float32) for name, array in small.items()}
    expected = convert.load_hf(write(tmp_path / "wide", config, wide))[2]
    for shards in (1, 3):
        same(convert.load_hf(write(tmp_path / f"{shards}", config, small, shards))[2], expected)


def test_older_spellings_of_a_config(tmp_path):
    config, tensors = checkpoint_of("llama tied", tmp_path / "new")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = np.ones(6, np.float32)
    old = {key: value for key, value in config.items() if key not in ("rope_parameters", "layer_types", "dtype")}
    cfg = convert.load_hf(tmp_path / "new")[1]
    for i, extra in enumerate(
        ({"rope_scaling": None}, {"rope_scaling": {"type": "default"}, "torch_dtype": "float16"})
    ):
        assert convert.load_hf(write(tmp_path / f"{i}", old | extra, tensors))[1] == cfg
    del old["rope_theta"], old["rms_norm_eps"], old["hidden_act"]
    plain = convert.load_hf(write(tmp_path / "defaults", old, tensors))[1]
    assert (plain.rope_theta, plain.norm_eps, plain.activation) == (1e4, 1e-6, "swiglu")


def rope(**values):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4} | values}


BAD_CONFIGS = {
    "architecture": ("llama", {"architectures": ["BertModel"]}, "architectures='BertModel'.*known: LlamaForCausalLM"),
    "no architecture": ("llama", {"architectures": None, "model_type": None}, "architectures=None"),
    "missing key": ("llama", {"hidden_size": REQUIRED}, "hidden_size is missing"),
    "type": ("llama", {"hidden_size": "wide"}, "hidden_size='wide'.*expected int"),
    "zero": ("llama", {"num_attention_heads": 0}, "num_attention_heads=0 must be at least 1"),
    "heads": ("llama", {"num_key_value_heads": 3}, "num_attention_heads=4.*num_key_value_heads=3"),
    "scaled": ("llama", rope(rope_type="llama3", factor=8.0), "rope_parameters has factor.*'llama3'"),
    "dynamic": ("llama", rope(rope_type="dynamic"), "rope_type='dynamic'; expected 'default'"),
    "old scaled": ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling has factor|'linear'"),
    "two thetas": ("llama", {"rope_theta": 5.0}, "rope_parameters.rope_theta=10000.0, but elsewhere it is 5.0"),
    "rope": ("llama", {"rope_parameters": 3}, "rope_parameters=3"),
    "partial rope": ("llama", rope(partial_rotary_factor=0.5), "partial_rotary_factor=0.5"),
    "attention bias": ("llama", {"attention_bias": True}, "attention_bias=True; expected False"),
    "mlp bias": ("llama", {"mlp_bias": True}, "mlp_bias=True; expected False"),
    "activation": ("llama", {"hidden_act": "relu"}, "hidden_act='relu'; expected one of silu"),
    "window": ("qwen3", {"use_sliding_window": True}, "use_sliding_window=True"),
    "layer types": ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types='sliding_att"),
    "quantised": ("qwen3", {"quantization_config": {"bits": 4}}, "quantization_config"),
    "gpt2 activation": (
        "gpt2",
        {"activation_function": "relu"},
        "activation_function='relu'; expected one of gelu_new",
    ),
    "gpt2 scale": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
    "wrong width": (
        "llama",
        {"intermediate_size": 48},
        r"layers.0.mlp.\w+_proj.weight has shape \[\d+, \d+\]; expected",
    ),
    "wrong vocabulary": ("llama", {"vocab_size": 62}, r"has shape \[61, 32\]; expected \[62, 32\]"),
    "wrong positions": ("gpt2", {"n_positions": 25}, r"transformer.wpe.weight has shape \[24, 32\]"),
    "depth": ("llama", {"num_hidden_layers": 3}, r"model.layers.2.input_layernorm.weight \(and 8 more\) is missing"),
    "shallow": ("llama", {"num_hidden_layers": 1, "layer_types": None}, r"layers.1\S+ \(and 8 more\) is none of Llama"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_configs_are_one_line(case, tmp_path):
    name, change, text = BAD_CONFIGS[case]
    config, tensors = checkpoint_of(name, tmp_path / "good")
    config = {key: value for key, value in (config | change).items() if value is not REQUIRED}
    if "layer_types" in change and change["layer_types"] is None:
        del config["layer_types"]
    folder = write(tmp_path / "bad", config, tensors)
    with pytest.raises(InputError, match=text) as error:
        convert.load_hf(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def drop(tensors):
    del tensors["model.layers.1.mlp.up_proj.weight"]


def tie(tensors):
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1


BAD_TENSORS = {
    "missing": ("llama", drop, "tensor model.layers.1.mlp.up_proj.weight is missing"),
    "extra": ("llama", lambda t: t.update({"model.new": t["lm_head.weight"]}), "tensor model.new is none of Llama"),
    "integers": ("llama", lambda t: t.update({"model.norm.weight": np.ones(32, np.int8)}), "model.norm.weight is I8"),
    "untied": ("qwen3", tie, "lm_head.weight differs from the embeddings"),
    "turned": ("llama", lambda t: t.update({"lm_head.weight": t["lm_head.weight"].T.copy()}), r"has shape \[32, 61\]"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_bad_tensors_are_one_line(case, tmp_path):
    name, change, text = BAD_TENSORS[case]
    config, tensors = checkpoint_of(name, tmp_path / "good")
    change(tensors)
    with pytest.raises(InputError, match=text) as error:
        convert.load_hf(write(tmp_path / "bad", config, tensors))
    assert "\n" not in str(error.value)


def cut(path: pathlib.Path, share: float):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


BAD_FILES = {
    "no folder": (shutil.rmtree, "config.json is missing; expected a Hugging Face checkpoint"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "cut config": (lambda f: cut(f / "config.json", 0.5), "config.json is not readable JSON"),
    "binary config": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json is not readable JSON"),
    "list": (lambda f: (f / "config.json").write_text("[1]"), "config.json holds a list"),
    "no index": (lambda f: (f / "model.safetensors.index.json").unlink(), "has 2 .safetensors files and no model"),
    "cut index": (lambda f: cut(f / "model.safetensors.index.json", 0.5), "index.json is not readable JSON"),
    "no map": (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "weight_map is not an object"),
    "outside": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a.safetensors"}}'),
        "weight_map is not an object from tensors to file names",
    ),
    "no shard": (lambda f: (f / "model-00002-of-00002.safetensors").unlink(), "00002.safetensors is missing"),
    "cut shard": (lambda f: cut(f / "model-00002-of-00002.safetensors", 0.7), "00002.safetensors is damaged or cut"),
    "empty shard": (
        lambda f: cut(f / "model-00001-of-00002.safetensors", 0),
        "00001-of-00002.safetensors is damaged or cut",
    ),
    "twice": (
        lambda f: shutil.copy(f / "model-00001-of-00002.safetensors", f / "model-00002-of-00002.safetensors"),
        "is in another file of the folder too",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_one_line(case, tmp_path):
    change, text = BAD_FILES[case]
    folder = write(tmp_path / "bad", *checkpoint_of("llama", tmp_path / "good"), shards=2)
    change(folder)
    with pytest.raises(InputError, match=text) as error:
        convert.load_hf(folder)
    assert "\n" not in str(error.value)


def test_a_tensor_that_the_index_puts_elsewhere(tmp_path):
    folder = write(tmp_path / "bad", *checkpoint_of("llama", tmp_path / "good"), shards=2)
    index = folder / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    value["weight_map"]["model.gone"] = "model-00002-of-00002.safetensors"
    index.write_text(json.dumps(value))
    with pytest.raises(InputError, match="tensor model.gone is not in model-00002-of-00002"):
        convert.load_hf(folder)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("llama", {"norm": "layer"}, "model.norm='layer' is 'rms' there"),
        ("llama", {"activation": "gelu"}, "model.activation='gelu' is 'swiglu' there"),
        ("gpt2", {"kv_heads": 2}, "nearest is GPT2LMHeadModel: model.kv_heads=2 is 4 there"),
        ("gpt2", {"head_size": 16}, "model.head_size=16 is 8 there"),
        ("gpt2", {"bias": False}, "model.bias=False is True there"),
    ],
)
def test_what_no_architecture_computes_is_not_exported(name, options, text, tmp_path):
    family, cfg, _ = make(name)
    cfg = dataclasses.replace(cfg, **options)
    params = {path: np.ones(shape, np.float32) for path, shape in functional.param_shapes(family, cfg).items()}
    with pytest.raises(InputError, match=text):
        convert.save_hf(tmp_path / "hf", family, cfg, params)
    assert not list(tmp_path.iterdir())


def test_families_without_an_architecture_are_not_exported(tmp_path):
    cfg = models.load("min_gru").Config(width=16, depth=1).resolve(11, 8)
    with pytest.raises(InputError, match=r"family='min_gru' has no Hugging Face architecture.*dense"):
        convert.save_hf(tmp_path / "hf", "min_gru", cfg, {})


def test_wrong_parameters_are_not_exported(tmp_path):
    family, cfg, params = make("llama")
    for change, text in (
        ({"head/bias": np.ones(3)}, r"head/bias has shape \(3,\); expected None"),
        ({"embed": np.ones((61, 31))}, r"embed has shape \(61, 31\); expected \(61, 32\)"),
    ):
        for function in (convert.save_hf, weights.save):
            with pytest.raises(InputError, match=text):
                function(tmp_path / "out", family, cfg, params | change)
    with pytest.raises(InputError, match=r"embed has shape None"):
        convert.save_hf(tmp_path / "out", family, cfg, {p: a for p, a in params.items() if p != "embed"})


def test_a_damaged_model_is_named(tmp_path):
    weights.save(tmp_path / "good", *make("llama"))
    draw = random.Random(0)
    for _ in range(5):
        folder = shutil.copytree(tmp_path / "good", tmp_path / "bad", dirs_exist_ok=True)
        data = bytearray((folder / "params.safetensors").read_bytes())
        data[draw.randrange(len(data) // 2, len(data))] ^= 1 << draw.randrange(8)
        (folder / "params.safetensors").write_bytes(data)
        with pytest.raises(InputError, match=r"parameter \S+ is damaged \(its checksum differs\)"):
            weights.load(folder)
    for change, text in (
        ({"schema": 2}, "schema 2 is not known"),
        ({"family": "lama"}, "family='lama' is not known"),
        ({"model": {"widht": 3}}, "unknown config key model.widht; did you mean 'width'"),
        ({"crc32": None}, "model.json is damaged"),
    ):
        value = json.loads((tmp_path / "good" / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps(value | change))
        with pytest.raises(InputError, match=text):
            weights.load(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Makes the folder of a run of a few steps, once per family."""
    made = {}

    def of(config):
        run, execution = freeze.freeze(config)
        if run.family not in made:
            made[run.family] = tmp_path_factory.mktemp("runs") / run.family
            train.train([run], [epath.Path(made[run.family])], execution, lambda event: None)
        return made[run.family], run

    return of


def test_the_command_line(tiny, tmp_path, trained):
    """A trained run to Hugging Face, back, and out again; then what cannot be."""
    run_folder, run = trained(tiny(tokens=256 * 5))
    before = {p: p.stat().st_mtime_ns for p in run_folder.rglob("*")}
    out = run_command("experiments.convert", "export", f"--source={run_folder}", f"--out={tmp_path}/hf")
    assert out.returncode == 0, out.stderr
    assert re.fullmatch(
        r"exported \S+ \(run \w{16}, step 5\) as LlamaForCausalLM to \S+: [\d,]+ parameters\n", out.stdout
    )
    assert before == {p: p.stat().st_mtime_ns for p in run_folder.rglob("*")}, "the run is as it was"
    assert json.loads((tmp_path / "hf/config.json").read_text())["max_position_embeddings"] == run.seq_len
    out = run_command("experiments.convert", "import", f"--source={tmp_path}/hf", f"--out={tmp_path}/own")
    assert out.returncode == 0 and "imported LlamaForCausalLM as family 'dense'" in out.stdout, out.stderr
    convert._export(f"{tmp_path}/own", f"{tmp_path}/again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "hf" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    trained_params, _ = stored_state.read_params(
        run_folder / "checkpoints", functional.param_shapes("dense", run.model)
    )
    same(weights.load(tmp_path / "own").params, trained_params)
    for arguments, text in (
        (["import", f"--source={tmp_path}/hf", f"--out={tmp_path}/own"], "own is there already; expected a new or an"),
        (["imprt", f"--source={tmp_path}/hf", f"--out={tmp_path}/x"], "'imprt'; did you mean 'import'?"),
    ):
        out = run_command("experiments.convert", *arguments)
        assert out.returncode == 2 and text in out.stderr and out.stderr.count("\n") == 1, (arguments, out.stderr)
    for function, source, text in (
        (convert._import, "own", "config.json is missing; expected a Hugging Face checkpoint"),
        (convert._export, "hf", "model.json is missing; expected the folder of an import, or the workdir of a run"),
    ):
        with pytest.raises(InputError, match=text):
            function(f"{tmp_path}/{source}", f"{tmp_path}/x")
    with pytest.raises(InputError, match="gs://bucket/x is not a local folder"):
        weights.check_new("gs://bucket/x")
    assert not (tmp_path / "x").exists()


def test_a_run_without_a_sound_checkpoint_is_not_exported(tiny, tmp_path, trained):
    """Whichever byte is flipped: the parameters are those that were saved, or the export is refused."""
    folder = shutil.copytree(trained(tiny(tokens=256 * 5))[0], tmp_path / "run")
    good, draw, refused = weights.load(folder).params, random.Random(0), 0
    stored = (folder / "checkpoints/5/state").rglob("d/*")
    files = sorted(path for path in stored if path.stat().st_size > 10_000)
    for turn in range(60):  # in which file the parameters lie, and where, is chance
        if turn >= 12 and refused:
            break
        file = draw.choice(files)
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(flipped)
        try:
            same(weights.load(folder).params, good)
        except InputError as error:
            assert re.search("checkpoints/5.* is damaged", str(error)) and "\n" not in str(error)
            refused += 1
        file.write_bytes(content)
    assert refused > 0, "a third of what is saved are parameters"
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(InputError, match="holds no checkpoint"):
        weights.load(folder)
    (folder / "run.json").write_text("{}")
    with pytest.raises(InputError, match="run.json is damaged"):
        weights.load(folder)


# --- against transformers


def quiet():
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def theirs(model, tokens):
    import torch

    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.float().numpy()


EAGER = {"experts_implementation": "eager"}  # the fast one of transformers takes no odd sizes


def reload(folder: pathlib.Path):
    """(model, what was missing or left over) as transformers reads a checkpoint, in float32."""
    load = quiet().AutoModelForCausalLM.from_pretrained
    model, report = load(folder, output_loading_info=True, dtype="float32", **EAGER)
    return model.eval(), report


def perturbed(config, seed: int, dtype: str = "float32"):
    """A transformers model with random weights, norms and biases."""
    import torch

    torch.manual_seed(seed)
    model = quiet().AutoModelForCausalLM.from_config(config, **EAGER).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan = parameter.shape[0 if "gpt2" in config.model_type else -1]
            scale = 0.5 if parameter.ndim == 1 or re.search("embed|wte|wpe", name) else 0.7 * fan**-0.5
            parameter.copy_(torch.randn_like(parameter) * scale + (parameter.ndim == 1 and "weight" in name))
    return model.to(getattr(torch, dtype))


def draw_config(architecture: str, pick: random.Random):
    """A random config of an architecture."""
    transformers = quiet()
    heads, size, eps = pick.choice([1, 2, 4]), pick.choice([4, 8, 10]), pick.choice([1e-6, 1e-5, 1e-2])
    tied, vocab, depth = pick.random() < 0.5, pick.randrange(11, 99), pick.choice([1, 2, 3])
    if architecture == "gpt2":
        act, inner = pick.choice(["gelu_new", "gelu", "gelu_pytorch_tanh"]), pick.choice([None, 24])
        return transformers.GPT2Config(
            vocab_size=vocab, n_positions=pick.randrange(17, 40), n_embd=heads * size, n_layer=depth, n_head=heads,
            n_inner=inner, activation_function=act, layer_norm_epsilon=eps, tie_word_embeddings=tied,
        )  # fmt: skip
    options = {
        "vocab_size": vocab, "hidden_size": heads * size, "intermediate_size": pick.choice([12, 40]),
        "num_hidden_layers": depth, "num_attention_heads": heads, "tie_word_embeddings": tied, "rms_norm_eps": eps,
        "num_key_value_heads": pick.choice([k for k in (1, 2, 4) if heads % k == 0]), "max_position_embeddings": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": pick.choice([100.0, 1e4, 1e6])},
    }  # fmt: skip
    if architecture in ("llama", "qwen3"):
        options["head_dim"] = pick.choice([size, 6, 16])
    if architecture in ("mixtral", "olmoe"):
        experts = pick.choice([3, 4, 8])
        options |= {"num_experts_per_tok": pick.choice([2, 3])}
        options |= {"num_local_experts" if architecture == "mixtral" else "num_experts": experts}
    if architecture == "olmoe":
        options |= {"norm_topk_prob": pick.random() < 0.5}
    return getattr(transformers, {"llama": "Llama", "qwen3": "Qwen3", "mixtral": "Mixtral", "olmoe": "Olmoe"}[
        architecture
    ] + "Config")(**options)  # fmt: skip


@against_transformers
@pytest.mark.parametrize("architecture", BY_NAME)
@settings(max_examples=12)
@given(seed=st.integers(0, 2**31))
def test_imported_logits_equal_those_of_transformers(architecture, seed, tmp_path_factory):
    folder, config = tmp_path_factory.mktemp("hf"), draw_config(architecture, random.Random(seed))
    model = perturbed(config, seed)
    model.save_pretrained(folder)
    family, cfg, params = convert.load_hf(folder)
    tokens = some_tokens(config.vocab_size)
    close(logits(family, cfg, params, tokens), theirs(model, tokens))
    convert.save_hf(folder / "again", family, cfg, params)
    assert convert.layout_of(family, cfg).model_type == architecture
    written, exported = load_file(folder / "model.safetensors"), load_file(folder / "again" / "model.safetensors")
    same(exported, written)


@against_transformers
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CONFIGS)
def test_exported_logits_equal_ours(name, seed, tmp_path):
    family, cfg, params = make(name, seed)
    convert.save_hf(tmp_path / "hf", family, cfg, params, 24)
    model, report = reload(tmp_path / "hf")
    assert not any(report.values()), report
    tokens = some_tokens(cfg.vocab)
    close(logits(family, cfg, params, tokens), theirs(model, tokens))
    model.save_pretrained(tmp_path / "theirs")
    back = convert.load_hf(tmp_path / "theirs")
    assert back[:2] == (family, cfg)
    same(back[2], params)


@against_transformers
@pytest.mark.parametrize("architecture", BY_NAME)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_and_shards_of_transformers(architecture, dtype, tmp_path):
    model = perturbed(draw_config(architecture, random.Random(3)), 3, dtype)
    model.save_pretrained(tmp_path / "hf", max_shard_size="4KB")
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 1
    model = reload(tmp_path / "hf")[0]
    tokens = some_tokens(model.config.vocab_size)
    close(logits(*convert.load_hf(tmp_path / "hf"), tokens), theirs(model, tokens))


@against_transformers
@pytest.mark.parametrize("architecture", BY_NAME)
def test_missing_keys_mean_what_transformers_takes_them_for(architecture):
    layout, config = BY_NAME[architecture], quiet().AutoConfig.for_model(architecture)
    rope = getattr(config, "rope_parameters", None) or {}
    for option, key in layout.keys.items():
        if key.missing is REQUIRED:
            assert option in ("vocab", "width", "depth", "heads", "ff", "expert_ff")
            continue
        value = rope[key.name] if key.name in rope else getattr(config, key.name)
        derived = {
            "kv_heads": config.num_attention_heads,
            "head_size": config.hidden_size // config.num_attention_heads,
        }
        assert value in ((None, derived.get(option)) if key.missing is None else (key.missing,)), key.name
    for name, value in layout.fixed.items():
        found = rope.get(name, getattr(config, name, value))
        assert set(found) == {value} if isinstance(found, list) else found == value, name


@against_transformers
@pytest.mark.parametrize("family", sorted({layout.family for layout in LAYOUTS}))
def test_a_trained_run_in_transformers(family, tiny, tmp_path, trained):
    folder, run = trained(tiny(family, tokens=256 * 5))
    out = run_command("experiments.convert", "export", f"--source={folder}", f"--out={tmp_path}/hf")
    assert out.returncode == 0, out.stderr
    model, _ = reload(tmp_path / "hf")
    tokens = some_tokens(run.model.vocab, length=run.seq_len)
    ours = logits(family, run.model, weights.load(folder).params, tokens)
    close(ours, theirs(model, tokens))
    assert math.isfinite(float(np.abs(ours).max()))
