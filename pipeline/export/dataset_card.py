"""The dataset card of an export: content, models, licenses and known limits."""

import json

import pyarrow as pa

from pipeline.runs.history import read_runs
from pipeline.tables.clip_reader import ClipReader

_LIMITS = """\
## Known limits

- Every number here is a model's estimate, no ground truth. Detectors miss small, turned and covered faces and find some
  that are none; each face carries its `score`.
- Identities are clusters of embeddings. One person may have several ids and two people one; `ambiguous_pairs` of the
  output lists doubtful pairs. Models of faces are known to differ in quality by age, sex and skin tone.
- Action units and emotions describe what a face looks like to a model, not what a person feels.
- Faces are biometric data. Whoever holds or shares this data set needs a legal ground for it; people who were taken out
  of the output by `faceatlas erase` stay in copies that were exported before.
"""


def dataset_card(tables: ClipReader, rows: int, wide: pa.Schema) -> str:
    """The README.md of a Hugging Face data set folder.

    Args:
        tables: the output.
        rows: faces that were written.
        wide: schema of the Parquet files; its metadata describes the columns.
    """
    record = next(iter(read_runs(tables.output)), {})
    models = record.get("models", {})
    licenses = sorted({str(model.get("license")) for model in models.values()})
    research = sorted(slot for slot, model in models.items() if model.get("research_only"))
    front = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}],
        "tags": ["faces", "video", "faceatlas"],
        "license": "other",
        "size_categories": [_size(rows)],
    }
    lines = ["---", *(f"{name}: {json.dumps(value)}" for name, value in front.items()), "---", ""]
    lines += ["# Faces of a video corpus", ""]
    lines += [f"{rows} faces, one row each, annotated by Faceatlas. Pictures are not part of it.", ""]
    lines += ["## Models and licenses", "", "| slot | model | version | license |", "|---|---|---|---|"]
    for slot, model in models.items():
        lines.append(f"| {slot} | {model.get('model')} | {model.get('version')} | {model.get('license')} |")
    if not models:
        lines.append("| unknown: the output holds no record of a run | | | |")
    lines += ["", f"Licenses of the weights: {', '.join(licenses) or 'unknown'}."]
    if research:
        lines.append(f"**For research only**, by the license of the weights: {', '.join(research)}.")
    lines += ["", "## Columns", "", "| column | type | unit | about |", "|---|---|---|---|"]
    for field in wide:
        about = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        kind = str(field.type).replace("|", "\\|")
        lines.append(
            f"| {field.name} | {kind} | {about.get('unit', '')} | {about.get('about', '').replace('|', ' ')} |"
        )
    return "\n".join([*lines, "", _LIMITS])


def _size(rows: int) -> str:
    """The hub's size category for a number of rows."""
    steps = ["n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B"]
    return steps[min(max(len(str(rows)) - 3, 0), len(steps) - 1)]
