"""The model that a judge's settings name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from loopwright.errors import ConfigError
from loopwright.responders.asked_chooser import AskedChooser
from loopwright.responders.judge import JudgeModelConfig
from loopwright.responders.openai import OpenAIResponder
from loopwright.schemas import Chooser

if TYPE_CHECKING:
    import torch


def open_judge(
    config: JudgeModelConfig,
    given: Path | Chooser | None = None,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] | None = None,
) -> Chooser:
    """The server of the settings, else the model in the given folder, or in that of the settings.

    `say` hears of it where our own engine cannot run the model that is to write.

    Raises:
        ModelError: the folder is no causal LM of transformers.
        ConfigError: no model is named.
    """
    if config.url is not None:
        return AskedChooser(OpenAIResponder(config.url, config.model, stream=False), logprobs=config.logprobs)
    if given is not None and not isinstance(given, Path):
        return given
    from loopwright.responders.local_chooser import LocalChooser  # takes torch, which a server's judge does not need

    folder = given or config.path
    if folder is None:
        raise ConfigError("the judge has neither path, a model's folder, nor url, a server's address; set one")
    return LocalChooser.open(folder, device, say)
