"""Prepared corpora as files: damage, crashes, company, places that cannot be written; and the command."""

from collections.abc import Callable
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from experiments.cli import InputError
from experiments.data import manifest as manifests_module
from experiments.data.manifest import Manifest, load, verify
from experiments.data.options import Data
from experiments.prepare import look, prepare, publish
from tests.support.data import REPOSITORY, make_corpora, python, ready, write_corpus


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return make_corpora(tmp_path_factory.mktemp("here"))


def test_second_preparation_does_nothing(here: pathlib.Path):
    ms, data = ready(here)
    before = {p: p.stat().st_mtime_ns for p in (here / "root").rglob("*")}
    assert None not in look(data, here / "root")[2]
    assert prepare(data, here / "root", False) == ms
    assert {p: p.stat().st_mtime_ns for p in (here / "root").rglob("*")} == before


def damaged(tmp_path: pathlib.Path, here: pathlib.Path) -> tuple[Manifest, pathlib.Path]:
    (m,), _ = ready(here, tokenizer="bpe:300")
    copy = tmp_path / "copy"
    shutil.copytree(m.directory, copy)
    return load(copy), copy


def test_a_truncated_file_is_named(tmp_path: pathlib.Path, here: pathlib.Path):
    m, copy = damaged(tmp_path, here)
    with (copy / "train.npy").open("r+b") as file:
        file.truncate(1_000)
    for attempt in (lambda: load(copy), lambda: m.open("train.npy")):
        with pytest.raises(
            InputError,
            match=r"train\.npy: 1000 bytes, \d+ were written; the file is damaged; delete this folder and run",
        ):
            attempt()


@pytest.mark.parametrize("name", ["train.npy", "holdout_bytes.npy", "tokenizer.json"])
def test_an_altered_file_is_named(tmp_path: pathlib.Path, here: pathlib.Path, name: str):
    m, copy = damaged(tmp_path, here)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    stamp = (copy / name).stat()
    (copy / name).write_bytes(content)
    message = rf"{name}: its content is not what was written \(checksum differs\); delete"
    with pytest.raises(InputError, match=message):
        load(copy)
    os.utime(copy / name, ns=(stamp.st_atime_ns, stamp.st_mtime_ns - 10**9))  # even if nothing looks changed
    with pytest.raises(InputError, match=message):
        verify(m, thorough=True)


def test_a_missing_file_or_manifest_is_named(tmp_path: pathlib.Path, here: pathlib.Path):
    _, copy = damaged(tmp_path, here)
    manifest = (copy / "manifest.json").read_text()
    for text, message in (
        (manifest[:200], r"manifest\.json: unreadable"),
        ("[]", r"manifest\.json: unreadable"),
        (manifest.replace('"schema": 1', '"schema": 99'), r"manifest\.json: schema 99, this version reads 1"),
        (manifest.replace('"separator": 0', '"separator": 1'), r"manifest\.json: does not match its own fingerprint"),
    ):
        (copy / "manifest.json").write_text(text)
        with pytest.raises(InputError, match=message):
            load(copy)
    (copy / "manifest.json").write_text(manifest)
    (copy / "holdout.npy").unlink()
    with pytest.raises(InputError, match=r"holdout\.npy: missing from a prepared corpus"):
        load(copy)
    with pytest.raises(InputError, match=r"no prepared corpus here"):
        load(tmp_path)


PREPARE = (
    "import sys; from experiments.data.options import Data; from experiments.prepare import prepare\n"
    "print(prepare(Data(corpus=(sys.argv[1],), holdout=0.1), sys.argv[2])[0].fingerprint)"
)


def start(path: pathlib.Path, root: pathlib.Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PREPARE, str(path), str(root)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Enough text that a preparation can be met at work."""
    folder = tmp_path_factory.mktemp("larger")
    source = write_corpus(folder / "part", 2_000, words=400).read_text().splitlines()
    (folder / "c.jsonl").write_text(
        "\n".join(line.replace('": "', f'": "{k} ', 1) for k in range(4) for line in source)
    )
    (folder / "part").unlink()
    return folder / "c.jsonl"


def test_a_preparation_leaves_no_temporary_folder(here: pathlib.Path, tmp_path: pathlib.Path):
    (tmp_path / "temporary").mkdir()
    result = python(PREPARE, here / "a.jsonl", tmp_path / "root", TMPDIR=str(tmp_path / "temporary"))
    assert result.returncode == 0, result.stderr
    assert list((tmp_path / "temporary").iterdir()) == []


def exists(root: pathlib.Path, pattern: str) -> Callable[[], bool]:
    return lambda: any(root.glob(pattern))


@pytest.mark.parametrize("moment", ["documents/*/text_dataset/incomplete*", "records/.*.tmp/train.npy"])
def test_kill_and_prepare_again(larger: pathlib.Path, tmp_path: pathlib.Path, moment: str):
    """kill -9 while TFDS writes documents, or while tokens are written: the next call ends as a quiet one does."""
    root = tmp_path / "root"
    met = exists(root, moment)
    process = start(larger, root)
    while not met() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    process.communicate()
    assert met() and not list(root.glob("records/*/manifest.json"))
    (m,) = prepare(Data(corpus=(str(larger),), holdout=0.1), root, False)
    (clean,) = prepare(Data(corpus=(str(larger),), holdout=0.1), larger.parent / "root", False)
    assert m.fingerprint == clean.fingerprint
    verify(m, thorough=True)
    left = [p.name for p in root.rglob("*") if "incomplete" in p.name or p.name.endswith(".tmp")]
    assert not left


def test_two_preparations_at_once(larger: pathlib.Path, tmp_path: pathlib.Path):
    processes = [start(larger, tmp_path / "root") for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len({out for out, _ in outputs}) == 1
    assert sum("reading its documents" in errors for _, errors in outputs) == 1  # one did the work
    assert len(list((tmp_path / "root" / "records").glob("*/manifest.json"))) == 1


READ_ONLY = (
    "import os, sys; import grain, tensorflow_datasets as tfds; tfds.builder_from_directory\n"
    "from experiments import cli; import experiments.data.text_dataset\n"
    "from experiments.data.batches import Batches; from experiments.data.options import Data; from experiments.prepare import prepare\n"
    "first = Data(corpus=(sys.argv[2],), holdout=0.1)\n"
    "Batches(prepare(first, sys.argv[1], False), first, 32, 4, 0)[0]\n"  # libraries import late
    "os.getuid() or os.setuid(65534)\n"
    "for corpus in sys.argv[2:]:\n"
    "    data = Data(corpus=(corpus,), holdout=0.1)\n"
    "    try: print(Batches(prepare(data, sys.argv[1], False), data, 32, 4, 0)[0].shape)\n"
    "    except OSError as error: print(cli.explain(error))\n"
)


def test_read_only_root(here: pathlib.Path):
    """What is prepared can be used; what is not cannot be written, and one line says so."""
    ready(here)
    write_corpus(here / "never.jsonl", 20)
    folder = here / "root"
    temporary = pathlib.Path(tempfile.gettempdir())
    above = [p for p in [here, *here.parents] if temporary in p.parents]
    modes = {p: p.stat().st_mode for p in [*folder.rglob("*"), folder, *above]}
    try:
        for path, mode in modes.items():
            path.chmod(mode | 0o555 if path in above else 0o555)  # another user passes through those above
        result = python(READ_ONLY, folder, here / "a.jsonl", here / "never.jsonl")
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    lines = result.stdout.splitlines()
    assert lines[:1] == ["(4, 33)"], result.stderr[-2000:]
    assert str(folder) in lines[1] and "permission denied" in lines[1]


FULL = (
    "import resource, sys; from experiments import cli; from experiments.data.batches import Data\n"
    "from experiments.prepare import prepare; limit = int(sys.argv[3])\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
    "try: print(prepare(Data(corpus=(sys.argv[1],), holdout=0.1), sys.argv[2], False)[0].fingerprint)\n"
    "except OSError as error: print('tokens:', cli.explain(error))\n"
    "except RuntimeError as error: print('documents:', cli.explain(error))\n"
)


def test_a_write_that_fails_leaves_nothing_half_done(here: pathlib.Path, tmp_path: pathlib.Path):
    """As on a full disk, while TFDS writes or while tokens are written; afterwards the same call works."""
    (m,), _ = ready(here)
    path = here / "a.jsonl"
    for limit, stage in ((10_000, "documents:"), (m.files["train.npy"]["size"] - 1, "tokens:")):
        result = python(FULL, path, tmp_path / "root", limit)
        assert result.stdout.startswith(stage) and "File too large" in result.stdout, result.stdout + result.stderr
        assert not list((tmp_path / "root").glob("records/[!.]*"))
        assert not [p for p in (tmp_path / "root").rglob("*") if p.name.endswith(".tmp") or "incomplete" in p.name]
    assert prepare(Data(corpus=(str(path),), holdout=0.1), tmp_path / "root", False)[0].fingerprint == m.fingerprint


def test_published_folder_is_complete_only_with_its_manifest(
    tmp_path: pathlib.Path, here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    """As on an object store: files first, manifest last; a copy that was broken off is no prepared corpus."""
    (m,), _ = ready(here)
    order: list[str] = []
    original = shutil.copyfileobj

    def watched(read, written, *rest):
        order.append(pathlib.Path(read.name).name)
        original(read, written, *rest)

    monkeypatch.setattr(shutil, "copyfileobj", watched)
    publish(m.directory, m.directory.parent.parent / "published")
    assert order[-1] == "manifest.json" and set(order) == {"manifest.json", *m.files}
    assert load(m.directory.parent.parent / "published").fingerprint == m.fingerprint


def test_a_remote_file_is_fetched_once_and_checked(
    tmp_path: pathlib.Path, here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    (m,), _ = ready(here)
    monkeypatch.setenv("LOSSGRID_CACHE", str(tmp_path / "cache"))
    checksum = m.files["train.npy"]["sha256"]
    local = manifests_module._fetch(m.directory / "train.npy", checksum)
    assert local.read_bytes() == (m.directory / "train.npy").read_bytes() and [
        p.name for p in (tmp_path / "cache").iterdir()
    ] == [local.name]
    stamp = local.stat().mtime
    assert manifests_module._fetch(m.directory / "train.npy", checksum).stat().mtime == stamp
    with pytest.raises(InputError, match="checksum differs"):
        manifests_module._fetch(m.directory / "train.npy", "0" * 64)


def test_reading_data_imports_nothing_heavy():
    heavy = ["tensorflow_datasets", "tokenizers", "sentencepiece", "jax", "grain", "pyarrow", "rich"]
    result = python(f"import sys, experiments.data.batches; print([m for m in {heavy} if m in sys.modules])")
    assert result.stdout.strip() == "[]", result.stderr
    result = python(
        "import sys; from experiments.data.options import Data; from experiments.prepare import look\n"
        f"look(Data(), '/tmp/none'); print([m for m in {heavy[:6]} if m in sys.modules])"
    )
    assert result.stdout.strip() == "[]", result.stderr


CONFIG = """
from experiments.configs import smoke
def get_config(arg=None):
    config = smoke.get_config()
    config.unlock()
    config.data.corpus = {corpus!r}
    config.execution.data_root = {root!r}
    return config.lock()
"""


def test_command_shows_what_it_made(here: pathlib.Path, tmp_path: pathlib.Path):
    texts = tmp_path / "texts-of-a-name-that-no-column-holds.jsonl"
    texts.write_bytes((here / "a.jsonl").read_bytes() + b'{"text": null}\n')
    (tmp_path / "config.py").write_text(CONFIG.format(corpus=(str(texts),), root=str(tmp_path / "root")))

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "experiments.prepare", *arguments]
        return subprocess.run(
            line, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, env=os.environ | {"COLUMNS": "80"}
        )

    config = f"--config={tmp_path / 'config.py'}"
    first, second = command(config), command(config)
    assert first.returncode == second.returncode == 0, first.stderr
    (m,) = prepare(Data(corpus=(str(texts),)), tmp_path / "root", False)
    assert "Prepared" in first.stdout and "Nothing to do" in second.stdout and "Nothing to do" not in first.stdout
    for shown in (
        f"{m.train.tokens:,}",
        f"{m.holdout.bytes:,}",
        f"{m.unigram_entropy_nats:.4f}",
        str(m.directory),
        "first record",
        "documents left out: 1 null",
    ):
        assert shown in second.stdout
    assert f"in {m.directory}\n" in first.stderr, "a path stays on one line"
    assert "not enough for this config's run: tokens=500000" in second.stdout.replace("\n", "")
    for arguments, message in (
        ((config, "--config.data.holdout=2.0"), "data.holdout=2.0 must be a share"),
        ((), "--config is missing"),
    ):
        result = command(*arguments)
        assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr, result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
