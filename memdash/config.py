"""The run config: every table and key of the TOML file, with its default and its meaning."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any, Literal

import msgspec

BUILT_IN_TASKS = ("language-modelling", "text-classification", "aspects", "signal-to-text")
BUILT_IN_SOURCES = ("python-docs", "aspects")
BUILT_IN_SIGNALS = "signals"
BASELINES = ("rnn", "lstm", "transformer")
TEXT_FORMATS = ("csv", "tsv", "jsonl", "text")


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of the file."""


class RunSection(Section, frozen=True, kw_only=True):
    """The run itself."""

    name: str = "run"
    """Shown everywhere; the run id is this name with the date and time."""
    command: list[str] = []
    """A program of your own instead of memdash's runner: `["python", "train.py"]`, from the config's directory, no shell."""
    seed: int = 0
    """Decides initial weights, dropout and the order of examples."""
    dir: str = ""
    """Where the run directory is made; empty = the state directory (`~/.local/state/memdash/runs`)."""


class TaskSection(Section, frozen=True, kw_only=True):
    """What is trained."""

    name: str = "language-modelling"
    """`language-modelling`, `text-classification`, `aspects`, `signal-to-text`, or your own, `module:function` beside the config."""
    options: dict[str, Any] = {}
    """Handed to your own task as it is; with `data.source = "signals"` their `examples`, `channels`, `timesteps`."""


class ModelSection(Section, frozen=True, kw_only=True):
    """Which model; a task of your own may ignore this table."""

    pretrained: str = ""
    """A local directory, `package:name/directory` or hub name for `from_pretrained`; empty = random weights."""
    architecture: str = "bert"
    """A `transformers` model type, or a small `rnn`, `lstm` or `transformer` to classify; unused with `pretrained`."""
    config: dict[str, Any] = {}
    """Fields of that architecture's config, such as `hidden_size = 128`; with `pretrained` they override its own."""
    head_hidden: int = 0
    """Width of a small head over the mean of all tokens, for classification; 0 = the architecture's own head."""
    head_dropout: float = 0.1
    """In that small head, and in the one of `rnn`, `lstm` and `transformer`."""
    freeze: Literal["none", "encoder"] = "none"
    """`encoder` = only the head (and a pooler) is trained: no gradients, optimizer state or activations for the rest."""
    trained_layers: int = 0
    """With `freeze = "encoder"`: its last so many layers are trained all the same."""


class DataSection(Section, frozen=True, kw_only=True):
    """Which examples."""

    source: str = "python-docs"
    """A file (from the config's directory, or `package:name/file`): .csv .tsv .jsonl .txt .npy; or `python-docs`, `aspects`, `signals`."""
    targets: str = ""
    """With a .npy `source`: a .txt file with a text a line for each signal, or .jsonl (`text_column`, `timesteps`)."""
    memory_map: bool = True
    """Read each signal from disk when it is needed; `false` loads the whole file into host memory."""
    downsample: int = 1
    """Keep one of so many timesteps of a signal: memory and time go down with it."""
    lowpass: bool = True
    """Filter before that, so that fast waves vanish instead of turning up as slow ones that were never there."""
    num_workers: int = 0
    """Processes that prepare the micro-batches to come; the training is the same bit for bit. 0 = none."""
    prefetch: int = 2
    """Micro-batches that each of them keeps ready, in shared memory."""
    format: Literal["", "csv", "tsv", "jsonl", "text"] = ""
    """Empty = from the file's ending."""
    text_column: str = "text"
    """The column or JSON key that holds the text."""
    label_column: str = "label"
    """The column or JSON key that holds the class, for classification."""
    where: dict[str, str] = {}
    """Keep only rows whose columns have these values."""
    max_examples: int = 0
    """Use only the first so many examples; 0 = all."""
    max_length: int = 128
    """Tokens per example; longer texts are cut (classification) or split into blocks (language modelling)."""
    vocab_size: int = 4000
    """Of the tokenizer that is trained on the texts when `tokenizer` and `model.pretrained` are empty."""
    tokenizer: str = ""
    """A local directory or hub name; empty = the pretrained model's own, or one trained at the start."""
    validation_fraction: float = 0.1
    """Share of the examples held out for evaluation; 0 = none."""
    subset_ratio: float = 1.0
    """Share of all examples, the held-out ones too, that the run uses, drawn by its seed."""
    padding: Literal["batch", "group", "global", "bucket", "flat", "sequential"] = "batch"
    """To the longest of a micro-batch, a step, or all; `bucket` = like lengths in one step; items `flat`, or one at a time."""
    outlier_length: int = 0
    """Training examples longer than this are outliers, and the journal says how many; 0 = none are."""
    outliers: Literal["isolate", "drop", "truncate"] = "isolate"
    """`isolate` = each in a slice of its own, so that no other is padded to it; `drop` = left out; `truncate` = cut."""


class TrainSection(Section, frozen=True, kw_only=True):
    """The training loop."""

    global_batch: int = 16
    """Examples per optimizer step over all ranks; nothing that memdash does changes it."""
    micro_batch: int = 0
    """Examples per forward on one rank; 0 = the whole group at once. Can be changed while the run goes on."""
    epochs: float = 1.0
    """Passes over the data, when `max_steps` is 0."""
    max_steps: int = 0
    """Optimizer steps; 0 = as many as `epochs` takes."""
    learning_rate: float = 5e-4
    """Peak learning rate."""
    weight_decay: float = 0.01
    """Decoupled from the gradient (with `sgd`: added to it); not applied to biases and norms."""
    optimizer: Literal["adamw", "adamw8bit", "sgd", "adafactor"] = "adamw"
    """Bytes of state a parameter: `adamw` 8, `adamw8bit` 2 (by bitsandbytes), `sgd` 0 (4 with momentum), `adafactor` ~0."""
    optimizer_impl: Literal["auto", "fused", "foreach", "for-loop"] = "auto"
    """`fused` needs no memory for an update, `for-loop` that of one weight, `foreach` that of all. `auto` = the least."""
    momentum: float = 0.0
    """Of `sgd`."""
    optimizer_in_backward: bool = False
    """Update each weight as soon as its gradient is there and free that: needs the whole group in one slice, no clipping."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    max_grad_norm: float = 1.0
    """Gradient clipping over the whole group; 0 = off."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Of the forward pass, by autocast; weights stay fp32. `fp16` scales the loss (GradScaler)."""
    gradient_checkpointing: bool = False
    """Compute each layer's activations again in the backward instead of keeping them: less memory, a third more time."""
    grow_after: int = 200
    """Steps without an OOM after which a micro-batch that was shrunk is tried one size larger; 0 = never."""
    mlm_probability: float = 0.15
    """Share of tokens that masked language modelling hides."""
    eval_every: int = 0
    """Steps between evaluations; 0 = at the end only."""
    patience: int = 0
    """Evaluations in a row without a better `patience_metric`, after which the run is finished early; 0 = never."""
    patience_metric: str = "loss"
    """A metric of the evaluation: losses, perplexities and `wer` are to fall, all others to rise."""
    threads: int = 0
    """CPU threads for torch; 0 = torch's own choice."""


class DeviceSection(Section, frozen=True, kw_only=True):
    """Where it is trained."""

    kind: Literal["auto", "cuda", "cpu", "simulated"] = "auto"
    """`auto` = cuda where there is one, else cpu. `simulated` = the CPU with a device's memory limit enforced."""
    capacity: str = ""
    """Memory of the simulated device, such as `512MiB`; on cuda a cap for this process. Empty = the device's own."""


class MemorySection(Section, frozen=True, kw_only=True):
    """How memory is watched."""

    host_budget: str = ""
    """Host memory for the training process and its children, such as `12GiB`: a ceiling to warn of. Empty = none."""
    exact_peaks: bool = True
    """Read the kernel's high-water marks, so that a spike between two samples shows; this resets `ru_maxrss`."""
    empty_cache_every: int = 0
    """Steps between two collections of garbage that also give the device's cache back; slow when often. 0 = never."""
    malloc: Literal["default", "return"] = "default"
    """`return` = glibc gives a freed tensor's host memory back at once: a lower, truer peak, more time in the kernel."""
    record_history: bool = False
    """Let torch note who allocates what on a CUDA device, for memory snapshots; costs host memory and a little speed."""


class CheckpointSection(Section, frozen=True, kw_only=True):
    """What is saved without being asked."""

    every_steps: int = 0
    """Steps between full checkpoints; 0 = not by steps."""
    every_minutes: float = 0.0
    """Minutes of training between full checkpoints; 0 = not by time."""
    every_epoch: bool = False
    """A full checkpoint at the end of each epoch."""
    keep_last: int = 2
    """Of the full checkpoints above; those that were asked for by hand, and the best one, are never removed."""
    keep_best: str = ""
    """A metric of the evaluation, such as `accuracy` or `loss`: the best one is kept as a light checkpoint."""
    light_precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Of the weights in a light checkpoint; half the size in fp16 and bf16, and no longer exact."""
    at_end: Literal["none", "light", "full"] = "light"
    """What is saved when the run finishes."""


class OnFailureSection(Section, frozen=True, kw_only=True):
    """What is done when the training process dies."""

    restart: int = 0
    """Further attempts in all, from the last full checkpoint; with half the micro-batch where memory was the killer."""


class GuardSection(Section, frozen=True, kw_only=True):
    """What is done about a forecast."""

    mode: Literal["advise", "protect"] = "advise"
    """`advise` shows and journals it. `protect` acts: a step that will not fit is cut smaller, and what is named below."""
    on_warning: Literal["notify", "light", "full", "pause", "stop"] = "full"
    """When memory fills up and may be full within minutes: a light or full checkpoint, a pause, a stop that saves."""
    on_critical: Literal["notify", "light", "full", "pause", "stop"] = "stop"
    """When hardly more time is left than a checkpoint takes; `stop` saves a full one first."""
    cooldown: str = "10m"
    """Not the same deed again within this time."""
    dry_run: bool = False
    """Only write into the journal what `protect` would do."""


class BudgetSection(Section, frozen=True, kw_only=True):
    """What an attempt, and its run, may use."""

    wall: str = ""
    """Time, such as `8h50m`, pauses left out: a full checkpoint is saved and the attempt stopped before it is over."""
    disk: str = ""
    """Size of the run's directory, such as `20GB`: older checkpoints go sooner, and a save that has no room is refused."""


class RunConfig(Section, frozen=True, kw_only=True):
    """A whole config file."""

    run: RunSection = RunSection()
    task: TaskSection = TaskSection()
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    train: TrainSection = TrainSection()
    device: DeviceSection = DeviceSection()
    memory: MemorySection = MemorySection()
    checkpoint: CheckpointSection = CheckpointSection()
    on_failure: OnFailureSection = OnFailureSection()
    budget: BudgetSection = BudgetSection()
    guard: GuardSection = GuardSection()

    @property
    def micro_batch(self) -> int:
        """The first micro-batch, with 0 resolved."""
        return self.train.micro_batch or self.train.global_batch


def changed_keys(config: RunConfig) -> dict[str, Any]:
    """`train.micro_batch` -> 4, for every key that is not its default."""
    defaults = RunConfig()
    return {
        f"{table}.{field}": value
        for table in config.__struct_fields__
        for field, value in msgspec.structs.asdict(getattr(config, table)).items()
        if value != getattr(getattr(defaults, table), field)
    }


OF_ANY_COMMAND = (
    "run.name",
    "run.command",
    "run.dir",
    "memory.host_budget",
    "memory.exact_peaks",
    "memory.malloc",
    "budget.wall",
)
"""What is heeded whatever is run, beside the whole of the tables below; all other keys are those of memdash's own runner."""
TABLES_OF_ANY_COMMAND = ("on_failure", "guard")


def runner_keys(config: RunConfig) -> list[str]:
    """The keys that are not their default and that only memdash's own runner heeds."""
    return [
        key
        for key in changed_keys(config)
        if key not in OF_ANY_COMMAND and key.partition(".")[0] not in TABLES_OF_ANY_COMMAND
    ]


def config_value(config: RunConfig, key: str) -> object:
    """`train.micro_batch` -> 4; a table's name gives the table."""
    value: object = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def table_name(section: type[Section]) -> str:
    """OnFailureSection -> `on_failure`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", section.__name__.removesuffix("Section")).lower()


SECTIONS: dict[str, type[Section]] = {
    section.__name__: section
    for section in (
        RunSection,
        TaskSection,
        ModelSection,
        DataSection,
        TrainSection,
        DeviceSection,
        MemorySection,
        CheckpointSection,
        OnFailureSection,
        BudgetSection,
        GuardSection,
    )
}


def resolve_path(text: str, base: Path) -> Path:
    """A path of the config: relative to `base`, `~`, or `package:name/file` inside an installed package."""
    if not text.startswith("package:"):
        return base / Path(text).expanduser()
    name, _, inside = text.removeprefix("package:").partition("/")
    found = importlib.util.find_spec(name) if name.isidentifier() else None  # looks, but imports nothing
    folders = found.submodule_search_locations if found else None
    return Path(folders[0], inside) if folders else base / text


def data_format(data: DataSection) -> str:
    """`csv`, `tsv`, `jsonl` or `text`; empty when neither `format` nor the file's ending says."""
    endings = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "text", ".md": "text"}
    return data.format or endings.get(Path(data.source).suffix.lower(), "")
