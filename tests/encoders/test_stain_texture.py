import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pathotune_pipeline.encoders.stain_texture import DIM, REVISION, StainTexture, feature_names
from pathotune_pipeline.errors import UsageError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
PATCHES = SHARED / "data" / "patches" / "camelyon-patches"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stained_tiles(count, side=256, seed=0):
    """Smooth pink-to-purple noise: every feature has something to measure."""
    rng = np.random.default_rng(seed)
    tiles = []
    for _ in range(count):
        h = cv2.GaussianBlur(rng.random((side, side)), (0, 0), rng.uniform(1, 4))
        e = cv2.GaussianBlur(rng.random((side, side)), (0, 0), rng.uniform(1, 4))
        h, e = ((m - m.min()) / (m.max() - m.min()) for m in (h, e))
        od = h[..., None] ** 2 * np.array([1.1, 1.2, 0.5]) + e[..., None] * np.array([0.05, 0.6, 0.1])
        tiles.append(np.clip(255 * np.exp(-od), 0, 255).astype(np.uint8))
    return torch.from_numpy(np.stack(tiles))


def encode(tiles):
    with torch.inference_mode():
        return StainTexture()(tiles)


def value(features, name):
    return float(features[feature_names().index(name)])


def test_every_feature_has_a_name_of_its_own():
    names = feature_names()
    assert len(names) == len(set(names)) == DIM
    assert 100 <= DIM <= 300
    assert encode(stained_tiles(2)).shape == (2, DIM)
    assert encode(stained_tiles(2)).dtype == torch.float32


def test_golden_values():
    assert REVISION == 1
    features = encode(stained_tiles(1, side=64, seed=5))[0]
    expected = {
        "od_green_mean": 0.75541,
        "od_blue_std": 0.08228,
        "residual_skew": -0.00019,
        "hematoxylin_mean": 0.61761,
        "hematoxylin_share_03": 0.15430,
        "eosin_share_05": 0.23926,
        "chroma_cx_share_2": 0.23047,
        "chroma_cy_share_3": 0.00000,
        "hematoxylin_octave0_gabor030_mean": 0.74169,
        "hematoxylin_octave1_gabor120_std": 0.34573,
        "eosin_octave2_blob_std": 0.10342,
        "eosin_octave1_alignment": 0.07325,
        "hematoxylin_octave2_coherence": 0.67854,
        "lbp_radius1_class4": 0.26778,
        "lbp_radius2_class9": 0.23724,
    }
    assert {name: value(features, name) for name in expected} == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("side", [32, 33, 47, 224, 256])
@pytest.mark.parametrize("grey", [0, 128, 255])
def test_flat_tiles_give_finite_half_precision_values(side, grey):
    features = encode(torch.full((3, side, side, 3), grey, dtype=torch.uint8))
    assert features.half().isfinite().all()
    assert features.abs().max() < 20
    texture = [i for i, name in enumerate(feature_names()) if "gabor" in name or "blob" in name]
    assert features[:, texture].abs().max() < 1e-3


def test_ordinary_tiles_have_values_of_order_one():
    features = encode(torch.cat([stained_tiles(4), torch.randint(0, 256, (4, 256, 256, 3)).to(torch.uint8)]))
    assert features.abs().max() < 5


def test_shares_sum_to_one():
    features = encode(stained_tiles(3))
    names = feature_names()
    for group in ("hematoxylin_share", "eosin_share", "chroma_cx", "chroma_cy", "lbp_radius1", "lbp_radius2"):
        columns = [i for i, name in enumerate(names) if name.startswith(group)]
        torch.testing.assert_close(features[:, columns].sum(1), torch.ones(3))


@pytest.mark.parametrize("side", [256, 224, 100])
def test_neighbours_place_and_batch_length_do_not_change_a_bit(side):
    tiles = stained_tiles(12, side)
    features = encode(tiles)
    order = torch.from_numpy(np.random.default_rng(1).permutation(12))
    assert torch.equal(encode(tiles[order]), features[order])
    replaced = tiles.clone()
    replaced[1:] = torch.randint(0, 256, replaced[1:].shape, generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    assert torch.equal(encode(replaced)[0], features[0])
    for length in (1, 3, 7):
        assert torch.equal(encode(tiles[:length]), features[:length])


def test_threads_at_once_give_the_same_bits():
    tiles = stained_tiles(8)
    expected = encode(tiles)
    model, found = StainTexture(), {}

    def work(number):
        torch.set_num_threads(1)
        with torch.inference_mode():
            found[number] = [torch.equal(model(tiles), expected) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: [True] * 3 for n in range(4)}


def test_input_stays_as_it_was_and_casting_the_module_changes_nothing():
    tiles = stained_tiles(2)
    before = tiles.clone()
    expected = encode(tiles)
    assert torch.equal(tiles, before)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(StainTexture().half()(tiles), expected)


def test_there_are_no_weights():
    assert list(StainTexture().parameters()) == []
    assert StainTexture().state_dict() == {}


def test_an_empty_batch_gives_no_rows():
    assert encode(torch.zeros(0, 64, 64, 3, dtype=torch.uint8)).shape == (0, DIM)


@pytest.mark.parametrize(
    "tiles",
    [
        torch.zeros(1, 64, 64, 3),
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        torch.zeros(64, 64, 3, dtype=torch.uint8),
        torch.zeros(1, 31, 31, 3, dtype=torch.uint8),
    ],
)
def test_other_input_is_refused(tiles):
    with pytest.raises(UsageError, match=r"uint8 \[B, H, W, 3\]"):
        encode(tiles)


def test_names_mean_what_they_say():
    white = torch.full((1, 64, 64, 3), 255, dtype=torch.uint8)
    x = np.mgrid[:64, :64][1]
    stripes = np.where((x // 5) % 2 == 0, 90, 230).astype(np.uint8)[..., None].repeat(3, -1)
    stripes = torch.from_numpy(np.stack([stripes, stripes.transpose(1, 0, 2)]))
    upright, lying = encode(stripes)
    assert value(encode(white)[0], "od_red_mean") == 0
    assert value(encode(white)[0], "hematoxylin_share_00") + value(encode(white)[0], "hematoxylin_share_01") == 1
    assert value(upright, "hematoxylin_octave0_gabor000_mean") > 5 * value(upright, "hematoxylin_octave0_gabor090_mean")
    assert value(lying, "hematoxylin_octave0_gabor090_mean") > 5 * value(lying, "hematoxylin_octave0_gabor000_mean")
    for name in ("hematoxylin_octave0_alignment", "hematoxylin_octave0_coherence"):
        assert value(upright, name) > 0.9
        assert value(lying, name) == pytest.approx(value(upright, name), abs=1e-3)


def test_features_tell_tumour_from_normal():
    if not PATCHES.exists():
        pytest.skip("../shared is absent")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    paths = sorted(PATCHES.rglob("*.png"))
    target = np.array([path.parent.name != "normal" for path in paths])
    features = encode(torch.from_numpy(np.stack([cv2.imread(str(p))[..., ::-1] for p in paths]))).numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    guess = cross_val_predict(model, features, target, cv=folds)
    balanced = (guess[target].mean() + (1 - guess[~target]).mean()) / 2
    assert balanced > 0.85
