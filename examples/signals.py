"""Writes signals like EEG and their texts: signals.npy (examples, channels, timesteps), and texts.txt with a line for each.

python examples/signals.py DIR --examples 400                  # 0.9 GB
python examples/signals.py DIR --examples 8 --of 7200          # as large as 16.6 GB, on disk 18 MB: the rest are holes
memdash run examples/signal-to-text.toml --set data.source=DIR/signals.npy --set data.targets=DIR/texts.txt
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np

from runner.tasks.made_signals import MadeSignals, Shape

SPARE_BYTES = 1 << 30  # a full disk hurts more than this program


def write(folder, made, real, dtype):
    """The first `real` examples; the file is as large as all of them."""
    shape = (made.shape.examples, made.shape.channels, made.shape.timesteps)
    example_bytes = shape[1] * shape[2] * np.dtype(dtype).itemsize
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free - SPARE_BYTES
    if real * example_bytes > free:
        sys.exit(
            f"{folder}: {real * example_bytes / 1e9:.1f} GB to write, and {max(0, free) / 1e9:.1f} GB free to spare"
        )
    with open(folder / "signals.npy", "wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for index in range(real):
            file.write(made.signal(index).astype(dtype).tobytes())
        file.truncate(start + shape[0] * example_bytes)
    texts = [made.text(index) for index in range(shape[0])]
    (folder / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description="Write signals like EEG and their texts.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--examples", type=int, default=400, help="how many are written")
    parser.add_argument("--of", type=int, default=0, help="how many there seem to be: the rest are holes in the file")
    parser.add_argument("--channels", type=int, default=105)
    parser.add_argument("--timesteps", type=int, default=5500)
    parser.add_argument("--longest-text", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    options = parser.parse_args()
    total = max(options.examples, options.of)
    made = MadeSignals(options.seed, Shape(total, options.channels, options.timesteps, options.longest_text))
    write(options.folder, made, options.examples, options.dtype)


if __name__ == "__main__":
    main()
