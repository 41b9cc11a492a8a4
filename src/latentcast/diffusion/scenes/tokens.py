"""The words of the embedded model as tokens: each whole word of the vocabulary is one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from latentcast.diffusion.scenes.captions import VOCABULARY

__all__ = ["TEXT_LENGTH", "build_tokenizer", "token_ids"]

TEXT_LENGTH = 40
"""Tokens of a sentence with its padding; the longest caption has 27."""


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Make a CLIP tokenizer that has every word of the vocabulary as one token.

    Merges are learned from the words themselves until each is whole, so unknown words fall apart into letters
    but never fail.
    """
    alphabet = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789,.!?'-")
    byte_pair = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    byte_pair.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=1,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    byte_pair.train_from_iterator([" ".join(VOCABULARY)], trainer)
    merges = [
        tuple(pair) if isinstance(pair, list) else tuple(pair.split())
        for pair in json.loads(byte_pair.to_str())["model"]["merges"]
    ]
    pieces = alphabet + [letter + "</w>" for letter in alphabet] + ["".join(pair) for pair in merges]
    words = list(dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return CLIPTokenizer.from_pretrained(folder, model_max_length=TEXT_LENGTH)


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """What the tokenizer makes of sentences in the vocabulary's words, much sooner, since each is one token.

    Args:
        tokenizer: of `build_tokenizer`.
        texts: sentences with a space between any two words.

    Returns:
        int64 (num, length), padded.
    """
    known = tokenizer.get_vocab()
    first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = np.full((len(texts), TEXT_LENGTH), tokenizer.pad_token_id, np.int64)
    for row, text in zip(ids, texts, strict=True):
        words = [first, *(known[f"{word}</w>"] for word in text.split()), last]
        row[: len(words)] = words
    return torch.from_numpy(ids)
