"""Every command, given real wrong input: one message, the right exit code, nothing half-written.

Options that are checked before anything is loaded are in ``test_cli``; here the work itself meets the
damaged file.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure
from tiny import OPTIONS, Command, in_process, small_structures, start, wait_for, write_data, write_policy

from materium_rl.config import FinetuneConfig
from materium_rl.rewards import registry
from materium_rl.runs import RunFolder
from materium_rl.structure_files import write_structures

PLUGIN = '''
def few_sites(structures):
    """1 for a cell of one or two sites."""
    return [float(len(s) <= 2) for s in structures]
'''
BROKEN_CIF = "data_broken\n_cell_length_a 4.0\n_cell_length_b nonsense\nloop_\n_atom_site_label\n"
CODE = "__import__('os').system('touch hacked')"


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and bad inputs of every kind."""
    folder = tmp_path_factory.mktemp("material")
    good = small_structures()
    write_data(folder / "good.json")
    for name in ("only_bad", "mixed"):
        (folder / name).mkdir()
        (folder / name / "broken.cif").write_text(BROKEN_CIF)
    write_structures(good[:12], folder / "mixed" / "good.json")
    (folder / "broken.cif").write_text(BROKEN_CIF)
    (folder / "empty.csv").write_text("material_id,cif\n")
    (folder / "blank.csv").write_text("")
    (folder / "no_cif.csv").write_text("material_id,formula\nmp-1,NaCl\n")
    (folder / "damaged.parquet").write_bytes(b"PAR1 and no more")
    (folder / "notes.txt").write_text("NaCl")
    (folder / "torn.zip").write_bytes(b"PK\x03\x04 and no more")
    (folder / "no_files").mkdir()
    big = Structure(Lattice.cubic(9.0), ["Na", "Cl", "K", "Br", "Li", "F"], [[i / 7, 0, 0] for i in range(6)])
    write_structures([big], folder / "big.json")
    xenon = Structure(Lattice.cubic(5.0), ["Xe"], [[0, 0, 0]])
    write_structures([xenon], folder / "xenon.json")
    write_structures([*good[:5], xenon], folder / "with_xenon.json")
    (folder / "bad.yaml").write_text("training:\n  epochs: [1\n")
    (folder / "bad_key.yaml").write_text("sed: 1\n")
    (folder / "plugin.py").write_text(PLUGIN)
    (folder / "syntax.py").write_text("def reward(:\n")
    (folder / "raises.py").write_text("raise RuntimeError('licence server is down')\n")
    write_policy(folder / "policy")
    for name in ("bare", "old", "torn"):
        shutil.copytree(folder / "policy", folder / name)
    (folder / "bare" / "tokenizer_config.json").unlink()
    tokenizer = json.loads((folder / "old" / "tokenizer_config.json").read_text())
    tokenizer["settings"]["version"] = 0
    (folder / "old" / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    weights = (folder / "torn" / "model.safetensors").read_bytes()
    (folder / "torn" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    RunFolder.create(folder / "run", FinetuneConfig(policy="policy"))
    (folder / "project").mkdir()
    (folder / "project" / "thesis.tex").write_text("years of work")
    return folder


@pytest.fixture
def run(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run ``materium-rl`` in this process, in the folder of the material: (exit code, stdout, stderr)."""
    monkeypatch.chdir(material)
    monkeypatch.setattr(registry, "_FROM_FILES", {})

    return in_process(monkeypatch, capsys)


def files(folder: Path) -> dict[str, bytes | None]:
    """Every entry below a folder, hidden ones too, with its content."""
    entries = (p for p in folder.rglob("*") if "__pycache__" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in entries}


SETS = tuple(part for option in OPTIONS for part in ("--set", option))
PRETRAIN = ("pretrain", "--run", "new", *SETS)
FINETUNE = ("finetune", "--run", "new")
SMALL = ("--set", "rl.batch_size=8", "--set", "rl.group_size=8", "--set", "guards.descriptors=[]")
FEW_SITES = ("--reward", '"plugin.py:few_sites"', "--gate", "none")
COMPARE = ("compare", "policy", "./policy", "--out", "new")
GENERATE = ("generate", "--out", "new", "-n", "2")

WRONG = [
    ((*PRETRAIN, "--data", "gone.csv"), r"--data: no file or folder at gone.csv"),
    ((*PRETRAIN, "--data", "broken.cif"), r"No usable structure in 'broken.cif'.*unreadable: 1"),
    ((*PRETRAIN, "--data", "only_bad"), r"No usable structure in 'only_bad'.*broken.cif"),
    ((*PRETRAIN, "--data", "good.json", "--validation", "only_bad"), r"No usable structure in 'only_bad'"),
    ((*PRETRAIN, "--data", "empty.csv"), r"No usable structure in 'empty.csv'"),
    ((*PRETRAIN, "--data", "blank.csv"), r"No usable structure in 'blank.csv'.*EmptyDataError"),
    ((*PRETRAIN, "--data", "no_cif.csv"), r"no 'cif' and no 'structure' column"),
    ((*PRETRAIN, "--data", "damaged.parquet"), r"No usable structure in 'damaged.parquet'"),
    ((*PRETRAIN, "--data", "notes.txt"), r"'notes.txt': its name tells no known format"),
    ((*PRETRAIN, "--data", "torn.zip"), r"'torn.zip' is not a readable zip"),
    ((*PRETRAIN, "--data", "no_files"), r"No structure file in 'no_files'"),
    ((*PRETRAIN, "--data", "big.json", "--validation", "good.json"), r"too many sites: 6 .*limit is 4"),
    ((*PRETRAIN, "--data", "xenon.json"), r"none of the 1 formulas in xenon.json can be held out"),
    ((*PRETRAIN, "--data", "good.json", "--validation", "xenon.json"), r"unknown element: Xe"),
    ((*PRETRAIN, "--data", "good.json", "--config", "bad.yaml"), r"bad.yaml, line \d+.*malformed YAML"),
    ((*PRETRAIN, "--data", "good.json", "--config", "bad_key.yaml"), r"'sed'; did you mean 'seed'"),
    ((*PRETRAIN, "--data", "good.json", "--config", "pretrain_nanoo"), r"did you mean 'pretrain_nano'"),
    ((*PRETRAIN, "--data", "good.json", "--preset", "huge"), r"'huge' is not one of"),
    (
        (*PRETRAIN, "--data", "good.json", "--set", "model.heads=5"),
        r"model: hidden_size 32 must be a multiple",
    ),
    ((*PRETRAIN, "--data", "good.json", "--set", "tokenizer.length_range=[50,2]"), r"length_range"),
    (
        (*PRETRAIN, "--data", "good.json", "--set", "model.attention=flash_attention_2"),
        r"model.attention=flash_attention_2 is not installed",
    ),
    (("pretrain", "--run", "run", "--data", "good.json"), r"run folder run already exists"),
    (("pretrain", "--run", "project", "--data", "good.json", "--overwrite"), r"thesis.tex does not belong"),
    (("pretrain", "--run", "run", "--data", "good.json", "--resume"), r"unknown key 'policy'"),
    (("pretrain", "--run", "new", "--data", "good.json", "--resume"), r"nothing to resume at new"),
    ((*FINETUNE, "--policy", "gone", *FEW_SITES), r"no policy 'gone'"),
    ((*FINETUNE, "--policy", "bare", *FEW_SITES), r"bare has no tokenizer_config.json"),
    ((*FINETUNE, "--policy", "old", *FEW_SITES), r"tokenizer version 0, this program reads version 2"),
    ((*FINETUNE, "--policy", "torn", *FEW_SITES), r"cannot load the policy in torn"),
    ((*FINETUNE, "--policy", "policy", "--reward", "noveltyy"), r"unknown reward 'noveltyy'; did you mean"),
    ((*FINETUNE, "--policy", "policy", "--reward", "bandgap(taget=1)"), r"(?s)'taget'.*'target'"),
    ((*FINETUNE, "--policy", "policy", "--reward", "bandgap(target='x')"), r"target"),
    ((*FINETUNE, "--policy", "policy", "--reward", CODE), r"wrong reward expression"),
    ((*FINETUNE, "--policy", "policy", "--reward", f"bandgap(target={CODE})"), r"wrong reward expression"),
    ((*FINETUNE, "--policy", "policy", "--reward", "novelty", "--gate", "quux"), r"unknown reward 'quux'"),
    ((*FINETUNE, "--policy", "policy", "--plugin", "plugin.py"), r"plugin.py defines no reward"),
    ((*FINETUNE, "--policy", "policy", "--reward", '"gone.py:f"'), r"gone.py"),
    ((*FINETUNE, "--policy", "policy", "--plugin", "syntax.py"), r"syntax.py"),
    ((*FINETUNE, "--policy", "policy", "--plugin", "raises.py"), r"raises.py.*licence server is down"),
    ((*FINETUNE, "--policy", "policy", *FEW_SITES, "--config", "bad.yaml"), r"malformed YAML"),
    (("finetune", "--run", "run", "--policy", "policy", *FEW_SITES), r"add --resume to continue it"),
    ((*FINETUNE, "--policy", "policy", *FEW_SITES, "--set", "rl.batch_size=9"), r"multiple of group_size"),
    ((*GENERATE, "--policy", "gone"), r"no policy 'gone'"),
    ((*GENERATE, "--policy", "project"), r"no policy in project: expected config.json"),
    ((*GENERATE, "--policy", "bare"), r"bare has no tokenizer_config.json"),
    ((*GENERATE, "--policy", "old"), r"tokenizer version 0"),
    ((*GENERATE, "--policy", "torn"), r"cannot load the policy in torn"),
    ((*GENERATE, "--policy", "policy", "--config", "bad.yaml"), r"malformed YAML"),
    (
        (*GENERATE, "--policy", "policy", "--require", "Xe"),
        r"this policy cannot write Xe; its \d+ elements are",
    ),
    ((*GENERATE, "--policy", "policy", "--sites", "9..12"), r"at least 9, but this policy writes 4 at most"),
    ((*GENERATE, "--policy", "policy", "--formula", "Cu3Au2"), r"Cu3Au2 takes 5 sites or a multiple, but"),
    (
        (*GENERATE, "--policy", "policy", "--n-elements", "5"),
        r"no composition of this policy meets n_elements 5",
    ),
    ((*GENERATE, "--policy", "policy", "--temperature", "0"), r"temperature: .*greater than 0"),
    (("generate", "--policy", "policy", "-n", "0", "--out", "new"), r"n: .*greater than or equal to 1"),
    (("generate", "--policy", "policy", "-n", "2", "--out", "run"), r"folder run is not empty"),
    (("generate", "--policy", "policy", "-n", "2", "--out", "project", "--overwrite"), r"will not overwrite"),
    (("generate", "--policy", "policy", "-n", "2", "--out", "."), r"folder of their own"),
    (("compare", "policy", "gone", "--out", "new"), r"no policy 'gone'"),
    (("compare", "policy", "bare", "--out", "new", "-n", "2"), r"bare has no tokenizer_config.json"),
    (("compare", "policy", "torn", "--out", "new", "-n", "2"), r"cannot load the policy in torn"),
    ((*COMPARE, "--reward", "noveltyy"), r"unknown reward 'noveltyy'"),
    ((*COMPARE, "--reward", "novelty(tier=1)"), r"'tier'"),
    ((*COMPARE, "--reward", CODE), r"wrong reward expression"),
    ((*COMPARE, "--config", "bad.yaml"), r"malformed YAML"),
    ((*COMPARE, "--config", "nothing_such"), r"no preset 'nothing_such'"),
    (("compare", "policy", "./policy", "--out", "project", "--overwrite"), r"will not overwrite"),
    (("compare", "policy", "./policy", "--out", "run"), r"folder run is not empty"),
    (("rewards", "show", "noveltyy"), r"unknown reward 'noveltyy'; did you mean 'novelty'"),
    (("rewards", "show", CODE), r"wrong reward expression"),
    (("rewards", "show", "few_sites", "--plugin", "gone.py"), r"gone.py"),
    (("rewards", "list", "--plugin", "syntax.py"), r"syntax.py"),
    (("rewards", "list", "--plugin", "raises.py"), r"raises.py.*licence server is down"),
]


@pytest.mark.parametrize(("args", "message"), WRONG, ids=[" ".join(args[-3:])[-60:] for args, _ in WRONG])
def test_wrong_input(run: Command, material: Path, args: tuple[str, ...], message: str) -> None:
    before = files(material)
    code, _, err = run(*args)
    assert re.search(message, err, re.DOTALL), err
    assert code == 2
    assert err.count("error:") == 1 or err.startswith("Usage:")
    assert "Traceback" not in err
    assert files(material) == before


def test_bad_files_among_good_ones_are_reported_and_dropped(run: Command, tmp_path: Path) -> None:
    target = tmp_path / "run"
    code, out, err = run(
        "pretrain", "--data", "mixed", "--validation", "with_xenon.json", "--run", str(target), *SETS,
        "--set", "training.epochs=1",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert re.search(r"training: 12 structures, 1 dropped \(unreadable 1\)\n  broken.cif: ", out)
    assert re.search(
        r"validation: 5 structures, 1 dropped \(unknown_element 1\)\n  with_xenon.json\[5\]: ", out
    )
    dropped = [line.split("\t")[:3] for line in (target / "dropped.txt").read_text().splitlines()]
    assert dropped == [
        ["training", "broken.cif", "unreadable"],
        ["validation", "with_xenon.json[5]", "unknown_element"],
    ]
    assert sorted(p.name for p in target.iterdir()) == [
        "checkpoints", "config.yaml", "dropped.txt", "environment.json", "metrics.jsonl", "policy", "samples",
    ]  # fmt: skip


def test_generate_writes_and_overwrites(run: Command, tmp_path: Path) -> None:
    args = ("generate", "--policy", "policy", "--out", str(tmp_path / "out"), "-n")
    assert run(*args, "3")[0] == 0
    assert run(*args, "2")[0] == 2
    assert len(list((tmp_path / "out" / "cif").iterdir())) == 3
    code, out, _ = run(*args, "2", "--overwrite")
    assert (code, out.split()[0]) == (0, "2")
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "000000.cif", "000001.cif", "cif", "generated.extxyz", "generated.parquet", "out",
    ]  # fmt: skip


def test_ctrl_c_of_finetune_saves_and_resumes(material: Path, tmp_path: Path) -> None:
    target = tmp_path / "run"
    sets = (*SMALL, "--set", "checkpoint_every=100000")
    process = start(
        "finetune", "--policy", "policy", "--run", str(target), *FEW_SITES, *sets, "--steps", "100000",
        cwd=material,
    )  # fmt: skip
    wait_for(target / "metrics.jsonl", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "interrupted: finishing this step, then saving" in err
    assert "Traceback" not in err
    step = RunFolder(target).latest_step()
    assert step == RunFolder(target).read_metrics()[-1]["step"]
    assert not list(target.rglob(".tmp-*"))
    resumed = start("finetune", "--run", str(target), "--resume", "--steps", str(step + 1), cwd=material)
    _, err = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, err
    assert [row["step"] for row in RunFolder(target).read_metrics()] == list(range(1, step + 2))


def test_a_file_without_permission_is_one_message_at_run_time(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1: neither usage nor input is wrong, the machine says no."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("materium_rl.generate.write_structures", refuse)
    code, _, err = run("generate", "--policy", "policy", "-n", "2", "--out", str(tmp_path / "out"))
    assert (code, err) == (1, f"error: [Errno 13] Permission denied: '{tmp_path}'\n")
    assert list(tmp_path.iterdir()) == []
