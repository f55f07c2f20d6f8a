"""Write down the runs of a study before any of them is trained."""

from experiments.store import record
from sweeps.study.file import Study


def candidates_csv(study: Study) -> str:
    """Return the runs as CSV, with the grid's columns that are known before training; for analysis.design."""
    import pandas as pd

    rows = []
    for cell in study.cells:
        rows.append({"name": cell.name, **record.columns(cell.run), **record.ledger(cell.run)})
    return pd.DataFrame(rows).to_csv(index=False)
