"""What a config asks of a task's model to save memory: parts that are not trained, activations that are computed again."""

from __future__ import annotations

from torch import nn

from memdash.config import RunConfig
from memdash.errors import UsageError

POOLER = "pooler"  # between encoder and head; most pretrained models come without a trained one


def adapt(model: nn.Module, config: RunConfig) -> None:
    """Freeze and checkpoint as the config says. Raises UsageError where the model cannot."""
    if config.model.freeze == "encoder":
        freeze_encoder(model, config.model.trained_layers)
    if config.train.gradient_checkpointing:
        recompute_activations(model)


def freeze_encoder(model: nn.Module, trained_layers: int) -> None:
    """Train only the head, a pooler, and the encoder's last `trained_layers` layers. Raises UsageError."""
    encoder = _encoder(model)
    if encoder is None:
        raise UsageError(
            f"model.freeze = 'encoder': {type(model).__name__} has no encoder that can be told from its head",
            hint="a transformers model with a head has one; a model of your own names it `encoder`",
        )
    layers = _layers(encoder)
    if trained_layers > len(layers):
        raise UsageError(f"model.trained_layers = {trained_layers}: {type(encoder).__name__} has {len(layers)} layers")
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(POOLER in name.split("."))
    for layer in layers[len(layers) - trained_layers :]:
        layer.requires_grad_(True)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"model.freeze = 'encoder': nothing is left to train in {type(model).__name__}")


def recompute_activations(model: nn.Module) -> None:
    """Keep only what enters each layer; the backward computes the rest again, with the same dropout. Raises UsageError."""
    enable = getattr(model, "activation_checkpointing_enable", None)  # the name since transformers 5.23
    enable = enable or getattr(model, "gradient_checkpointing_enable", None)
    if enable is None or not getattr(model, "supports_gradient_checkpointing", True):
        raise UsageError(f"train.gradient_checkpointing = true: {type(model).__name__} cannot do it")
    enable()


def _encoder(model: nn.Module) -> nn.Module | None:
    """A transformers model without its head, or what a model of one's own calls `encoder`."""
    if hasattr(model, "base_model_prefix"):
        inner = getattr(model, "base_model", None)
    else:
        inner = getattr(model, "encoder", None)
    return inner if isinstance(inner, nn.Module) and inner is not model else None


def _layers(encoder: nn.Module) -> list[nn.Module]:
    """From the input to the output: the longest list of modules; the decoder's where there is one, too."""
    lists = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
    longest = max(map(len, lists), default=0)
    return list(next(module for module in reversed(lists) if len(module) == longest)) if longest else []
