"""What docstrings, comments and READMEs name is there: files, modules and what is in them, flags, laws."""

from collections.abc import Iterator
import functools
import re

import pytest

from analysis import laws
from experiments.cli import InputError
from tests.support.imports import PACKAGES, modules
from tests.support.paths import REPOSITORY

FOREIGN_FILES = {"jax/_src/clusters/slurm_cluster.py"}  # of another project
# Commands of others that we call or write, and what stands in for a name.
FOREIGN_ROOMS = ("sweeps/executors/", "sweeps/manifests/", "experiments/store/checkout.py")
FOREIGN_FLAGS = {"exclusive", "mail-type", "logdir", "name", "file_format", "to", "no-plan"}
ABSL_FLAGS = {"help", "helpfull", "helpshort", "verbosity"}
EXAMPLES = re.compile(
    r"(?:.*/)?(?:[A-Z]+|my_\w+|echo)\.\w+"
)  # FILE.py, my_study.py; the family that models/README.md adds

FILE = re.compile(r"(?<![\w/.-])(\w[\w/-]*\.(?:py|md))\b")
MODULE = re.compile(r"(?<![\w/.@-])((?:models|experiments|sweeps|analysis|tests)(?:\.[A-Za-z_]\w*)+)")
MEMBER = re.compile(r"`([A-Z][a-z]\w*)\.(\w+)")
FLAG = re.compile(r"(?<![\w-])--([a-zA-Z][\w-]*)")
LAW = re.compile(r"--laws?=([a-z][\w,]*)|\blaws? ((?:`\w+`(?:, | and | or )?)+)")
DECLARED = re.compile(r"(?:DEFINE\w*|define_\w+|add_argument)\(\s*(?:_?\w+\(\),\s*)?\"(?:--)?(\w+)\"")


@functools.cache
def sources() -> dict[str, str]:
    """The text of every file of ours, by its path below the repository."""
    return {str(path.relative_to(REPOSITORY)): path.read_text() for path in modules().values()}


@functools.cache
def told() -> dict[str, str]:
    """What is told to a reader: docstrings and comments of every file, and the READMEs."""
    found = {}
    for path, text in sources().items():
        docstrings = re.findall(r'^\s*"""(.*?)"""', text, re.DOTALL | re.MULTILINE)
        comments = re.findall(r"(?:^|\s)# (.*)$", text, re.MULTILINE)
        found[path] = "\n".join([*docstrings, *comments])
    for path in [REPOSITORY / "README.md", *(REPOSITORY / package / "README.md" for package in PACKAGES)]:
        found[str(path.relative_to(REPOSITORY))] = path.read_text()
    return found


@functools.cache
def files() -> set[str]:
    """Every file of the repository's packages and of its top folder."""
    found = {path.name for path in REPOSITORY.iterdir() if path.is_file()}
    for package in PACKAGES:
        found |= {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / package).rglob("*.*")}
    return found


def missing_files() -> Iterator[str]:
    endings = {path[at:] for path in files() for at in (0, *(m.end() for m in re.finditer("/", path)))}
    for path, text in told().items():
        for name in FILE.findall(text):
            if name not in endings and name not in FOREIGN_FILES and not EXAMPLES.fullmatch(name):
                yield f"{path}: {name}"


def missing_modules() -> Iterator[str]:
    known = modules()
    for path, text in told().items():
        for name in MODULE.findall(text):
            above, _, member = name.rpartition(".")
            while member and name not in known and above not in known and "." in above:
                above, _, member = above.rpartition(".")
            if name in known or member in ("py", "md"):
                continue
            if above not in known or not re.search(rf"\b{member}\b", known[above].read_text()):
                yield f"{path}: {name}"


def missing_members() -> Iterator[str]:
    homes: dict[str, list[str]] = {}
    for text in sources().values():
        for name in re.findall(r"^class (\w+)", text, re.MULTILINE):
            homes.setdefault(name, []).append(text)
    for path, text in told().items():
        for name, member in MEMBER.findall(text):
            if name in homes and not any(re.search(rf"\b{member}\b", home) for home in homes[name]):
                yield f"{path}: {name}.{member}"


def missing_flags() -> Iterator[str]:
    known = ABSL_FLAGS | FOREIGN_FLAGS
    for text in sources().values():
        known |= set(DECLARED.findall(text))
    for path, text in told().items():
        if path.startswith((*FOREIGN_ROOMS, "tests/")):
            continue
        for name in FLAG.findall(text):
            if name not in known and name.removeprefix("no") not in known:
                yield f"{path}: --{name}"


def missing_laws() -> Iterator[str]:
    for path, text in told().items():
        for flag, listed in LAW.findall(text):
            for name in [*filter(None, flag.split(",")), *re.findall(r"`(\w+)`", listed)]:
                if not is_law(name):
                    yield f"{path}: law {name}"


def is_law(name: str) -> bool:
    try:
        laws.load(name)
    except InputError:
        return False
    return True


MISSING = {
    missing_files: ("see analysis/no_such.py", "as in no_such.py", "(sweeps/no/file.py)", "NO_SUCH.md is long"),
    missing_modules: ("sweeps.work.no_such", "analysis.fit.no_such", "no experiments.no_such.files either"),
    missing_members: ("`Workdir.no_such`", "`Grid.no_such(1)`"),
    missing_flags: ("with --no_such=3", "say --no-such"),
    missing_laws: ("the law `no_such`", "laws `chinchilla` and `no_such`", "--law=no_such", "--laws=kaplan,no_such"),
}


@pytest.mark.parametrize("missing", MISSING)
def test_what_is_named_is_there(missing):
    assert not list(missing())


@pytest.mark.parametrize(("missing", "text"), [(missing, text) for missing in MISSING for text in MISSING[missing]])
def test_what_is_not_there_is_found(missing, text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(globals(), "told", lambda: {"models/x.py": text})
    (found,) = missing()
    assert "no" in found.lower()


def test_the_laws_by_subject_are_all_laws():
    """The table of the laboratory's README names laws and nothing else."""
    text = (REPOSITORY / "analysis" / "README.md").read_text()
    table = re.search(r"^## Laws by subject$(.*?)^\*\*", text, re.DOTALL | re.MULTILINE)
    assert table
    named = set(re.findall(r"`([a-z]\w*)`", table[1]))
    assert len(named) > 50 and not [name for name in named if not is_law(name)]
