"""Run docs/notebook.ipynb in a temporary folder and store its outputs: `python docs/site/run_notebook.py`."""

import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

_NOTEBOOK = Path(__file__).resolve().parents[1] / "notebook.ipynb"


def run_notebook() -> None:
    """Execute every cell; keep results, drop printed lines and HTML."""
    notebook = nbformat.read(_NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata = nbformat.NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.output_type == "execute_result"]
            for output in cell.outputs:  # an HTML table says no more than its text, at ten times the size
                output.data.pop("text/html", None)
                if "image/png" in output.data:
                    output.data.pop("image/jpeg", None)
                    output.data["text/plain"] = re.sub(r" at 0x\w+", "", output.data["text/plain"])
    nbformat.write(notebook, _NOTEBOOK)


if __name__ == "__main__":
    run_notebook()
