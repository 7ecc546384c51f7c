"""Documents, help, docstrings and messages use the field's words in plain American English.

Every case names the file, the line, the old word and what to write instead.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from documents import DOCUMENTS, PROJECT
from typer.main import get_command

from jobs.cli import app
from jobs.docs import PAGES

#: old word -> what to write instead; both are looked for and told without regard to upper and lower case
WORDS = {
    "begun": "started",
    "afresh|anew": "again",
    "(?:in|into|out of) force": "current (versions), applied (rules)",
    "held back": "pending",
    "mend(?:s|ed|ing)?": "fix, correct",
    "dear(?:er|est)?|how long, how dear": "expensive; estimated time and cost",
    "for ever": "forever, without limit",
    "(?:not )?in order(?! (?:to|of)\\b)": "complete, INCOMPLETE; sorted",
    "who is who": "identities",
    "tally|tallies": "accounting, run ledger",
    "unaccounted": "missing",
    "settled": "up to date",
    "untouched": "unprocessed, unchanged",
    "stale and why": "stale (reason)",
    "keepers?": "attempt registry",
    "found(?:s|ing) (?:an |no )?identit(?:y|ies)|founders?": "seed",
    "covisible": "co-occurring",
    "holds? other bytes": "checksum mismatch",
    "kinship": "relative similarity",
    "obeys?": "apply, keep",
    "(?:to|not|cannot) be had": "available",
    "at hand": "available",
    "mistakes? of ours|mistakes? of faceatlas": "bug",
    "vouch(?:es)? for": "covers",
    "hangs? on": "depends on",
    "the later the stronger": "later sources take precedence",
    "snapshot before": "previous snapshot",
    "whence|whither|thereof|hitherto|henceforth|lest|nought|betwixt": "plain English",
}
#: British spelling -> American
SPELLING = {
    "colour(?:s|ed|ing)?": "color",
    "neighbours?|neighbouring": "neighbor",
    "behaviours?": "behavior",
    "licen(?:ce|ces|ced)": "license",
    "centre[sd]?": "center",
    "grey": "gray",
    "catalogues?": "catalog",
    "artefacts?": "artifact",
    "(?:recogn|normal|organ|summar|optim|initial|serial|parallel|minim|maxim|util)is(?:e|es|ed|ing|ation)": "-ize",
    "favour\\w*|honour\\w*|labour\\w*": "-or",
    "analys(?:e|es|ed|ing)": "analyze",
    "judgement": "judgment",
}
#: names that are gone from code and settings -> today's; looked for in code spans, too
NAMES = {
    "switch_early": "promote_early",
    "afresh_up_to": "recluster_up_to",
    "afresh_growth": "recluster_growth",
    "identities\\.kinship": "identities.relative_similarity",
    "size_adjust": "small_cluster_margin",
    "in_order|to_try_again|held_back": "complete, retryable, pending",
    "telling_of_waits": "watch_for_stalls",
    "Careful|Tally|WhoIsWho": "IsolatedAnnotator, RunLedger, identities",
    "reason_class": "error_class",
    "people_config": "pipeline/config",
}
#: the changelog says what the settings were called, and what became of them
NAMES_OF_THE_PAST = "docs/changelog.md"


@dataclass(frozen=True)
class Finding:
    """An old word: where, as it stands there, and what to write instead."""

    where: str
    word: str
    use: str

    def __str__(self):
        return f"{self.where}: {self.word!r}: write {self.use}"


def compiled(words, flags=re.IGNORECASE):
    # not parts of names and paths: neighbour_tasks, ops/colour.py, licence=..., `licence:` of a list of attributes
    return [(re.compile(rf"(?<![\w/.\"'-])(?:{old})(?!\w|\.py|[/(=:\"'])", flags), use) for old, use in words.items()]


PROSE = compiled(WORDS) + compiled(SPELLING)
IDENTIFIERS = [(re.compile(rf"(?<!\w)(?:{old})(?!\w)"), use) for old, use in NAMES.items()]


def search(text, where, patterns) -> Iterator[Finding]:
    for number, line in where_of(text, where):
        for pattern, use in patterns:
            for match in pattern.finditer(line):
                yield Finding(number, match[0], use)


def where_of(text, where):
    """(place, text) of each paragraph, as an old word may be broken over two lines."""
    start = 1
    for part in re.split(r"(\n\s*\n)", text):
        if part.strip():
            yield f"{where}:{start}", " ".join(part.split())
        start += part.count("\n")


def without_code(text):
    """A document without code spans; code blocks stay, as their comments are prose."""
    return re.sub(r"(?<!`)`[^`\n]+`(?!`)", "CODE", text)


def told(findings):
    return "\n" + "\n".join(map(str, findings))


# -- documents --------------------------------------------------------------------------------------------------------

GENERATED = {PROJECT / "docs" / name for name in PAGES}
MARKDOWN = sorted({*DOCUMENTS, *(PROJECT / "docs").rglob("*.md")} - GENERATED)


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(PROJECT)))
def test_documents_use_the_words_of_today(path):
    name, text = str(path.relative_to(PROJECT)), path.read_text()
    found = list(search(without_code(text), name, PROSE))
    if name != NAMES_OF_THE_PAST:
        found += search(text, name, IDENTIFIERS)
    assert not found, told(found)


def test_an_old_word_is_noticed_and_its_replacement_named():
    text = "It has\nbegun afresh.\n\nThe colour of `colour.py`, in elsewhere/ops/colour.py, of the neighbours."
    found = [str(finding) for finding in search(without_code(text), "page.md", PROSE)]
    assert [finding.split(":")[1] for finding in found] == ["1", "1", "4", "4"]
    assert found[0] == "page.md:1: 'begun': write started"
    assert not list(search("in order to sort, in order of score; `find_neighbours(x)`", "x", PROSE))


# -- code: pages made from it, help, docstrings, messages -------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(GENERATED), ids=lambda path: path.name)
def test_generated_pages_use_the_words_of_today(path):
    found = list(search(without_code(path.read_text()), path.name, PROSE))
    assert not found, told(found)


def commands():
    """(name, click command) of `faceatlas` and all its sub-commands."""
    waiting = [("faceatlas", get_command(app))]
    while waiting:
        name, command = waiting.pop()
        yield name, command
        waiting += [(f"{name} {sub}", inner) for sub, inner in getattr(command, "commands", {}).items()]


COMMANDS = dict(commands())


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_uses_the_words_of_today(name):
    command = COMMANDS[name]
    texts = [command.help or "", *(getattr(parameter, "help", None) or "" for parameter in command.params)]
    found = [finding for text in texts for finding in search(without_code(text), f"{name} --help", PROSE + IDENTIFIERS)]
    assert not found, told(found)


MODULES = sorted(
    path.relative_to(PROJECT)
    for package in ("pipeline", "actors", "jobs", "faceatlas")
    for path in (PROJECT / package).rglob("*.py")
)


def texts_of(path):
    """(line, text) of the docstrings and of the string constants that are sentences: those with a space."""
    tree = ast.parse((PROJECT / path).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_docstrings_and_messages_use_the_words_of_today(path):
    found = [
        Finding(f"{path}:{line + int(finding.where.rpartition(':')[2]) - 1}", finding.word, finding.use)
        for line, text in texts_of(path)
        for finding in search(without_code(text), "", PROSE)
    ]
    assert not found, told(found)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_comments_use_the_words_of_today(path):
    found = [
        Finding(f"{path}:{token.start[0]}", finding.word, finding.use)
        for token in tokenize.generate_tokens(io.StringIO((PROJECT / path).read_text()).readline)
        if token.type == tokenize.COMMENT
        for finding in search(without_code(token.string), "", PROSE)
    ]
    assert not found, told(found)


# -- what is deployed and shown ---------------------------------------------------------------------------------------

SHOWN = sorted(
    path.relative_to(PROJECT)
    for folder in ("infra", "jobs/page")
    for path in (PROJECT / folder).rglob("*")
    if path.suffix in {".yaml", ".yml", ".json", ".sh", ".sbatch", ".html", ".css", ".js", ""} and path.is_file()
)


@pytest.mark.parametrize("path", SHOWN, ids=str)
def test_deployments_and_the_report_use_the_words_of_today(path):
    text = (PROJECT / path).read_text()
    found = list(search(without_code(text), str(path), PROSE)) + list(search(text, str(path), IDENTIFIERS))
    assert not found, told(found)
