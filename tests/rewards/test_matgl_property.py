"""The matgl reward: a model that matgl saved, what it cannot do, and names that need a download."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure
from real_structures import rock_salt, rutile

from materium_rl.errors import ConfigError, RewardError
from materium_rl.rewards.base import Failure, Invalid, Measurement
from materium_rl.rewards.catalogue.matgl_property import MatGLProperty
from materium_rl.rewards.registry import create
from materium_rl.rewards.scoring import Scorer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small MEGNet for Na, Cl, Ti and O with random weights and two fidelities."""
    pytest.importorskip("matgl")
    import torch
    from matgl.models import MEGNet

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("matgl") / "model"
    MEGNet(element_types=("Na", "Cl", "Ti", "O"), ntypes_state=2, nblocks=1).save(path)
    return path


def test_gives_what_the_model_gives(folder):
    import torch
    from matgl.utils.io import load_model

    model = load_model(folder).eval()
    for state in (0, 1):
        reward = create("matgl", {"": str(folder), "target": 1.0, "width": 0.5, "unit": "eV", "state": state})
        assert isinstance(reward, MatGLProperty)
        reward.load()
        results = reward.measure([rock_salt(), rutile()])
        for structure, result in zip([rock_salt(), rutile()], results, strict=True):
            native = model.predict_structure(structure, state_attr=torch.tensor([state]))
            assert result.value == pytest.approx(native.item(), abs=1e-5)
        assert results[0].details == {"unit": "eV"}
    assert reward.shaping()(1.5) == pytest.approx(0.5)


def test_is_scored_in_an_expression(folder):
    charged = rock_salt()
    charged.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    with Scorer(f'matgl("{folder}", target=0.0, width=1.0, state=0)', gates=["none"]) as scorer:
        table = scorer.score([rock_salt(), charged])
    assert table.rewards[0] == pytest.approx(table.rewards[1], abs=1e-6)
    assert 0 < table.rewards[0] <= 1


def test_three_outcomes(folder):
    reward = MatGLProperty(model=str(folder), target=1, width=1, state=0)
    overlapping = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0] * 3, [0.01, 0, 0]])
    disordered = Structure(Lattice.cubic(4), [{"Na": 0.5, "Cl": 0.5}], [[0] * 3])
    iron = Structure(Lattice.cubic(2.8), ["Fe", "O"], [[0] * 3, [0.5] * 3])
    isolated = Structure(Lattice.cubic(7), ["Na"], [[0] * 3])
    results = reward.measure([rock_salt(), overlapping, disordered, iron, isolated])
    assert [type(result) for result in results] == [Measurement, Invalid, Invalid, Failure, Failure]
    assert results[3].reason.endswith("knows no Fe")


def test_a_name_that_must_be_downloaded_says_so_without_a_connection():
    pytest.importorskip("matgl")
    reward = MatGLProperty(model="MEGNet-No-Such-Model", target=1, width=1)
    with pytest.raises(RewardError, match="from the Hugging Face Hub, which needs a connection"):
        reward.load()


def test_a_missing_folder_is_not_looked_for_on_the_hub(tmp_path):
    pytest.importorskip("matgl")
    with pytest.raises(RewardError, match=r"no folder .*missing"):
        MatGLProperty(model=str(tmp_path / "missing"), target=1, width=1).load()


def test_models_and_potentials_are_told_apart(folder, tmp_path):
    from matgl.apps.pes import Potential
    from matgl.models import TensorNet

    from materium_rl.rewards.potentials.catalogue import find_potential

    network = TensorNet(element_types=("Na", "Cl"), units=8, nblocks=1, num_rbf=4, is_intensive=False)
    Potential(network).save(tmp_path / "potential")
    with pytest.raises(RewardError, match=r"stability\(calculator='matgl:"):
        MatGLProperty(model=str(tmp_path / "potential"), target=1, width=1).load()
    with pytest.raises(RewardError, match=r"no potential; a property model goes"):
        find_potential(f"matgl:{folder}", "uncorrected").load()


def test_matgl_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matgl", None)
    with pytest.raises(RewardError, match=r'pip install "materium-rl\[matgl\]"'):
        MatGLProperty(model="another", target=1, width=1).load()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"": "a"}, "option 'target' is required"),
        ({"": "a", "model": "b", "target": 1, "width": 1}, "option 'model' is given twice"),
        ({"": "a", "target": 1, "width": 1, "unti": "eV"}, "did you mean 'unit'"),
    ],
)
def test_wrong_options(options, reason):
    with pytest.raises(ConfigError, match=reason):
        create("matgl", options)
