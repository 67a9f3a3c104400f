"""Eternal tasks."""

import asyncio

from pilus_observer.tasks import Tasks


async def test_a_task_that_fails_goes_on_and_one_that_is_stopped_ends() -> None:
    tasks, ran, enough = Tasks(), [], asyncio.Event()

    async def fails() -> None:
        ran.append(1)
        if len(ran) == 3:
            enough.set()
        raise ValueError("again")

    tasks.start("fails", fails, pause=0.0)
    assert "fails" in {task.get_name() for task in asyncio.all_tasks()}
    await asyncio.wait_for(enough.wait(), 5)
    await tasks.stop()
    assert "fails" not in {task.get_name() for task in asyncio.all_tasks()}
