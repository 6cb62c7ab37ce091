"""The house's rules: contracts that bite, imports that cost nothing, files a newcomer can read."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for package in ("memdash", "runner") for path in (ROOT / package).rglob("*.py"))
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
MAX_FILE_LINES = 350
EXEMPT = {"wire.py"}  # one message type after the other: splitting it would hide what crosses a process boundary
MAX_FUNCTION_LINES = 60

VIOLATIONS = {
    "imports go down the house": ("memdash/store/journal.py", "import memdash.supervisor.control"),
    "a dashboard learns everything from the supervisor": ("memdash/tui/series.py", "import memdash.store.journal"),
    "memdash never imports the runner": ("memdash/host/sampler.py", "import runner.loop"),
    "the runner uses only what any training script may use": ("runner/loop.py", "import memdash.store.journal"),
    "a training script carries no dashboard": ("memdash/agent/link.py", "import psutil"),
    "thinking is pure": ("memdash/supervisor/run_state.py", "import time"),
    "only the training side knows torch": ("memdash/client.py", "import torch"),
}


def run(*argv: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *argv]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=300)


def lint_imports(cwd: Path) -> str:
    code = "import sys; from importlinter.cli import lint_imports_command; sys.argv = ['lint-imports', '--no-cache']; lint_imports_command()"
    done = run("-c", code, cwd=cwd, PYTHONPATH=str(cwd), COLUMNS="200")
    return done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_contracts_are_kept():
    report = lint_imports(ROOT)
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken" in report, report


@pytest.mark.timeout(300)
def test_each_contract_bites(tmp_path):
    for package in ("memdash", "runner"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file, line in VIOLATIONS.values():
        path = tmp_path / file
        path.write_text(path.read_text() + f"\n{line}\n")
    report = lint_imports(tmp_path)
    assert len(VIOLATIONS) == len(CONTRACTS)
    for contract in CONTRACTS:
        assert any(contract["name"].startswith(name) for name in VIOLATIONS), contract["name"]
        assert re.search(rf"^{re.escape(contract['name'])}.*BROKEN", report, re.MULTILINE), report


HEAVY = ("torch", "transformers", "numpy", "plotext", "matplotlib")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("memdash.commands", (*HEAVY, "textual", "psutil", "asyncio")),
        ("memdash.agent.session", (*HEAVY, "textual", "psutil", "asyncio")),
        ("memdash.supervisor.main", (*HEAVY, "textual")),
        ("memdash.tui.app", (*HEAVY, "psutil", "pynvml")),
        ("runner.spec", ("textual", "plotext", "psutil")),
    ],
)
def test_a_fresh_interpreter_loads_no_more_than_it_needs(module, absent):
    done = run("-c", f"import sys, {module}; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint(absent), loaded & set(absent)


def test_only_one_file_imports_plotext():
    users = [path for path in MODULES if re.search(r"^\s*(import|from) plotext", path.read_text(), re.MULTILINE)]
    assert [path.name for path in users] == ["plotting.py"]


def test_only_one_file_imports_matplotlib_and_only_when_it_draws():
    users = [path for path in MODULES if re.search(r"^\s*(import|from) matplotlib", path.read_text(), re.MULTILINE)]
    assert [path.name for path in users] == ["_picture.py"]
    assert not re.search(r"^(import|from) matplotlib", users[0].read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_it_knows_and_is_not_too_long(path):
    text = path.read_text()
    tree = ast.parse(text)
    first = (ast.get_docstring(tree) or "").partition("\n")[0]
    if text.strip():
        assert first.endswith((".", ":")), f"{path} does not begin with one sentence"
    assert text.count("\n") <= MAX_FILE_LINES or path.name in EXEMPT
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, f"{path}: {node.name}"


def test_the_readme_tree_names_the_folders_that_are_there():
    tree = (ROOT / "README.md").read_text().partition("## The house")[2].partition("```")[2].partition("```")[0]
    named = set(re.findall(r"^(?:│?\s*)?([a-z_]+)/", tree, re.MULTILINE))
    folders = {path.name for package in ("memdash", "runner") for path in (ROOT / package).iterdir() if path.is_dir()}
    missing = {name for name in folders if not name.startswith("__")} - named
    assert not missing, f"the README's tree lacks {missing}"
