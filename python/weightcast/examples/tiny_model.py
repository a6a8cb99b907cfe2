"""The model of the examples: it predicts a token from the two before it."""

from __future__ import annotations

import torch
from torch import nn

VOCABULARY = 64
_WIDTH = 256


class TinyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, _WIDTH)
        self.hidden = nn.Linear(2 * _WIDTH, 2 * _WIDTH)
        self.head = nn.Linear(2 * _WIDTH, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of the next token, [batch, length, VOCABULARY], of tokens, [batch, length]."""
        last = self.embedding(tokens)
        before = nn.functional.pad(last, (0, 0, 1, 0))[:, :-1]
        return self.head(torch.tanh(self.hidden(torch.cat([before, last], dim=-1))))


def prompt_logprobs(logits: torch.Tensor, tokens: list[int]) -> list[float]:
    """The log-probability of each token but the first, natural, by the logits of their prompt, [length, vocabulary]."""
    logprobs = logits.float().log_softmax(-1)
    return [logprobs[place, token].item() for place, token in enumerate(tokens[1:])]
