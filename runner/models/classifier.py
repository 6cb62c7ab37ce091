"""A text classifier of our own: an encoder of `transformers` or a baseline, the mean over its tokens, and a small head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from memdash.errors import CheckpointIncomplete, UsageError
from runner.models.baselines import BASELINE, Baseline, make_encoder, parse_baseline

CONFIG, WEIGHTS = "config.json", "model.safetensors"
HEAD, LABELS = "classifier_head", "id2label"
POOLER = "pooler"


class HeadShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What lies between the mean over the tokens and the classes."""

    hidden: int = 0
    """0 = the classes follow at once."""
    dropout: float = 0.1


class Scores(NamedTuple):
    """What a classifier says, under the name that models of `transformers` use."""

    logits: Tensor
    """(batch, classes)."""


class Classifier(nn.Module):
    """Its encoder bears the name that `from_pretrained` of the encoder's own class looks for in a checkpoint."""

    def __init__(self, encoder: nn.Module, config: Any, width: int, num_classes: int, head: HeadShape) -> None:
        super().__init__()
        self.base_model_prefix: str = encoder.base_model_prefix  # type: ignore[assignment]
        self.supports_gradient_checkpointing = bool(getattr(encoder, "supports_gradient_checkpointing", False))
        self.shown_as = type(encoder).__name__
        self.config = config
        self.add_module(self.base_model_prefix, encoder)
        self.classifier_head = make_head(width, num_classes, head)

    @property
    def base_model(self) -> nn.Module:
        """The encoder."""
        return self.get_submodule(self.base_model_prefix)

    def gradient_checkpointing_enable(self) -> None:
        """Compute the encoder's layers again in the backward."""
        enable = getattr(self.base_model, "activation_checkpointing_enable", None)
        (enable or self.base_model.gradient_checkpointing_enable)()  # type: ignore[operator]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Scores:
        """Both (batch, length); the mask is 0 where there is padding."""
        hidden = self.base_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        counted = attention_mask[..., None].to(hidden.dtype)
        mean = (hidden * counted).sum(1) / counted.sum(1).clamp(min=1)
        return Scores(self.classifier_head(mean))


def make_head(width: int, num_classes: int, shape: HeadShape) -> nn.Sequential:
    """With Xavier's weights and no biases to start from."""
    layers: list[nn.Module] = [nn.Dropout(shape.dropout)]
    if shape.hidden:
        layers = [nn.Linear(width, shape.hidden), nn.GELU(), nn.Dropout(shape.dropout)]
    layers.append(nn.Linear(shape.hidden or width, num_classes))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def over_pretrained(encoder: nn.Module, head: HeadShape) -> Classifier:
    """A head over an encoder of `transformers`, whose config then says so. Raises UsageError."""
    config: Any = encoder.config
    if getattr(config, "is_encoder_decoder", False) or not isinstance(getattr(config, "hidden_size", None), int):
        raise UsageError(
            f"model.head_hidden = {head.hidden}: {type(encoder).__name__} does not give one vector for each token",
            hint="0 takes the architecture's own head",
        )
    if isinstance(getattr(encoder, POOLER, None), nn.Module):
        setattr(encoder, POOLER, None)  # it would be trained to no end: the head reads the tokens
    config.use_cache = False  # keys and values of the past are of no use in training
    setattr(config, HEAD, msgspec.to_builtins(head))
    return Classifier(encoder, config, config.hidden_size, len(config.id2label), head)


def over_baseline(baseline: Baseline, head: HeadShape) -> Classifier:
    """A head over a baseline with new weights."""
    config = BaselineConfig(baseline, head)
    encoder = make_encoder(baseline)
    return Classifier(encoder, config, encoder.width, len(baseline.id2label), head)


class BaselineConfig(NamedTuple):
    """What a checkpoint of a baseline says about itself."""

    baseline: Baseline
    head: HeadShape

    def save_pretrained(self, folder: Path) -> None:
        """Write it."""
        table = {BASELINE: msgspec.to_builtins(self.baseline, str_keys=True), HEAD: msgspec.to_builtins(self.head)}
        (folder / CONFIG).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def open_classifier(folder: Path) -> Classifier:
    """A classifier from a light or full checkpoint, ready to be asked. Raises CheckpointIncomplete."""
    from safetensors.torch import load_file

    try:
        table = json.loads((folder / CONFIG).read_bytes())
        head = msgspec.convert(table[HEAD], HeadShape)
        if BASELINE in table:
            model = over_baseline(parse_baseline(table[BASELINE]), head)
        else:
            model = over_pretrained(AutoModel.from_config(AutoConfig.from_pretrained(folder)), head)
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        text = f"{folder}: is no classifier with a head of memdash's own: {type(error).__name__}: {error}"
        raise CheckpointIncomplete(text) from None
    return model.eval()
