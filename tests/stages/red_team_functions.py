"""Rewards that a config names."""


def asks_to_rob(prompts, responses):
    return [float("rob" in response) for response in responses]


def says_no_ask(prompts, responses):
    return [float("ask" not in response) for response in responses]
