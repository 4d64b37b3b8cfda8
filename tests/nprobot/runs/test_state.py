"""Training state on disk: everything comes back bit for bit, and nothing can run code."""

import math
import random

import numpy as np
import pytest
import torch

from nprobot.errors import DamagedFileError
from nprobot.runs.state import load_state, save_state


def same(a, b):
    """Equality of trees, types and bits included."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        return a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


STATE = {
    "weights": {"0.weight": torch.randn(3, 4), "empty": torch.zeros(0, 2)},
    "optimiser": {"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "betas": (0.9, 0.999)},
    "types": [torch.arange(3), torch.ones(2, dtype=torch.bool), torch.randn(2).double()],
    "numpy": [np.random.default_rng(0).normal(size=(2, 3)), np.arange(4, dtype=np.uint32)],
    "generators": {
        "pcg": np.random.default_rng(1).bit_generator.state,
        "mersenne": np.random.RandomState(1).get_state(),
        "python": random.Random(1).getstate(),
        "torch": torch.get_rng_state(),
    },
    "numbers": [1, 2**127, -0.1, math.inf, -math.inf, math.nan, 1e-320, True, None, "text", ""],
}


def test_comes_back_bit_for_bit(tmp_path):
    save_state(tmp_path / "training", STATE)
    assert same(load_state(tmp_path / "training"), STATE)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["training.json", "training.safetensors"]


def test_tensors_that_share_memory(tmp_path):
    base = torch.arange(6.0)
    save_state(tmp_path / "s", {"all": base, "view": base[1:3], "strided": base.view(2, 3).mT})
    back = load_state(tmp_path / "s")
    assert back["view"].tolist() == [1, 2]
    assert back["strided"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_other_objects_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"a\.1 is a object"):
        save_state(tmp_path / "s", {"a": [1, object()]})


@pytest.mark.parametrize("name", ["s.json", "s.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damaged_files(tmp_path, name, damage):
    save_state(tmp_path / "s", STATE)
    file = tmp_path / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DamagedFileError, match="cannot be read"):
        load_state(tmp_path / "s")
