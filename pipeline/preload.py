"""Loading modules before they are needed, while others are waited for: most of a short run is loading."""

import importlib
import threading


def preload(*modules: str) -> None:
    """Import modules in a thread; who imports one meanwhile waits for it, and gets its exception."""
    # no daemon: an interpreter that ends in the middle of an import may abort
    threading.Thread(target=_load, args=(modules,), name="load_ahead").start()


def preload_in_worker(*modules: str) -> None:
    """Import modules in an idle worker of the running Ray, which is the first to get a task then."""
    import ray

    ray.remote(num_cpus=0)(_load).remote(modules)


def _load(modules: tuple[str, ...]) -> None:
    for module in modules:
        importlib.import_module(module)
