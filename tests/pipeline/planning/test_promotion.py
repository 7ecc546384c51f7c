"""A new version comes into force when no clip of the output would be hidden by it."""

import sys
from pathlib import Path

import pytest

from pipeline.corpus.discover import Corpus
from pipeline.planning import promotion
from pipeline.planning.plan import make_plan
from pipeline.planning.versions import tables_of
from pipeline.runs.accounting import RunLedger

sys.path.append(str(Path(__file__).parent))
import synthetic

from pipeline.storage.output import open_output

NEW = {**synthetic.VERSIONS, "emotions": "emotions-2"}
NEW_TABLES = tables_of(NEW, "c1")


@pytest.fixture
def output(tmp_path):
    """Six complete clips, and who has the new version of emotions: of the first four all chunks, of the fifth some."""
    output, corpus = open_output(str(tmp_path)), synthetic.make_corpus(6)
    synthetic.write_footers(output, corpus)
    RunLedger(
        output,
        make_plan(corpus, output, synthetic.VERSIONS, synthetic.TABLES, synthetic.NEEDS),
        synthetic.VERSIONS,
        synthetic.TABLES,
    )
    promotion.promote_first_versions(output, synthetic.TABLES)
    kept = {4: 1, 5: 0}
    synthetic.write_footers(output, corpus, lambda i: kept.get(i, synthetic.CHUNKS), versions=NEW)
    return output


def part(*rows):
    return Corpus(synthetic.make_corpus(6).clips.take(list(rows)), [])


@pytest.mark.parametrize(
    ("named", "pending"), [((0,), 2), ((0, 1, 4, 5), 0), ((4, 5), 0), ((5,), 1), ((0, 1, 2, 3, 4), 1)]
)
def test_clips_outside_the_corpus_that_lack_a_new_version_are_counted(output, named, pending):
    assert promotion.count_pending(part(*named), output, NEW, NEW_TABLES, synthetic.NEEDS) == pending


def test_nothing_is_pending_where_no_version_changes(output):
    assert promotion.count_pending(part(0), output, synthetic.VERSIONS, synthetic.TABLES, synthetic.NEEDS) == 0


def test_a_new_sampling_is_pending_until_every_clip_has_it(output):
    versions = dict.fromkeys(synthetic.VERSIONS, "other sampling")
    tables = tables_of(versions, "other sampling")
    assert promotion.count_pending(part(0), output, versions, tables, synthetic.NEEDS) == 5
