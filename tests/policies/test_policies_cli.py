"""``materium-rl policies``, policies by name, folder and hub id, and what is uploaded.

The hub is a small server on this machine that answers as the real one does; the real one is never asked.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError
from pymatgen.core import Lattice, Structure
from ruamel.yaml import YAML
from tiny import (
    MAX_SITES,
    OPTIONS,
    SHAPE,
    Command,
    in_process,
    small_structures,
    tiny_codec,
    write_data,
    write_policy,
)

from materium_rl import resources
from materium_rl.config import PretrainConfig, load_config
from materium_rl.errors import AssetError, ConfigError, PolicyError
from materium_rl.hub import is_hub_id
from materium_rl.policies.card import LOSS, loss_in_card, model_card
from materium_rl.policies.loading import build_model, load_policy, save_policy
from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.pretrain import pretrain
from materium_rl.resources import TOKENIZER_VERSION
from materium_rl.rewards.catalogue.novelty import Novelty, Tier
from materium_rl.rewards.references import ReferenceIndex
from materium_rl.runs import RunFolder
from materium_rl.structure_files import write_structures
from materium_rl.structures import to_primitive_niggli
from materium_rl.tokenizer import CrystalTokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PARTS = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
N = 20
"""Structures that the pretrained policy has seen."""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, a pretraining run, damaged policies and data."""
    folder = tmp_path_factory.mktemp("material")
    data = write_data(folder / "data.json", N)
    write_policy(folder / "policy")
    for name in ("old", "torn", "foreign", "bare"):
        shutil.copytree(folder / "policy", folder / name)
    for name in ("config.json", "tokenizer_config.json"):
        text = (folder / "old" / name).read_text()
        (folder / "old" / name).write_text(text.replace(f'"version": {TOKENIZER_VERSION}', '"version": 1'))
    weights = (folder / "torn" / "model.safetensors").read_bytes()
    (folder / "torn" / "model.safetensors").write_bytes(weights[:-8])
    (folder / "foreign" / "config.json").write_text('{"model_type": "llama"}')
    (folder / "bare" / "README.md").unlink()
    (folder / "empty").mkdir()
    config = load_config(
        PretrainConfig,
        overrides={"data": data, "validation_data": data},
        sets=[*OPTIONS, "training.epochs=2", "training.eval_every=3"],
    )
    pretrain(config, folder / "runs" / "mine")
    return folder


@pytest.fixture
def run(material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``materium-rl policies`` in this process, in the folder of the material."""
    monkeypatch.chdir(material)

    return in_process(monkeypatch, capsys, "policies")


@pytest.fixture
def bundled(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Assets with the policy as ``mini``."""
    target = tmp_path / "assets" / "policies" / "mini"
    shutil.copytree(material / "policy", target)
    records = {
        f"policies/mini/{file.name}": {
            "source": "made up", "licence": "none", "command": "python make.py", "bytes": file.stat().st_size,
            "sha256": resources.file_sha256(file),
        }
        for file in target.iterdir()
    }  # fmt: skip
    monkeypatch.setattr(resources, "ASSETS", tmp_path / "assets")
    monkeypatch.setattr("materium_rl.policies.catalogue.ASSETS", tmp_path / "assets")
    monkeypatch.setattr(resources, "manifest", lambda: records)
    monkeypatch.setattr("materium_rl.policies.catalogue.manifest", lambda: records)
    return target


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def files(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


class Hub:
    """A server with one repository, ``lab/crystals``, in the hub's own protocol."""

    def __init__(self, content: dict[str, bytes]) -> None:
        self.content, self.asked = content, []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = request.path.split("?")[0]
        self.asked.append(path)
        api, resolve = "/api/models/lab/crystals/", f"/lab/crystals/resolve/{COMMIT}/"
        headers, name = {"X-Repo-Commit": COMMIT}, path.removeprefix(resolve)
        if path == f"{api}revision/main":
            info = {"id": "lab/crystals", "modelId": "lab/crystals", "sha": COMMIT, "siblings": []}
            content = json.dumps(info).encode()
        elif path.startswith(f"{api}tree/"):
            content = json.dumps(
                [
                    {"type": "file", "path": key, "size": len(value), "oid": hashlib.sha1(value).hexdigest()}
                    for key, value in self.content.items()
                ]
            ).encode()
        elif path.startswith(resolve) and name in self.content:
            content = self.content[name]
            headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
        else:
            request.send_response(404)
            request.send_header("X-Error-Code", "RepoNotFound")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            request.send_header(key, value)
        request.end_headers()
        if body:
            request.wfile.write(content)


def use_hub(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Make an address the hub, for the listing and for the files."""
    path = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + path)
    monkeypatch.setattr(constants, "ENDPOINT", address)


@pytest.fixture
def hub(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    content = {f.name: f.read_bytes() for f in (material / "runs" / "mine" / "policy").iterdir()}
    server = Hub({**content, "optimizer.bin": b"a pickle that nobody asked for"})
    use_hub(monkeypatch, server.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server
    server.server.shutdown()


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, bytes]]:
    """Repository -> file name -> content, in place of the upload."""
    found: dict[str, dict[str, bytes]] = {}

    def create_repo(self: object, repo_id: str, **options: object) -> huggingface_hub.RepoUrl:
        found.setdefault(repo_id, {})
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def create_commit(self: object, repo_id: str, operations: list, **options: object) -> str:
        for operation in operations:
            with operation.as_file() as stream:
                found[repo_id][operation.path_in_repo] = stream.read()
        return "commit"

    def no_card(*args: object, **options: object) -> None:
        raise EntryNotFoundError("no card yet")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", create_commit)
    monkeypatch.setattr(huggingface_hub.ModelCard, "load", no_card)
    return found


def test_list_shows_bundled_policies_and_runs(run: Command, bundled: Path) -> None:
    code, out, err = run("list", "runs", "old")
    assert (code, err) == (0, "")
    header, mini, mine, old = out.splitlines()
    assert header.split() == [
        "name",
        "parameters",
        "elements",
        "max",
        "sites",
        "tokenizer",
        "validation",
        "index",
    ]
    parameters = f"{sum(p.numel() for p in load_policy(bundled).model.parameters()):,}"
    elements = {e.symbol for s in small_structures() for e in s.composition}
    version = str(TOKENIZER_VERSION)
    assert mini.split() == ["mini", parameters, str(len(elements)), str(MAX_SITES), version, "-", "-"]
    losses = [row["validation/nats_per_structure"] for row in RunFolder(Path("runs/mine")).read_metrics()]
    assert mine.split()[0] == "runs/mine"
    assert mine.split()[-3:] == [version, f"{min(losses):.2f}", str(N)]
    assert re.search(rf" 1 +- +- +not for this program, which reads tokenizer version {version}$", old)


def test_list_keeps_what_is_damaged(run: Command, bundled: Path) -> None:
    (bundled / "model.safetensors").write_bytes(b"other weights")
    code, out, _ = run("list", "torn")
    assert code == 0
    assert re.search(r"^mini .*sha256", out, re.MULTILINE)
    assert re.search(r"^torn .*it was cut off", out, re.MULTILINE)


def test_show_of_a_bundled_policy(run: Command, bundled: Path) -> None:
    code, out, err = run("show", "mini")
    assert (code, err) == (0, "")
    shown = YAML(typ="safe", pure=True).load(out)
    assert shown["readable"] == "yes"
    assert shown["weights_sha256"] == hashlib.sha256((bundled / "model.safetensors").read_bytes()).hexdigest()
    assert shown["model"]["hidden_size"] == SHAPE.hidden_size
    assert shown["model"]["num_hidden_layers"] == SHAPE.layers
    settings = tiny_codec().settings
    assert shown["tokens"] == settings.model_dump(mode="json") | {"species": " ".join(settings.species)}
    assert shown["files"] == {f.name: f.stat().st_size for f in bundled.iterdir()}
    assert shown["files"].keys() == {*PARTS, "README.md"}
    assert shown["provenance"] == {"source": "made up", "licence": "none", "command": "python make.py"}
    assert shown["training_structures_in_index"] is None


def test_show_of_a_run_says_how_it_was_trained(run: Command, material: Path) -> None:
    _, out, _ = run("show", "runs/mine")
    shown = YAML(typ="safe", pure=True).load(out)
    assert shown["folder"] == "runs/mine/policy"
    assert shown["training_structures_in_index"] == N
    assert shown["files"].keys() == {*PARTS, "README.md", "training.npz"}
    origin = shown["provenance"]
    assert (origin["data"], origin["seed"]) == (str(material / "data.json"), 0)
    assert origin["steps_of_the_run"] == RunFolder(material / "runs/mine").read_metrics()[-1]["step"]
    assert shown["validation_nats_per_structure"] == pytest.approx(
        min(r["validation/nats_per_structure"] for r in RunFolder(material / "runs/mine").read_metrics()),
        abs=0.006,
    )


def test_show_of_another_tokenizer_version_says_so(run: Command) -> None:
    code, out, _ = run("show", "old")
    assert code == 0
    assert f"readable: 'no: tokenizer version 1, this program reads {TOKENIZER_VERSION}'" in out


def test_card(run: Command, material: Path) -> None:
    card = (material / "runs/mine/policy/README.md").read_text()
    assert run("card", "runs/mine") == (0, card, "")
    assert f"| data | {N} training and {N} validation structures |" in card
    assert YAML(typ="safe", pure=True).load(card.split("---\n")[1])["library_name"] == "transformers"
    code, out, _ = run("card", "bare")
    assert code == 0
    assert out == (material / "policy" / "README.md").read_text()


def test_loss_of_a_card() -> None:
    config = {**SHAPE.model_dump(), "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 9}
    config["token_settings"] = tiny_codec().settings.model_dump()
    assert loss_in_card(model_card(config, 5, {LOSS: "81.25"})) == 81.25
    assert loss_in_card(model_card(config, 5, {"training": "81 steps"})) is None


def test_index_holds_the_training_structures_and_novelty_uses_it(material: Path) -> None:
    index = ReferenceIndex.load(material / "runs/mine/policy/training.npz")
    assert sorted(index.formulas) == sorted(s.composition.reduced_formula for s in small_structures()[:N])
    reward = Novelty(reference=str(material / "runs" / "mine"))
    known = reward.measure(small_structures()[:N])
    assert [r.details["tier"] for r in known] == [Tier.KNOWN] * N
    # rock salt's MgO, in the primitive cell: known to the Materials Project, not to this policy
    coords = [[0, 0, 0], [0.5, 0.5, 0.5]]
    unseen = Structure(Lattice.from_parameters(3.9, 3.9, 3.9, 60, 60, 60), ["Mg", "O"], coords)
    assert not index.known_formula("MgO")
    assert reward.measure([unseen])[0].details["tier"] not in (Tier.KNOWN, Tier.NEW_ARRANGEMENT)
    assert Novelty().measure([unseen])[0].details["tier"] in (Tier.KNOWN, Tier.NEW_ARRANGEMENT)


def test_index_command(run: Command, material: Path, tmp_path: Path) -> None:
    target = tmp_path / "policy"
    shutil.copytree(material / "policy", target)
    with pytest.raises(ConfigError, match="policies index"):
        Novelty(reference=str(target))
    big = Structure(Lattice.cubic(9.0), ["Na", "Cl", "K", "Br", "Li", "F"], [[i / 7, 0, 0] for i in range(6)])
    write_structures([*small_structures()[:3], big], tmp_path / "mixed.json")
    code, out, err = run("index", str(target), "--data", str(tmp_path / "mixed.json"))
    assert (code, err) == (0, "")
    assert "3 training structures indexed" in out
    assert "too_many_sites 1" in out
    assert len(ReferenceIndex.load(target / "training.npz")) == 3
    assert run("index", str(target), "--data", "data.json")[0] == 2
    assert run("index", str(target), "--data", "data.json", "--overwrite")[0] == 0
    assert len(ReferenceIndex.load(target / "training.npz")) == N


def test_a_policy_takes_its_index_along(material: Path, tmp_path: Path) -> None:
    policy = load_policy(material / "runs" / "mine")
    save_policy(policy.model, policy.codec.settings, tmp_path / "tuned")
    original = material / "runs" / "mine" / "policy" / "training.npz"
    assert (tmp_path / "tuned" / "training.npz").read_bytes() == original.read_bytes()
    fresh = build_model(tiny_codec().settings, SHAPE)
    save_policy(fresh, tiny_codec().settings, tmp_path / "fresh")
    assert not (tmp_path / "fresh" / "training.npz").exists()


def test_damaged_index_is_named(run: Command, material: Path, tmp_path: Path) -> None:
    shutil.copytree(material / "policy", tmp_path / "p")
    (tmp_path / "p" / "training.npz").write_bytes(b"no archive")
    code, _, err = run("show", str(tmp_path / "p"))
    assert (code, err.count("error:")) == (2, 1)
    assert "training.npz is no index" in err
    with pytest.raises(AssetError, match="policies index"):
        Novelty(reference=str(tmp_path / "p")).load()


def test_from_pretrained_by_bundled_name_folder_and_run(bundled: Path, material: Path) -> None:
    expected = load_policy(material / "policy").model
    for name in ("mini", material / "policy", str(material / "policy")):
        assert same_weights(CrystalForCausalLM.from_pretrained(name), expected)
        assert CrystalTokenizer.from_pretrained(name).token_settings == tiny_codec().settings
    assert same_weights(load_policy("mini").model, expected)
    run = CrystalForCausalLM.from_pretrained(material / "runs" / "mine")
    assert same_weights(run, load_policy(material / "runs" / "mine" / "policy").model)
    assert not same_weights(run, expected)


def test_another_tokenizer_version_is_refused_on_every_path(material: Path) -> None:
    reason = rf"version 1, this program reads version {TOKENIZER_VERSION}"
    for load in (load_policy, CrystalForCausalLM.from_pretrained, CrystalTokenizer.from_pretrained):
        with pytest.raises(PolicyError, match=reason):
            load(material / "old")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("lab/crystals", True), ("a-b/c.d_e", True), ("nano", False), ("./x", False), ("../x", False),
     ("/a/b", False), ("runs/x/", False), ("a/b/c", False), ("~/x", False), ("a/", False), ("a b/c", False)],
)  # fmt: skip
def test_form_of_a_hub_id(text: str, expected: bool) -> None:
    assert is_hub_id(text) is expected


def test_policy_from_a_hub(hub: Hub, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_policy(material / "runs" / "mine").model
    policy = load_policy("lab/crystals")
    assert same_weights(policy.model, expected)
    assert {f.name for f in policy.folder.iterdir()} == {*PARTS, "README.md", "training.npz"}
    assert not any("optimizer.bin" in path for path in hub.asked)
    assert same_weights(CrystalForCausalLM.from_pretrained("lab/crystals", revision="main"), expected)
    assert CrystalTokenizer.from_pretrained("lab/crystals").token_settings == policy.codec.settings
    asked = len(hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same_weights(load_policy("lab/crystals").model, expected)
    assert len(hub.asked) == asked


def test_a_folder_of_that_name_is_no_hub_id(
    hub: Hub, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(material / "policy", tmp_path / "lab" / "crystals")
    monkeypatch.chdir(tmp_path)
    assert same_weights(load_policy("lab/crystals").model, load_policy(material / "policy").model)
    assert hub.asked == []


def test_hub_without_the_repository(run: Command, hub: Hub) -> None:
    code, out, err = run("show", "lab/glass")
    assert (code, out) == (2, "")
    assert err.startswith("error: no policy 'lab/glass': no folder of that name here")
    assert "there is no repository of that name" in err
    assert err.count("\n") == 1


def test_hub_repository_without_a_policy(run: Command, hub: Hub) -> None:
    del hub.content["model.safetensors"]
    code, _, err = run("show", "lab/crystals")
    assert code == 2
    assert "holds no policy: expected config.json and model.safetensors" in err


def test_no_network(run: Command, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    use_hub(monkeypatch, "http://127.0.0.1:9")  # nothing listens there
    code, _, err = run("show", "lab/crystals")
    assert (code, err.count("\n")) == (2, 1)
    assert "http://127.0.0.1:9 cannot be reached, and the cache does not hold it" in err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for load in (load_policy, CrystalForCausalLM.from_pretrained, CrystalTokenizer.from_pretrained):
        with pytest.raises(PolicyError, match="switched off"):
            load("lab/crystals")


def test_push_to_hub_of_model_and_tokenizer(material: Path, uploads: dict, tmp_path: Path) -> None:
    policy = load_policy(material / "policy")
    policy.model.push_to_hub("lab/crystals")
    CrystalTokenizer(policy.codec.settings).push_to_hub("lab/crystals")
    pushed = uploads["lab/crystals"]
    assert PARTS <= pushed.keys() <= {*PARTS, "README.md"}
    for name, content in pushed.items():
        (tmp_path / name).write_bytes(content)
    again = load_policy(tmp_path)
    assert same_weights(again.model, policy.model)
    assert again.codec.settings == policy.codec.settings


def test_push_command(run: Command, uploads: dict, material: Path) -> None:
    code, out, err = run("push", "runs/mine", "lab/crystals")
    assert (code, err) == (0, "")
    assert out.startswith("https://huggingface.co/lab/crystals: README.md, config.json")
    folder = material / "runs" / "mine" / "policy"
    assert uploads == {"lab/crystals": {name: (folder / name).read_bytes() for name in (*PARTS, "README.md")}}
    assert run("push", "runs/mine", "lab/crystals", "--with-index")[0] == 0
    assert uploads["lab/crystals"]["training.npz"] == (folder / "training.npz").read_bytes()
    assert run("push", "bare", "lab/other", "--private")[0] == 0
    assert uploads["lab/other"]["README.md"] == (material / "policy" / "README.md").read_bytes()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("show", "gone"), r"no policy 'gone': not a folder, and not bundled"),
        (("show", "empty"), r"no policy in empty"),
        (("show", "torn"), r"it was cut off"),
        (("show", "foreign"), r"foreign/config.json is damaged, or of another program"),
        (("show", "no/where"), r"HF_HUB_OFFLINE"),
        (("card", "gone"), r"no policy 'gone'"),
        (("show",), r"Missing argument 'NAME'"),
        (("list", "gone"), r"no folder at gone"),
        (("list", "empty"), r"no policy in empty or its subfolders"),
        (("index", "policy"), r"Missing option '--data'"),
        (("index", "policy", "--data", "gone.csv"), r"--data: no file or folder at gone.csv"),
        (("index", "gone", "--data", "data.json"), r"no policy 'gone'"),
        (("index", "mini", "--data", "data.json"), r"mini is bundled"),
        (("index", "old", "--data", "data.json"), r"tokenizer version 1"),
        (("index", "runs/mine", "--data", "data.json"), r"training.npz exists already; add --overwrite"),
        (("push", "policy", "crystals"), r"'crystals' is no repository.*expected owner/name"),
        (("push", "old", "lab/crystals"), r"tokenizer version 1"),
        (("push", "torn", "lab/crystals"), r"it was cut off"),
        (("push", "policy", "lab/crystals", "--with-index"), r"has no training.npz"),
        (("push", "policy", "lab/crystals"), r"cannot push to 'lab/crystals'.*switched off"),
        (("quux",), r"No such command 'quux'"),
    ],
)  # fmt: skip
def test_wrong_input(
    run: Command, bundled: Path, material: Path, args: tuple[str, ...], message: str
) -> None:
    before = files(material)
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert re.search(message, err, re.DOTALL), err
    assert err.count("error:") == 1 or err.startswith("Usage:")
    assert "Traceback" not in err
    assert files(material) == before


def test_list_is_light(material: Path) -> None:
    import subprocess

    code = "import sys; from materium_rl import cli\ntry: cli.main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "policies", "list", "runs"],
        cwd=material, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "False"


def test_numbers_of_the_index_are_those_of_the_structures(material: Path) -> None:
    with np.load(material / "runs/mine/policy/training.npz") as archive:
        assert sorted(archive["n_sites"].tolist()) == sorted(
            len(to_primitive_niggli(structure)) for structure in small_structures()[:N]
        )
