"""What `trainer_loop.py` trains: on the CPU, in float32, a step at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from .tiny_model import VOCABULARY, TinyModel, prompt_logprobs

_PROMPT = [5, 8, 13, 21, 34, 55, 26, 18, 44, 62, 43, 42]
_BATCH, _LENGTH = 16, 32


class Trainer:
    """Random tokens, which no model can learn, so that every step changes it.."""

    prompt = _PROMPT

    def __init__(self, model: nn.Module, vocabulary: int, learning_rate: float) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        self._random = torch.Generator().manual_seed(1)

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for _, tensor in self.weights())

    def step(self) -> float:
        """Trains on one batch; returns its loss."""
        tokens = torch.randint(self._vocabulary, (_BATCH, _LENGTH + 1), generator=self._random)
        logits = self._logits(tokens[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.item()

    def expected(self) -> list[float]:
        """The log-probabilities of the prompt's tokens but the first."""
        with torch.no_grad():
            return prompt_logprobs(self._logits(torch.tensor([_PROMPT]))[0], _PROMPT)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """By the names that the engine's checkpoint has."""
        yield from self._model.state_dict().items()

    def _logits(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._model(tokens)


class TinyTrainer(Trainer):
    def __init__(self) -> None:
        torch.manual_seed(1)
        super().__init__(TinyModel(), VOCABULARY, 3e-3)


class TransformersTrainer(Trainer):
    """A model of Hugging Face; the engine gets it in the dtype of its files."""

    def __init__(self, directory: str) -> None:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
        self._dtype = model.dtype
        self._tied = (
            set(getattr(model, "_tied_weights_keys", None) or ())
            if model.config.tie_word_embeddings
            else set()
        )
        super().__init__(model.float(), 64, 1e-3)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in super().weights():
            # Files have a tensor that two modules share once.
            if name not in self._tied:
                yield name, tensor.to(self._dtype)

    def _logits(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._model(tokens).logits
