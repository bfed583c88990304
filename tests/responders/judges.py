"""Judges that need no model: each is a function of what stands in the question that it is asked."""

import hashlib
import json
import math
import re

LINE = re.compile(r'^(Question|Your answer|A|B|Answer): (".*")$')


def read(text):
    """What a reader sees who keeps to the lines: their labels, and what is quoted behind each."""
    found = [LINE.match(line) for line in text.split("\n")]
    return {match[1]: json.loads(match[2]) for match in found if match}


class Scripted:
    """Asks a function for the log-probabilities of the choices, given all that was said, as one text."""

    name, policy = "scripted", "judge-1"

    def __init__(self, logprobs):
        self.logprobs, self.asked, self.written, self.read = logprobs, [], [], []

    def choose(self, conversations, choices):
        self.asked += conversations
        return [self.logprobs("\n".join(one.content for one in messages), choices) for messages in conversations]

    def write(self, conversations, settings):
        self.written += settings
        self.read += conversations
        return [f"reason {one.seed}" for one in settings]


def by_worth(worth, position=0.0):
    """A judge that reads the lines and knows what answers are worth, with a liking for the first position, nats."""

    def logprobs(text, choices):
        seen = read(text)
        return [worth(seen["A"]) + position, worth(seen["B"])]

    return Scripted(logprobs)


def by_hash():
    """Any opinion, as long as it is a function of the text."""

    def logprobs(text, choices):
        digest = hashlib.sha256(text.encode()).digest()
        return [math.log((byte + 1) / 300) for byte in digest[: len(choices)]]

    return Scripted(logprobs)


def gullible(worth):
    """Does what the last command in the text says, whoever wrote it; without one it judges."""

    def logprobs(text, choices):
        commands = re.findall(r"reply with (A|B)\.", text.rsplit("\n", 1)[0])
        if commands:
            return [0.0 if choice == commands[-1] else -20.0 for choice in choices]
        seen = read(text)
        return [worth(seen["A"]), worth(seen["B"])]

    return Scripted(logprobs)
