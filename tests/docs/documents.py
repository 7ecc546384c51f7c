"""The commands of the documents, taken apart as a shell does, and which of them no test can run."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [*(PROJECT / "docs").glob("*.md"), *(PROJECT / "docs" / "reference").glob("*.md")]
DOCUMENTS = sorted([PROJECT / "README.md", *PAGES, *(PROJECT / "infra").rglob("*.md")])

#: what the commands begin with that no test runs, and why; tests check their arguments as far as that is possible here
NOT_RUN = {
    "python3 -m venv": "README's first line: .ci/run runs it word for word in a clean clone",
    ". .venv/bin/activate": "README's lines, which .ci/run runs",
    "pip install": "from the package index: .ci/run does it",
    "faceatlas demo": ".ci/run runs it as README's first line; on S3 by the slow test of tests/storage/test_run.py",
    "faceatlas identities calibrate": "needs many people; tests/end_to_end/test_who_is_who.py runs it",
    "python -m pytest": ".ci/run does, and it would run itself",
    "ruff": ".ci/run does",
    "mypy": ".ci/run does",
    "lint-imports": ".ci/run does",
    "bash .ci/run": "it would run itself",
    "mkdocs build": ".ci/run does",
    "python -m jobs.docs": "it writes into this checkout; its pages are compared below",
    "python tests/parity/make_reference.py": "it downloads 7 GB; its answers in tests/parity/reference are compared",
    "python -m jobs.bench standins": "takes minutes; tests/jobs/bench/test_bench.py tests its parts",
    "python -m jobs.bench peer": "needs py-feat's environment; tests/jobs/bench/test_bench.py runs it without",
    "ray job submit": "needs a cluster with a dashboard; what it submits is run",
    "ray up": "needs an AWS account; Ray validates the file in tests/infra",
    "ray submit": "needs the cluster of `ray up`",
    "ray down": "needs the cluster of `ray up`",
    "docker build": "needs a registry of images; hadolint reads the Dockerfile in tests/infra",
    "docker run": "needs the image; what it runs in it is run",
    "docker compose": "needs the images; the file is held against Compose's schema in tests/infra",
    "kubectl": "needs a cluster; the manifests are held against the published schemas in tests/infra",
    "sbatch": "needs Slurm; shellcheck reads the script in tests/infra",
    "scancel": "needs Slurm",
}


@dataclass(frozen=True)
class Command:
    """A simple command of a code block: document, words, and the text as written, which a shell can run."""

    document: str
    words: tuple[str, ...]
    text: str

    @property
    def reason(self):
        """Why no test runs it; None: one does."""
        return next((why for start, why in NOT_RUN.items() if f"{self.line} ".startswith(f"{start} ")), None)

    @property
    def line(self):
        return " ".join(self.words)

    def inside(self, *start):
        """The words from `start` on, such as those of the command inside `docker run`; None if it is not there."""
        at = next((i for i in range(len(self.words)) if self.words[i : i + len(start)] == start), None)
        return None if at is None else self.words[at:]


def commands():
    """Every simple command of the code blocks, in order; then those on OUT that the text quotes in full."""
    found = []
    for path in DOCUMENTS:
        name = str(path.relative_to(PROJECT))
        text = path.read_text()
        for block in re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.DOTALL):
            for line in re.sub(r"(^|\s)#\s.*", r"\1", block.replace("\\\n", " "), flags=re.MULTILINE).splitlines():
                found += [Command(name, tuple(shlex.split(part)), part) for part in line.split(" && ") if part.strip()]
        plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        for quoted in re.findall(r"`(faceatlas [^`|]*\bOUT\b[^`|]*)`", plain):
            found.append(Command(name, tuple(quoted.split()), quoted))
    return found


COMMANDS = commands()
