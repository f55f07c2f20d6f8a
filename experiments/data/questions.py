"""Write what can be asked about synthetic text as files of tasks, for `evaluation.tasks`."""

import json

from etils import epath

from experiments import files
from experiments.data.options import Data
from experiments.data.sources import synthetic
from models.errors import InputError

QUESTIONS = 500  # of each sort, at most


def write(data: Data, folder: epath.Path) -> list[epath.Path]:
    """Write what can be asked about the synthetic corpora as tasks (evaluation.tasks), a file a sort, and return them.

    Raises InputError where nothing can be asked.
    """
    written = []
    for name in data.corpus:
        if not name.startswith(synthetic.PREFIX):
            continue
        kind = synthetic.kind_of(name)
        for sort, asked in synthetic.questions(name, QUESTIONS).items():
            path = folder / f"{kind}_{sort}.jsonl"
            if path in written:
                raise InputError(f"data.corpus={data.corpus!r}: two would write {path}; expected one of each kind")
            rows = [json.dumps(question._asdict(), ensure_ascii=False) for question in asked]
            files.write_bytes(path, "".join(f"{row}\n" for row in rows).encode())
            written.append(path)
    if not written:
        raise InputError(
            f"data.corpus={data.corpus!r}: nothing can be asked about it; expected synthetic text with answers"
        )
    return written
