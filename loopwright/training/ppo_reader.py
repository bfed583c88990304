"""How PPO reads sampled responses with a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from loopwright.errors import ModelError
from loopwright.models import lm_head
from loopwright.models.checkpointing import checkpoint_blocks
from loopwright.models.decoder import Below, Decoder
from loopwright.models.heads import score_of
from loopwright.models.layers import unwrapped
from loopwright.objectives.kl import Head
from loopwright.training.ppo_batch import Episodes


class Reader:
    """Reads episodes with one model, by our own forward pass where the family is known."""

    def __init__(self, model: Any, *, checkpointing: bool = False) -> None:
        """`model`: a causal LM or a one-label classifier, or a peft model around one; as it will be trained.

        Raises:
            ModelError: checkpointing is asked for where the family is not known.
        """
        self.model = model
        self._base = unwrapped(model)
        found = Decoder.of(model)
        self.decoder = found if isinstance(found, Decoder) else None
        self.why_not = None if isinstance(found, Decoder) else found  # why the model's own forward pass is taken
        self.below = 0  # so many of the lowest blocks are not computed: episodes bring what they give
        if checkpointing and self.decoder is None:
            raise ModelError(
                f"gradient_checkpointing would do nothing for {type(self._base).__name__} ({found}); drop it"
            )
        if checkpointing:
            checkpoint_blocks(model, True)

    def head(self, episodes: Episodes) -> Head:
        """The hidden states that predict response tokens, [N, D], with the LM head; or logits, see `lm_head.read`."""
        if self.decoder is not None and lm_head.head_is_all(self._base):
            return lm_head.head_on(self._base, self._states(self.decoder, episodes))
        # No mask and no positions: rows start at place 0, and padding stands behind everything that is read.
        return lm_head.read(self.model, input_ids=episodes.ids).at(episodes.predicts())

    def values(self, episodes: Episodes) -> Tensor:
        """[N] float32: what the scalar head says of the states before response tokens."""
        if self.decoder is not None:
            hidden = self._states(self.decoder, episodes)
        else:
            # All ones: what stands behind a row's last token cannot reach back; a mask would cost the fast attention.
            mask = torch.ones_like(episodes.ids)
            hidden = self._base.base_model(input_ids=episodes.ids, attention_mask=mask, use_cache=False)
            hidden = hidden.last_hidden_state[episodes.predicts()]
        return score_of(self.model, hidden).float()

    def frozen_blocks(self) -> int:
        """How many of the lowest blocks, and the embeddings under them, do not change in training; never all."""
        if self.decoder is None or any(parameter.requires_grad for parameter in _embeddings(self.decoder)):
            return 0
        trained = [any(p.requires_grad for p in layer.parameters()) for layer in self.decoder.layers[:-1]]
        return [*trained, True].index(True)

    def take_from(self, owner: Reader, blocks: int) -> None:
        """Do not compute the lowest blocks where they are the very ones of the reader that does."""
        if self.decoder is not None and owner.decoder is not None:
            own, theirs = (
                [*_embeddings(x), *(p for layer in x.layers[:blocks] for p in layer.parameters())]
                for x in (self.decoder, owner.decoder)
            )
            same = len(own) == len(theirs) and all(a is b for a, b in zip(own, theirs, strict=True))
            self.below = blocks if same else 0

    @torch.no_grad()
    def read_below(self, episodes: Episodes, blocks: int) -> Tensor:
        """[B, W, D] what the lowest blocks make of the real tokens of episodes; 0 on padding."""
        assert self.decoder is not None, "only a known family has blocks to stop at"
        found = self.decoder.read_below(episodes.tokens()[0], blocks).x
        below = found.new_zeros(*episodes.ids.shape, found.shape[1])
        below[episodes.real()] = found
        return below

    def _states(self, decoder: Decoder, episodes: Episodes) -> Tensor:
        tokens, at = episodes.tokens()
        below = None
        if self.below:
            assert episodes.below is not None, "these episodes do not bring what the frozen blocks give"
            below = Below(episodes.below[episodes.real()], self.below)
        return decoder.read(tokens, at, below=below)


def _embeddings(decoder: Decoder) -> list[Tensor]:
    modules = [module for module in (decoder.embeddings, decoder.positions) if module is not None]
    return [parameter for module in modules for parameter in module.parameters()]
