"""Small models with random weights, as Hugging Face's transformers save them. Their tokens are the words w0, w1, …"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerFast

VOCABULARY = 2_048
"""Number of tokens."""


def write_tokenizer(directory: str) -> None:
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="w0", eos_token="w1", pad_token="w2", bos_token="w3"
    ).save_pretrained(directory)


def write_random_model(directory: str, configuration: PretrainedConfig, seed: int) -> None:
    """In BF16 and one file, made on the GPU where there is one. The same seed gives the same weights on the same device."""
    torch.manual_seed(seed)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(configuration, dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            # Norms near 1, and weights large enough that answers depend on all of them.
            parameter.normal_(0, 0.05) if parameter.dim() > 1 else parameter.uniform_(0.5, 1.5)
    model.cpu().save_pretrained(directory, max_shard_size="100GB")
    write_tokenizer(directory)
