"""The images of E-SSL: scenes are what their docstring says, and folders that cannot be used get one sentence."""

import colorsys

import numpy as np
import pytest
from PIL import Image

from lib.essl import data
from lib.pipeline import settings

ESSL = settings.load("profiles/ci.yaml").essl
COUNTS = {"train": 40, "validation": 10, "test": 20}


def spec(**changes):
    return ESSL.model_copy(update={f"{split}_images": count for split, count in COUNTS.items()} | changes)


def folder(root, classes=("cat", "dog"), sizes=(32, 32), splits=("train", "test"), count=20):
    """<split>/<class>/<number>.png, of gray that tells the split; the sizes in turn."""
    for split in splits:
        for of in classes:
            (root / split / of).mkdir(parents=True)
            for number in range(count):
                size = sizes[number % len(sizes)]
                Image.new("RGB", (size, size), (100 if split == "train" else 200,) * 3).save(
                    root / split / of / f"{number:02d}.png"
                )
    return spec(name="cifar10-jpeg", root=str(root))


def test_scenes_follow_from_their_seed_and_no_image_is_in_two_splits():
    images, again, other = (data.load(spec(name="scenes", data_seed=seed)) for seed in (0, 0, 1))
    assert images.images.dtype == np.uint8 and images.images.shape == (70, 32, 32, 3)
    assert {split: (images.split == split).sum() for split in COUNTS} == COUNTS
    assert np.array_equal(images.images, again.images) and not np.array_equal(images.images, other.images)
    assert len(np.unique(images.images.reshape(70, -1), axis=0)) == 70
    assert "not photographs" in images.title and len(images.classes) == 10
    for split in COUNTS:  # all classes, equally often
        assert np.ptp(np.bincount(images.labels[images.split == split], minlength=10)) == 0


def test_a_mirror_image_keeps_the_class_and_a_turn_upside_down_does_not():
    """By the mean of a class's upright edges in other scenes; the whole image has no left, but a way up."""
    labels = np.arange(2000) % 10

    def edges(of, seed):
        return np.abs(np.diff(data.draw(of, seed).mean(axis=-1), axis=2))

    def of_classes(seed):
        steep = edges(labels, seed)
        found = np.stack([steep[labels == of].mean(axis=0) for of in range(10)])
        return found - found.mean(axis=0)

    def right(known, seen):
        return (np.corrcoef(known.reshape(10, -1), seen.reshape(10, -1))[:10, 10:].argmax(0) == np.arange(10)).sum()

    known, seen = of_classes(3), of_classes(4)
    assert right(known, seen[:, :, ::-1]) >= 9 and right(known, seen[:, ::-1]) <= 4
    houses = edges(np.full(1000, list(data.THINGS).index("house")), 5).mean(axis=0)  # their door is aside
    assert np.abs(houses - houses[:, ::-1]).max() < 3


def test_color_tells_a_class_only_in_part():
    """About half of the firs have the hue of firs in their middle, and the others any."""
    middle = data.draw(np.full(400, list(data.THINGS).index("fir")), 6)[:, 14:18, 15:17].mean(axis=(1, 2)) / 255
    hue = np.array([colorsys.rgb_to_hsv(*rgb)[0] for rgb in middle])
    near = np.abs((hue - 0.6 + 0.5) % 1 - 0.5) < 0.12
    assert 0.4 < near.mean() < 0.8


def test_photographs_of_a_folder_are_those_of_their_split(tmp_path):
    images = data.load(folder(tmp_path))
    gray = images.images[:, 0, 0, 0]
    # A tenth of the forty training images is for validation.
    assert {split: (images.split == split).sum() for split in COUNTS} == {"train": 36, "validation": 4, "test": 20}
    assert (gray[images.split == "test"] == 200).all() and (gray[images.split != "test"] == 100).all()
    assert images.classes == ("cat", "dog") and images.title == "CIFAR-10 (JPEG-recompressed)"


def refused(of, match, error=ValueError):
    with pytest.raises(error, match=match) as caught:
        data.load(of)
    text = str(caught.value)
    assert "\n" not in text and text.endswith((".", "train and test.")) and "augment." not in text


def test_a_class_that_is_not_in_all_splits_is_refused(tmp_path):
    of = folder(tmp_path)
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "wolf")
    refused(of, "no images of the class dog in test .*; add test/dog, or remove the class from all splits")


def test_one_class_is_refused(tmp_path):
    of = folder(tmp_path, classes=("cat",))
    refused(of, f"All training images of {tmp_path} are of the class cat, but two .*; add another class to each split")
    folder(tmp_path, classes=("dog",))
    refused(of.model_copy(update={"train_images": 1}), r"raise essl.train_images \(now 1\)")


def test_too_few_images_to_validate_on_are_refused(tmp_path):
    of = folder(tmp_path, count=4)
    refused(of, f"{tmp_path} has no validation images: a tenth of its 8 training images is none; put ten or more into")


def test_images_of_several_sizes_are_refused(tmp_path):
    refused(folder(tmp_path, sizes=(32, 32, 16)), r"is 16 x 16 px, but square images of one size, here 32 x 32,")


def test_images_of_another_size_are_refused(tmp_path):
    refused(folder(tmp_path, sizes=(16,)), "are 16 x 16 px, but 32 x 32 are expected; resize them")


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    of = spec(name="cifar10-jpeg", root=str(tmp_path))
    refused(of, "has no images in test/<class>/; essl.root must be a folder", FileNotFoundError)
    refused(of.model_copy(update={"root": str(tmp_path / "none")}), "does not exist; essl.root", FileNotFoundError)
    refused(of.model_copy(update={"root": ""}), "essl.root is empty, but essl.name is cifar10-jpeg; write there a")
