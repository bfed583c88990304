"""Responders that need no model."""

import threading

from loopwright.schemas import Reply


class Echo:
    """Says the last message's words, and remembers how it was asked."""

    name = "echo"

    def __init__(self):
        self.asked = []
        self.closed = threading.Event()

    def reply(self, messages, settings):
        self.asked.append((tuple(messages), settings))
        words = messages[-1].content.split()
        try:
            yield from words
            yield Reply(text="".join(words), finished=len(words) < 3, model="echo")
        finally:
            self.closed.set()


class Endless(Echo):
    """Writes until nobody listens any more."""

    def __init__(self):
        super().__init__()
        self.begun = threading.Event()
        self.at_once = []

    def reply(self, messages, settings):
        self.at_once.append("a reply")
        try:
            while True:
                self.begun.set()
                assert len(self.at_once) == 1
                yield "word "
        finally:
            self.at_once.pop()
            self.closed.set()
