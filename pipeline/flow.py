"""The flow on Ray Data, top to bottom: work rows, decode, annotate, write.

    1. work      rows (plan.WORK), a few clips to a block
    2. decode    tasks,        1 clip  : N chunks (schema.FLOW)     decode.cpus, memory, decode.resources
    3. annotate  actor pools,  1 chunk : 1 chunk with its faces     actors.cpus, .gpus, .size, .resources
    4. write     tasks,        N chunks: their accounts             0.1 CPU

`pipeline/converge.py` makes the plan whose work flows here, and takes the accounts that come out.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from pipeline.config.models import Config
from pipeline.isolation.registry import RegistryClient
from pipeline.runs.context import RunContext
from pipeline.runs.model import Stage
from pipeline.stages.annotate import IsolatedAnnotator
from pipeline.stages.decode import decode_packed, pack_work
from pipeline.stages.write import commit_chunks

if TYPE_CHECKING:  # a run without work does not wait for Ray to load
    from collections.abc import Callable

    import ray.data

_CPU_CHUNKS, _GPU_CHUNKS = 1, 4  # a GPU wants more faces at once; on a CPU a second chunk only takes memory
_WRITE_CPUS = 0.1  # writing waits for storage; it must find a place beside decoders and actors


def build_flow(
    work: pa.Table, context: RunContext, registry: RegistryClient, pools: Sequence[Stage], *, write: bool = True
) -> "ray.data.Dataset":
    """The Ray Dataset of a run: from work rows (plan.WORK) to accounts (stages.write.ACCOUNT).

    Args:
        work: what is missing.
        context: the run.
        registry: where the workers register what they are about to work on.
        pools: the actor pools, in the order in which chunks pass them.
        write: False ends the flow after stage 3, with annotated chunks, for trials.
    """
    import ray.data

    config = context.config
    _configure_ray_data(config)

    # 1. work rows: a few clips to a block, for blocks are the units of scheduling. Packed, as Ray asks its workers to
    #    look at every Arrow table before it begins: a task per block, and seconds until the first worker has loaded
    blocks = pack_work(work, min(work.num_rows, max(64, work.num_rows // 8)))
    flow: ray.data.Dataset = ray.data.from_items(blocks, override_num_blocks=len(blocks))

    # 2. decode, CPU tasks, 1 clip : N chunks. The memory they reserve (two chunks and their Arrow copies) bounds how
    #    many run on a node, and makes Ray Data keep decoding and annotating apart instead of fusing them
    flow = flow.map_batches(
        cast("Callable", decode_packed),
        fn_kwargs={"context": context, "registry": registry},
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=config.decode.cpus,
        memory=4 * config.decode.chunk_mb << 20,
        **_custom(config.decode.resources),
    )

    # 3. annotate, actor pools, 1 chunk : 1 chunk with its faces
    for stage in pools:
        pool = stage.pool
        sizes = {"size": pool.size} if pool.size else {"min_size": pool.min_size, "max_size": pool.max_size}
        flow = flow.map_batches(
            IsolatedAnnotator,
            fn_constructor_kwargs={"stage": stage, "registry": registry, "faults": config.faults},
            batch_size=config.actors.batch_chunks or (_GPU_CHUNKS if pool.gpus else _CPU_CHUNKS),
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(**sizes),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            **_custom(pool.resources),
        )

    # 4. write, CPU tasks, N chunks : their accounts
    if write:
        flow = flow.map_batches(
            cast("Callable", commit_chunks),
            fn_kwargs={"context": context},
            batch_size=config.store.chunks_per_file,
            batch_format="pyarrow",
            num_cpus=_WRITE_CPUS,
        )
    return flow


def _configure_ray_data(config: Config) -> None:
    import ray.data

    settings = ray.data.DataContext.get_current()
    settings.target_max_block_size = config.ray.block_mb << 20
    settings.wait_for_min_actors_s = config.actors.wait_for_min_actors_s
    settings.max_errored_blocks = 0  # an exception is a bug or a broken node, never a clip: it must not lose blocks
    settings.enable_progress_bars = False  # ours count clips and frames


def _custom(resources: Mapping[str, float]) -> dict[str, Any]:
    return {"resources": dict(resources)} if resources else {}
