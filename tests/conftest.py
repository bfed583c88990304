"""Timings are no part of any test: a loaded machine must not fail one."""

from hypothesis import settings

settings.register_profile("loopwright", deadline=None)
settings.load_profile("loopwright")
