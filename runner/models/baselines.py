"""The baselines by name: `rnn`, `lstm` and `transformer`, the fields of each, and the encoder that they make."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from memdash.errors import UsageError
from runner.models.encoders import Encoder, LstmEncoder, RnnEncoder, TransformerEncoder
from runner.own_fields import read_fields

BASELINE = "baseline"
Size = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, lt=1)]


class RecurrentFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `rnn` and `lstm`."""

    embedding_size: Size = 128
    hidden_size: Size = 128
    """Of each direction."""
    num_layers: Size = 1
    bidirectional: bool = True
    dropout: Share = 0.1
    """After the embedding and each layer."""


class TransformerFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `transformer`."""

    hidden_size: Size = 128
    num_layers: Size = 2
    num_heads: Size = 4
    feedforward_size: Size = 512
    max_positions: Size = 512
    """The longest text that it can read, in tokens."""
    dropout: Share = 0.1


Fields = RecurrentFields | TransformerFields
FIELDS: dict[str, type[RecurrentFields] | type[TransformerFields]] = {
    "rnn": RecurrentFields,
    "lstm": RecurrentFields,
    "transformer": TransformerFields,
}


class Baseline(msgspec.Struct, frozen=True):
    """All that its shape depends on."""

    architecture: str
    fields: dict[str, Any]
    vocab_size: int
    id2label: dict[int, str]


def choose_baseline(
    architecture: str, asked: dict[str, Any], max_length: int, vocab_size: int, names: dict[int, str]
) -> Baseline:
    """From `model.config`. Raises UsageError for a field that it lacks, or a size that is none."""
    fields = read_fields(FIELDS[architecture], asked, "model.config", f"`{architecture}`")
    if isinstance(fields, TransformerFields):
        if fields.hidden_size % fields.num_heads:
            raise UsageError(
                f"model.config.num_heads = {fields.num_heads}: does not divide hidden_size = {fields.hidden_size}"
            )
        if max_length > fields.max_positions:
            raise UsageError(
                f"data.max_length = {max_length}: the model has only {fields.max_positions} positions",
                hint="raise model.config.max_positions",
            )
    return Baseline(architecture, msgspec.structs.asdict(fields), vocab_size, names)


def parse_baseline(table: Any) -> Baseline:
    """From a checkpoint. Raises ValueError."""
    return msgspec.convert(table, Baseline, strict=False)  # JSON knows no numbers as keys


def make_encoder(baseline: Baseline) -> Encoder:
    """With new weights, drawn from the global generator."""
    fields = dict(baseline.fields)
    if baseline.architecture == "transformer":
        return TransformerEncoder(baseline.vocab_size, **fields)
    kind = {"rnn": RnnEncoder, "lstm": LstmEncoder}[baseline.architecture]
    return kind(baseline.vocab_size, **fields)
