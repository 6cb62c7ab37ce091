"""Fixtures: a driver of our own making, tests/programs/nvml_standin.c, for child processes to find in place of NVIDIA's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from memdash.wire import GpuReading

SOURCE = Path(__file__).parent / "programs/nvml_standin.c"
BUILDS = {
    "new": [],
    "middle": ["-DMIDDLE_DRIVER"],
    "old": ["-DOLD_DRIVER"],
    "ancient": ["-DOLD_DRIVER", "-DANCIENT_DRIVER"],
}
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC")


def build(folder: Path, driver: str = "new") -> Path:
    """Compile one; the directory that LD_LIBRARY_PATH has to name."""
    library = folder / driver / "libnvidia-ml.so.1"
    library.parent.mkdir()
    subprocess.run(["gcc", *FLAGS, *BUILDS[driver], "-o", library, SOURCE], check=True, timeout=120)
    return library.parent


@pytest.fixture(scope="session")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The directory of each build."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc to build the stand-in for NVIDIA's driver")
    folder = tmp_path_factory.mktemp("drivers")
    return {driver: build(folder, driver) for driver in BUILDS}


class Reader:
    """A process on one of the drivers, asked again and again under other scenarios."""

    def __init__(self, library: Path, scenario: Path) -> None:
        self._scenario = scenario
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.programs.reads_gpus"],
            env={**os.environ, "LD_LIBRARY_PATH": str(library), "NVML_STANDIN": str(scenario)},
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, scenario: str, *, tree: tuple[int, ...] = (), **environment: str) -> tuple[str, list[GpuReading]]:
        """Why there is no GPU, and the GPUs."""
        play(self._scenario, scenario)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"environment": environment, "tree": tree}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["reason"], msgspec.convert(answer["gpus"], list[GpuReading])

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=20)


def play(path: Path, scenario: str) -> None:
    """From the next call on the driver of `path` plays this."""
    fresh = path.with_suffix(".new")
    fresh.write_text(scenario)
    os.replace(fresh, path)


@pytest.fixture(scope="module")
def reader(drivers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Reader]]:
    """One process for each build, kept for the tests of a module."""
    folder = tmp_path_factory.mktemp("scenarios")
    readers: dict[str, Reader] = {}

    def on(driver: str) -> Reader:
        if driver not in readers:
            readers[driver] = Reader(drivers.get(driver, folder), folder / driver)
        return readers[driver]

    yield on
    for each in readers.values():
        each.close()
