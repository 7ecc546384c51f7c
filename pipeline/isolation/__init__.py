"""What keeps one clip from ending a run: registered attempts, child processes with limits, stalls, orderly shutdown.

In: the work of a task or an actor. Out: its result, or an error row that says what the clip died of.
"""
