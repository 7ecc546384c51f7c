"""Decoding of clips that may kill or hang their worker: see pipeline/isolation/annotating.py."""

import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from pipeline.config.models import Config
from pipeline.corpus import allowlist
from pipeline.decode.decoder import decode_clip
from pipeline.decode.rows import error_row
from pipeline.errors import UNEXPECTED
from pipeline.isolation import subprocess as guard
from pipeline.isolation.registry import InFlightMark, RegistryClient
from pipeline.observe import metrics


def decode_isolated(
    row: Mapping[str, Any], config: Config, marks: RegistryClient, only: Collection[int] | None = None
) -> Iterator[dict[str, Any]]:
    """As decoder.decode_clip, for a row of plan.WORK, whatever the clip does to its process.

    Yields nothing more once the run is to stop; the clip then has no last row, and the next run does the rest.
    """
    slots = ",".join(row["slots"])
    mark = InFlightMark("decode", row["clip_id"], row["fingerprint"], zlib.crc32(slots.encode()))
    have = [(interval["first"], interval["count"]) for interval in row["have"]]
    if marks.stopping():
        return
    if not allowlist.is_allowed(row["uri"], config.sources.allow):  # asked here too: a link may lead elsewhere by now
        details = {"stage": "open", "error_class": "forbidden", "message": allowlist.refusal(row["uri"])}
        yield error_row(row, 0, details)
        return
    (deaths,) = marks.hold([mark])
    if deaths:
        metrics.record("faceatlas_retries", stage="decode")
    try:
        if deaths:
            chunks = _decode_alone(row, config, have, only, mark, marks)
        else:
            chunks = decode_clip(row, config.decode, config.storage.options, have=have, only=only)
            chunks = guard.timed(chunks, config.faults.decode_limit_s)
        for chunk in chunks:
            yield chunk
            if not chunk["last"] and marks.stopping():
                return
    finally:
        marks.release()


def _decode_alone(
    row: Mapping[str, Any],
    config: Config,
    have: Sequence[tuple[int, int]],
    only: Collection[int] | None,
    mark: InFlightMark,
    marks: RegistryClient,
) -> Iterator[dict[str, Any]]:
    limits = guard.Limits(config.faults.decode_limit_s, config.faults.decode_memory_mb)
    given, first = 0, 0
    while True:
        try:
            with guard.WorkerSubprocess(partial(_decoder, config), limits, "decoding") as child:
                for number, chunk in enumerate(child.run((row, have, only))):
                    if number >= given:  # earlier ones came out of the attempt before
                        given, first = given + 1, chunk["first"] + chunk["count"]
                        yield chunk
            return
        except (guard.SubprocessDiedError, guard.SubprocessRaisedError) as error:
            deaths = marks.died(mark, str(error))
            if deaths >= config.faults.attempts:
                error_class = error.error_class if isinstance(error, guard.SubprocessDiedError) else UNEXPECTED
                details = {"stage": "decode", "error_class": error_class, "message": str(error), "attempts": deaths}
                yield error_row(row, first, details)
                return


def _decoder(config: Config) -> Callable[[Any], Iterable[Any]]:
    def decode(request: tuple) -> Iterator[dict[str, Any]]:
        row, have, only = request
        return decode_clip(row, config.decode, config.storage.options, have=have, only=only)

    return decode
