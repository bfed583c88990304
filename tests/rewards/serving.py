"""Rewards served on real sockets of this machine, for as long as a test needs them."""

from contextlib import contextmanager

from loopwright.rewards.server import reward_app
from tests.serving import TOKEN, RunningApp, scripted

__all__ = ["TOKEN", "RunningServer", "scripted", "served"]


class RunningServer(RunningApp):
    """A reward served from a thread of this process."""

    def __init__(self, reward, port=0, token=None, **options):
        super().__init__(reward_app(reward, token, **options), port)


@contextmanager
def served(reward, **options):
    server = RunningServer(reward, **options)
    try:
        yield server
    finally:
        server.stop()
