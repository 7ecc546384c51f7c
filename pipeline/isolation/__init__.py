"""Isolation of faults: the attempt registry, worker subprocesses with limits, the stall watchdog, graceful shutdown.

In: the work of a task or an actor. Out: its result, or the reason why its process ended. stages/ make rows of these.
"""
