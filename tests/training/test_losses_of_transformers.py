"""The default loss is the one that Hugging Face's models compute from labels themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from mobo_mpq.errors import InputError
from mobo_mpq.graph import Network
from mobo_mpq.training.losses import default_loss

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def bert(kind: Any, labels: int) -> nn.Module:
    return kind(BertConfig(**SIZES, max_position_embeddings=32, num_labels=labels))


def gpt2() -> nn.Module:
    size = {"vocab_size": 40, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0))


def tokens(classes: int) -> torch.Tensor:
    labels = torch.randint(classes, (3, 9))
    labels[:, -3:] = -100  # as collators pad
    return labels


CASES = {
    "classes": (lambda: bert(BertForSequenceClassification, 3), lambda: torch.tensor([0, 2, 1])),
    "regression": (lambda: bert(BertForSequenceClassification, 1), lambda: torch.randn(3)),
    "multi-label": (lambda: bert(BertForSequenceClassification, 3), lambda: torch.tensor([[1.0, 1, 0]] * 3)),
    "tokens": (lambda: bert(BertForTokenClassification, 4), lambda: tokens(4)),
    "masked": (lambda: bert(BertForMaskedLM, 2), lambda: tokens(40)),
    "causal": (gpt2, lambda: tokens(40)),
}


@pytest.mark.parametrize("case", CASES)
def test_default_loss_is_the_model_s_own(case: str) -> None:
    torch.manual_seed(0)
    make, make_labels = CASES[case]
    model, labels = make().eval(), make_labels()
    inputs = {"input_ids": torch.randint(40, (3, 9)), "attention_mask": torch.ones(3, 9, dtype=torch.long)}
    with torch.no_grad():
        own = model(**inputs, labels=labels)
        network = Network.from_model(model, inputs)
        assert network(**inputs).get("loss") is None
        for output in (model(**inputs), network(**inputs, labels=labels)):
            assert default_loss(output, labels).item() == pytest.approx(own.loss.item(), abs=1e-5)
        assert default_loss(own, labels) is own.loss


def test_labels_of_other_lengths_are_refused() -> None:
    output = gpt2()(input_ids=torch.randint(40, (3, 9)))
    with pytest.raises(InputError, match=r"logits of shape \(3, 9, 40\) and a target of shape \(3, 8\)"):
        default_loss(output, torch.zeros(3, 8, dtype=torch.long))
