import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from tiny import CAPTIONS, write_images

from semantic_routing.data import BrokenExampleError, FolderSource, HuggingFaceSource, ScenesSource
from semantic_routing.scenes import CaptionPool, Spacing, render, sample_scene


def folder_of(tmp_path: Path, records: list[Any] | str, name: str = "data.jsonl", **options: Any) -> Any:
    """The opened source of some records, beside one picture `red.png`."""
    if not (tmp_path / "red.png").exists():
        Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    text = records if isinstance(records, str) else "\n".join(json.dumps(record) for record in records)
    (tmp_path / name).write_text(text, encoding="utf-8")
    return FolderSource(path=tmp_path / name, **options).open(16, 0)


RECORD = {"image": "red.png", "text": "a red square"}


def test_jsonl_and_json_are_told_apart_by_what_is_in_them(tmp_path: Path) -> None:
    lines = folder_of(tmp_path, [RECORD, RECORD | {"text": ["one", "two"]}], "data.json")
    array = folder_of(tmp_path, json.dumps([RECORD, RECORD | {"text": ["one", "two"]}], indent=2), "data.jsonl")
    for source in (lines, array):
        assert source.length == 2
        assert list(source[0].captions) == ["a red square"]
        assert list(source[1].captions) == ["one", "two"]
        assert np.array(source[0].image)[0, 0].tolist() == [255, 0, 0]


def test_line_separators_of_unicode_are_text(tmp_path: Path) -> None:
    captions = ["one\u2028two", "three\x85four", "five\x0bsix"]
    text = "\r\n".join(json.dumps(RECORD | {"text": caption}, ensure_ascii=False) for caption in captions) + "\r\n\r\n"
    source = folder_of(tmp_path, text)
    assert [source[index].captions[0] for index in range(source.length)] == captions


def test_keys_and_folder_can_be_named(tmp_path: Path) -> None:
    write_images(tmp_path / "elsewhere", count=1)
    record = {"file": "0.png", "caption": "noise"}
    source = folder_of(
        tmp_path, [record], image_root=tmp_path / "elsewhere" / "images", image_key="file", text_key="caption"
    )
    assert list(source[0].captions) == ["noise"]
    assert source[0].image.size == (20, 16)


def test_every_kind_of_image_becomes_rgb_the_right_way_up(tmp_path: Path) -> None:
    colors = Image.new("RGB", (2, 1), "red")
    colors.putpixel((1, 0), (0, 0, 255))
    colors.convert("P").save(tmp_path / "palette.png")
    colors.convert("RGBA").save(tmp_path / "alpha.png")
    colors.convert("L").save(tmp_path / "grey.png")
    exif = Image.Exif()
    exif[0x0112] = 8  # the camera was turned: what the file calls the right side is the top
    colors.save(tmp_path / "turned.png", exif=exif)
    names = ["palette.png", "alpha.png", "grey.png", "turned.png"]
    source = folder_of(tmp_path, [{"image": name, "text": ""} for name in names])
    images = [source[index].image for index in range(4)]
    assert {image.mode for image in images} == {"RGB"}
    for image in images[:2]:
        assert np.array(image).tolist() == np.array(colors).tolist()
    assert images[3].size == (1, 2)
    assert np.array(images[3])[:, 0].tolist() == [[0, 0, 255], [255, 0, 0]]


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"image": "gone.png", "text": "a"}, "gone.png: .*No such file"),
        ({"image": "broken.png", "text": "a"}, "broken.png: "),
        ({"image": "cut.png", "text": "a"}, "cut.png: "),
        ({"image": "../outside.png", "text": "a"}, "record 0: ../outside.png lies outside of the image folder"),
        ({"image": "/etc/hostname", "text": "a"}, "record 0: /etc/hostname lies outside"),
        ({"image": "link.png", "text": "a"}, "record 0: link.png lies outside"),
        ({"image": "nul\0.png", "text": "a"}, "null"),
        ({"image": "x" * 5000, "text": "a"}, "xxx"),
        ({"image": ".", "text": "a"}, "directory"),
        ({"text": "a"}, "record 0: no image path under 'image'"),
        ({"image": 7, "text": "a"}, "record 0: no image path under 'image'"),
        ({"image": "loop", "text": "a"}, "loop: "),
        (["red.png", "a"], "record 0: no image path"),
        ({"image": "red.png"}, "record 0: the caption is None"),
        ({"image": "red.png", "text": []}, r"record 0: the caption is \[\]"),
        ({"image": "red.png", "text": ["a", 3]}, r"record 0: the caption is \['a', 3\]"),
    ],
)
def test_a_broken_record_is_named(tmp_path: Path, record: Any, sentence: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    (inside / "link.png").symlink_to(tmp_path / "outside.png")
    (inside / "loop").symlink_to(inside / "loop")
    (inside / "broken.png").write_bytes(b"not an image")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(inside / "cut.png")
    (inside / "cut.png").write_bytes((inside / "cut.png").read_bytes()[:2000])
    with pytest.raises(BrokenExampleError, match=sentence):
        folder_of(inside, json.dumps([record, RECORD]))[0]


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "bmp", "tiff"])
def test_damaged_files_are_broken_examples_and_nothing_else(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "good", format=kind)
    good = (tmp_path / "good").read_bytes()
    source = folder_of(tmp_path, [{"image": "damaged", "text": ""}])
    broken = 0
    for _ in range(150):
        damaged = bytearray(good)
        for place in random.integers(0, min(len(good), 200), size=4):
            damaged[place] = random.integers(256)
        (tmp_path / "damaged").write_bytes(damaged[: random.integers(1, len(damaged) + 1)])
        try:
            assert source[0].image.mode == "RGB"
        except BrokenExampleError:
            broken += 1
    assert broken > 50


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("[]", "is empty"),
        ("[{]", "not valid JSON"),
        ('{"image": "red.png", "text": "a"}\n{"image": "re', "line 2, is not valid JSON"),
    ],
)
def test_files_that_are_no_data_set(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        folder_of(tmp_path, text)
    assert "data.jsonl" in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"gone\.json"):
        FolderSource(path=tmp_path / "gone.json").open(16, 0)
    with pytest.raises(ValueError, match=r"image folder .*gone does not exist"):
        folder_of(tmp_path, [RECORD], image_root=tmp_path / "gone")


def hugging_face_set() -> datasets.Dataset:
    images = [Image.new("RGB", (6, 4), color) for color in ("red", "blue")]
    table = {"image": images, "text": ["a red square", "blue"], "texts": [["a", "b"], ["c", "d"]]}
    return datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())


def test_a_hugging_face_data_set_from_a_folder(tmp_path: Path) -> None:
    hugging_face_set().save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"val": hugging_face_set()}).save_to_disk(tmp_path / "several")
    hugging_face_set().save_to_disk(tmp_path / "cut")
    (arrow,) = (tmp_path / "cut").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:200])
    for options in ({"path": str(tmp_path / "one")}, {"path": str(tmp_path / "several"), "split": "val"}):
        source = HuggingFaceSource(**options).open(16, 0)
        assert source.length == 2
        assert list(source[1].captions) == ["blue"]
        assert np.array(source[1].image)[0, 0].tolist() == [0, 0, 255]
    source = HuggingFaceSource(path=str(tmp_path / "one"), text_key="texts").open(16, 0)
    assert list(source[1].captions) == ["c", "d"]


def test_a_folder_of_images_with_metadata_is_a_hugging_face_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    write_images(folder, count=3)
    lines = [json.dumps({"file_name": f"{index}.png", "text": CAPTIONS[index]}) for index in range(3)]
    (folder / "images" / "metadata.jsonl").write_text("\n".join(lines))
    source = HuggingFaceSource(path=str(folder / "images")).open(16, 0)
    assert source.length == 3
    assert {source[index].captions[0] for index in range(3)} == set(CAPTIONS[:3])


def test_mistakes_about_hugging_face_data_sets(tmp_path: Path) -> None:
    hugging_face_set().save_to_disk(tmp_path / "one")
    datasets.Dataset.from_dict({"image": [], "text": []}).save_to_disk(tmp_path / "none")
    datasets.DatasetDict({"val": hugging_face_set()}).save_to_disk(tmp_path / "several")
    for options, sentence in (
        ({"path": str(tmp_path / "one"), "text_key": "caption"}, "no column 'caption'"),
        ({"path": str(tmp_path / "none")}, "is empty"),
        ({"path": str(tmp_path / "several")}, "no split 'train': it has val"),
        ({"path": str(tmp_path / "gone")}, "gone"),
        ({"path": str(tmp_path / "cut")}, "cut"),
    ):
        with pytest.raises((ValueError, OSError), match=sentence):
            HuggingFaceSource(**options).open(16, 0)


def test_a_broken_row_is_named(tmp_path: Path) -> None:
    table = {"image": [{"bytes": b"no image", "path": None}, None], "text": ["a", "b"]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict(table, features=features).save_to_disk(tmp_path)
    source = HuggingFaceSource(path=str(tmp_path)).open(16, 0)
    for index in range(2):
        with pytest.raises(BrokenExampleError, match=f"row {index}: "):
            source[index]


def test_scenes_are_the_embedded_world() -> None:
    source = ScenesSource().open(32, 7)
    assert source.length is None
    sample = sample_scene(7, 12345)
    assert list(source[12345].captions) == [sample.caption]
    assert np.array(source[12345].image).tolist() == render(sample.scene, 32).tolist()


def test_scenes_of_chosen_skills() -> None:
    source = ScenesSource(skills=["colors", "counting"]).open(32, 7)
    samples = [sample_scene(7, index, skills=["colors", "counting"]) for index in range(40)]
    assert {sample.skill for sample in samples} == {"colors", "counting"}
    assert [list(source[index].captions) for index in range(40)] == [[sample.caption] for sample in samples]
    with pytest.raises(ValueError, match="'juggling' is not a skill of the scenes world, which are single_object, "):
        ScenesSource(skills=["colors", "juggling"])


def test_scenes_on_a_coarser_grid() -> None:
    source = ScenesSource(spacing=4).open(32, 7)
    sample = sample_scene(7, 3, spacing=4)
    assert np.array(source[3].image).tolist() == render(sample.scene, 32).tolist()


def test_scenes_from_a_pool_of_captions() -> None:
    source = ScenesSource(captions=12, spacing=4).open(32, 7)
    pool = CaptionPool(12, 7, spacing=Spacing(4, 1))
    assert source.all_captions == list(pool.captions)
    assert ScenesSource().open(32, 7).all_captions is None
    for index in (0, 5, 900):
        sample = pool.sample(index)
        assert list(source[index].captions) == [sample.caption]
        assert np.array(source[index].image).tolist() == render(sample.scene, 32).tolist()
    assert len({source[index].captions[0] for index in range(100)}) <= 12
    with pytest.raises(ValueError, match="9000 captions were wanted"):
        ScenesSource(captions=9000, skills=["arithmetic"]).open(32, 7)


def test_scenes_too_small_to_draw_are_refused_before_training() -> None:
    with pytest.raises(ValueError, match="size is 16, but must be at least 32"):
        ScenesSource().open(16, 0)
