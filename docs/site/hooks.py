"""Pages of the site that are written for another place: README, the READMEs of infra/ and the notebook."""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_PROJECT = Path(__file__).resolve().parents[2]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Expand the patterns of the navigation."""
    config.nav = _expand(config.nav, Path(config.docs_dir))
    return config


def _expand(entries: list[Any], folder: Path) -> list[Any]:
    expanded: list[Any] = []
    for entry in entries:
        if isinstance(entry, dict):
            expanded += [{name: _expand(v, folder) if isinstance(v, list) else v} for name, v in entry.items()]
        elif "*" in entry:
            expanded += [str(path.relative_to(folder)) for path in sorted(folder.glob(entry))]
        else:
            expanded.append(entry)
    return expanded


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add index.md, deploy/*.md and notebook.md."""
    readme = (_PROJECT / "README.md").read_text().replace("](docs/", "](")
    pages = {"index.md": readme, "notebook.md": notebook_page(_PROJECT / "docs" / "notebook.ipynb")}
    for path in sorted((_PROJECT / "infra").glob("*/README.md")):
        text = re.sub(r"\]\(\.\./(\w+)/README\.md\)", r"](\1.md)", path.read_text())
        pages[f"deploy/{path.parent.name}.md"] = text
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Lead links to infra/ and to the notebook to their pages."""
    markdown = re.sub(r"\]\(\.\./infra/(\w+)/README\.md\)", r"](deploy/\1.md)", markdown)
    return markdown.replace("](notebook.ipynb)", "](notebook.md)")


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: text, code and outputs; pictures are embedded."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(f"![output](data:image/png;base64,{''.join(data['image/png']).strip()})")
            elif text := "".join(data.get("text/plain", output.get("text", []))):
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"
