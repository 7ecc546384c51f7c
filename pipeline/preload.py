"""Preloading of modules while the driver waits for something else: most of a short run is loading."""

import importlib
import threading


def preload(*modules: str) -> None:
    """Import modules in a thread; a concurrent import of one waits for it, and gets its exception."""
    # no daemon: an interpreter that ends during an import may abort
    threading.Thread(target=_load, args=(modules,), name="preload").start()


def preload_in_worker(*modules: str) -> None:
    """Import modules in an idle worker of the running Ray, which is the first to get a task then."""
    import ray

    ray.remote(num_cpus=0)(_load).remote(modules)


def _load(modules: tuple[str, ...]) -> None:
    for module in modules:
        importlib.import_module(module)
