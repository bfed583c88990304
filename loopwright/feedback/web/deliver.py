"""Tells other servers what is said, beside the requests: from the store's events, so that nothing is told before it is
kept, and nothing is forgotten when this process ends."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from loopwright.feedback.store import webhooks
from loopwright.feedback.store.database import Database
from loopwright.feedback.store.webhooks import Message
from loopwright.feedback.web.settings import ServerConfig
from loopwright.feedback.webhooks import Sender, next_wait_seconds, secret_of

LOOK_EVERY_SECONDS = 2.0

_log = logging.getLogger("loopwright.feedback")


@contextmanager
def delivering(database: Database, config: ServerConfig) -> Iterator[None]:
    """Inside, messages go out in a thread of their own."""
    ended = threading.Event()
    thread = threading.Thread(target=_forever, args=(database, config, ended), name="feedback-webhooks", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def deliver_due(database: Database, config: ServerConfig, sender: Sender, *, now: float) -> int:
    """Send what is due, to all at once; how many messages went out."""

    async def all_of_it() -> int:
        tasks = _begin_due(database, config, sender, set(), now=now)
        await asyncio.gather(*tasks)
        return len(tasks)

    return asyncio.run(all_of_it())


def _begin_due(
    database: Database, config: ServerConfig, sender: Sender, under_way: set[str], *, now: float
) -> list[asyncio.Task[None]]:
    """Begin to send what is due, but to webhooks that are still being told something."""

    async def tell(message: Message) -> None:
        try:
            await _one(database, config, sender, message)
        finally:
            under_way.discard(message.webhook.id)

    tasks = []
    for message in database.read(lambda connection: webhooks.due(connection, now=now)):
        if message.webhook.id not in under_way:
            under_way.add(message.webhook.id)
            tasks.append(asyncio.create_task(tell(message)))
    return tasks


async def _one(database: Database, config: ServerConfig, sender: Sender, message: Message) -> None:
    webhook = message.webhook
    secret = secret_of(config.key.get_secret_value().encode(), webhook.id)
    id = f"{webhook.id}-{message.last}"  # the same when it is sent again: receivers can tell
    done = await sender.deliver(webhook.url, json.dumps(message.body).encode(), message_id=id, secret=secret)
    if done.ok:
        await asyncio.to_thread(database.write, lambda connection: webhooks.delivered(connection, message))
        return
    wait = next_wait_seconds(webhook.attempts + 1, id) if done.may_pass else None
    next = None if wait is None else time.time() + wait
    problem = done.error or "it failed"
    await asyncio.to_thread(database.write, lambda connection: webhooks.failed(connection, message, problem, next=next))


def _forever(database: Database, config: ServerConfig, ended: threading.Event) -> None:
    asyncio.run(_rounds(database, config, ended))


async def _rounds(database: Database, config: ServerConfig, ended: threading.Event) -> None:
    """Each round begins without waiting for those whom the last ones tell: one that is slow holds up nobody else."""
    sender, under_way = Sender(allow_loopback=config.webhooks_to_this_machine), set[str]()
    tasks: set[asyncio.Task[None]] = set()
    while not await asyncio.to_thread(ended.wait, LOOK_EVERY_SECONDS):
        try:
            tasks |= set(_begin_due(database, config, sender, under_way, now=time.time()))
        except Exception:  # the next round tries again
            _log.exception("webhooks could not be read")
        done = {task for task in tasks if task.done()}
        tasks -= done
        for task in done:
            if error := task.exception():
                _log.error("a webhook could not be told", exc_info=error)
