"""Models and tokenizers of `transformers`: loaded, or made at the start; each failure is one clear line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from memdash.errors import UsageError
from runner.spec import Spec

HUB_TIMEOUT_S = 10.0  # a machine without network must say so, not hang
SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
transformers.utils.logging.disable_progress_bar()


def load_tokenizer(spec: Spec, saved: Path | None, texts: Iterable[str]) -> Any:
    """From the config, else the checkpoint, else the pretrained model, else trained on the texts."""
    config = spec.config
    if config.data.tokenizer:
        return _load(AutoTokenizer, "data.tokenizer", spec.pretrained(config.data.tokenizer))
    if saved is not None and (saved / "tokenizer.json").is_file():
        return _load(AutoTokenizer, "the checkpoint's tokenizer", str(saved))
    if config.model.pretrained:
        return _load(AutoTokenizer, "model.pretrained", spec.pretrained(config.model.pretrained))
    return train_tokenizer(texts, config.data.vocab_size)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A lower-case WordPiece tokenizer, as BERT's; the same texts give the same one in every process."""
    from tokenizers import Tokenizer, decoders, models, processors

    vocabulary = _train_vocabulary(list(texts), vocab_size)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = _bert_parts()
    tokenizer.decoder = decoders.WordPiece()
    ends = (("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer.post_processor = processors.BertProcessing(*ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


def _train_vocabulary(texts: list[str], vocab_size: int) -> dict[str, int]:
    """Pieces and their numbers.

    The trainer numbers the pieces `##a`, `##b`... in the order of a hash map, differently each time, and breaks ties
    between merges by number. Naming them as special tokens gives them numbers first, and so makes it repeatable.
    """
    from tokenizers import Tokenizer, models, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = _bert_parts()
    normalize, split = tokenizer.normalizer.normalize_str, tokenizer.pre_tokenizer.pre_tokenize_str
    words = {word for text in texts for word, _place in split(normalize(text))}
    letters = sorted({letter for word in words for letter in word[1:]})
    fixed = [*SPECIAL_TOKENS.values(), *(f"##{letter}" for letter in letters)]
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=fixed, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.get_vocab(with_added_tokens=True)


def _bert_parts() -> tuple[Any, Any]:
    from tokenizers import normalizers, pre_tokenizers

    return normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()


def cut(tokens: list[int], length: int, tokenizer: Any) -> list[int]:
    """The first of them; the last stays where it is one of the tokenizer's own ends. Raises UsageError."""
    if len(tokens) <= length:
        return tokens
    ends = len(tokenizer("")["input_ids"])
    if length <= ends:
        raise UsageError(f"data.outlier_length = {length}: leaves no room beside {ends} special tokens")
    tail = int(tokens[-1] in tokenizer.all_special_ids)
    return tokens[: length - tail] + tokens[len(tokens) - tail :]


def model_config(spec: Spec, tokenizer: Any, **extra: Any) -> Any:
    """The config of the model that is trained, checked against the tokenizer and `data.max_length`."""
    section = spec.config.model
    extra = {**extra, **section.config}
    if section.pretrained:
        _check_fields(_load(AutoConfig, "model.pretrained", spec.pretrained(section.pretrained)), section.config)
        config = _load(AutoConfig, "model.pretrained", spec.pretrained(section.pretrained), **extra)
    else:
        ids = {"pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}
        config = _new_config(section.architecture, section.config, {**ids, **extra})
    if config.vocab_size < len(tokenizer):
        raise UsageError(f"model.config.vocab_size = {config.vocab_size}: the tokenizer has {len(tokenizer)} tokens")
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and spec.config.data.max_length > positions:
        raise UsageError(f"data.max_length = {spec.config.data.max_length}: the model has only {positions} positions")
    return config


def build(auto_class: Any, spec: Spec, config: Any) -> Any:
    """The model with its head: pretrained weights, or random ones."""
    if spec.config.model.pretrained:
        name = spec.pretrained(spec.config.model.pretrained)
        # Never a pickle: only safetensors are read.
        return _load(auto_class, "model.pretrained", name, config=config, use_safetensors=True, dtype="float32")
    try:
        return auto_class.from_config(config)
    except ValueError as error:
        raise UsageError(f"model.architecture = {config.model_type!r}: {_first_line(error)}") from None


def _new_config(architecture: str, asked: dict[str, Any], fields: dict[str, Any]) -> Any:
    known = transformers.models.auto.CONFIG_MAPPING
    if architecture not in known:
        near = difflib.get_close_matches(architecture, list(known), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "a transformers model type, such as bert or gpt2"
        raise UsageError(f"model.architecture = {architecture!r}: transformers knows no such model", hint=hint)
    _check_fields(AutoConfig.for_model(architecture), asked)
    try:
        return AutoConfig.for_model(architecture, **fields)
    except (TypeError, ValueError) as error:
        raise UsageError(f"model.config: {_first_line(error)}") from None


def _check_fields(config: Any, fields: dict[str, Any]) -> None:
    """A misspelt field would be taken without a word, and another model trained than was meant. Raises UsageError."""
    known = {*config.to_dict(), *config.attribute_map}
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else ""
            raise UsageError(f"model.config.{name}: a {config.model_type} config has no such field", hint=hint)


def _load(auto_class: Any, key: str, name: str, **options: Any) -> Any:
    """`from_pretrained`: from the disk when it is there, from the hub when it can be reached, else one clear line."""
    try:
        return auto_class.from_pretrained(name, local_files_only=True, **options)
    except (OSError, ValueError) as error:
        if Path(name).is_dir():
            raise UsageError(f"{key} = {name!r}: cannot be loaded: {_first_line(error)}") from None
    _ask_hub(key, name)
    try:
        return auto_class.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise UsageError(f"{key} = {name!r}: cannot be loaded: {_first_line(error)}") from None


def _ask_hub(key: str, name: str) -> None:
    """Whether the hub is there and has the name. `from_pretrained` itself retries for 46 s where there is no network."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, timeout=HUB_TIMEOUT_S)
    except Exception as error:
        # Whatever goes wrong on the way to the hub, in whichever of its libraries, comes to the same for the user.
        hint = "name a local directory, or go online once to fill the hub's cache"
        raise UsageError(f"{key} = {name!r}: the hub says no: {_first_line(error)}", hint=hint) from None


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
