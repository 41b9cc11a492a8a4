"""The words of the embedded model as tokens: each whole word of the vocabulary is one."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPTokenizer

from latentcast.diffusion.scenes.captions import VOCABULARY

__all__ = ["TEXT_LENGTH", "build_tokenizer", "token_ids"]

TEXT_LENGTH = 40
"""Tokens of a sentence with its padding; the longest caption has 27."""


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Make a CLIP tokenizer that has every word of the vocabulary as one token.

    Merges are learned from the words themselves until each is whole, so unknown words fall apart into letters
    but never fail. The tokens' numbers are always the same: a training that goes on relies on them.
    """
    alphabet = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789,.!?'-")
    merges = _merges()
    pieces = alphabet + [letter + "</w>" for letter in alphabet] + ["".join(pair) for pair in merges]
    words = list(dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return CLIPTokenizer.from_pretrained(folder, model_max_length=TEXT_LENGTH)


def _merges() -> list[tuple[str, str]]:
    """Pairs to join, the most frequent first; of equally frequent ones the last in the alphabet.

    The trainer of the tokenizers package breaks such ties otherwise from one build to the next.
    """
    words = [[*word[:-1], f"{word[-1]}</w>"] for word in VOCABULARY]
    merges = []
    while counts := Counter(pair for word in words for pair in pairwise(word)):
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        words = [_joined(word, best) for word in words]
    return merges


def _joined(word: list[str], pair: tuple[str, str]) -> list[str]:
    pieces: list[str] = []
    for piece in word:
        if pieces and (pieces[-1], piece) == pair:
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return pieces


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
