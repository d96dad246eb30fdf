"""Sampling does not depend on how it is cut up; the scenes benchmark judges what is there and says what is not."""

import json
import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semantic_routing.evaluation import layout, scenes
from semantic_routing.evaluation.compare import compare
from semantic_routing.evaluation.layout import make_jobs
from semantic_routing.evaluation.report import read_result
from semantic_routing.evaluation.sampling import Sampler, image_seed, sample_images
from semantic_routing.io.jsonl import read_lines
from semantic_routing.scenes import SKILLS, render, sample_scene
from semantic_routing.scenes.held_out import HELD_OUT, stated

PROMPTS = {3: "a red circle", 7: "two blue squares", 8: "a star", 11: "a red square and a circle"}


def pictures(root):
    return {str(path.relative_to(root)): np.array(Image.open(path)) for path in sorted(root.rglob("*.png"))}


def sampled(tiny_pipeline, out, **options):
    sampler = Sampler(
        **{"pipeline": str(tiny_pipeline), "steps": 2, "images_per_prompt": 2, "batch_size": 3, **options}
    )
    sample_images(sampler, make_jobs(out / "images", PROMPTS, sampler.images_per_prompt), out)
    return pictures(out / "images")


def test_an_interrupted_run_goes_on_to_the_same_images(tiny_pipeline, tmp_path):
    whole = sampled(tiny_pipeline, tmp_path / "whole")
    assert len({picture.tobytes() for picture in whole.values()}) == 8
    sampled(tiny_pipeline, tmp_path / "cut")
    gone = sorted((tmp_path / "cut").rglob("*.png"))[2:5]
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").rglob("*.png") if path not in gone}
    for path in gone:
        path.unlink()
    again = sampled(tiny_pipeline, tmp_path / "cut")
    assert all(np.array_equal(whole[name], again[name]) for name in whole)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


SHARE = """
import sys
from pathlib import Path
from semantic_routing.evaluation.layout import make_jobs
from semantic_routing.evaluation.sampling import Sampler, processes, sample_images
assert processes().num_processes == 2
out = Path(sys.argv[2])
sampler = Sampler(pipeline=sys.argv[1], steps=2, images_per_prompt=2, batch_size=3)
sample_images(sampler, make_jobs(out / "images", eval(sys.argv[3]), 2), out)
(out / f"made-by-{processes().process_index}").touch()
"""


def test_two_processes_make_the_images_of_one(tiny_pipeline, tmp_path):
    whole = sampled(tiny_pipeline, tmp_path / "one")
    (tmp_path / "share.py").write_text(SHARE)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29533"]
    arguments = [str(tmp_path / "share.py"), str(tiny_pipeline), str(tmp_path / "two"), repr(PROMPTS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*launch, *arguments], check=True, env=environment, capture_output=True, timeout=120)
    assert len(list((tmp_path / "two").glob("made-by-*"))) == 2
    both = pictures(tmp_path / "two" / "images")
    assert whole.keys() == both.keys()
    assert all(np.array_equal(whole[name], both[name]) for name in whole)


def test_one_of_several_processes_writes_the_prompts_records(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "is_main_process", lambda: False)
    layout.write_records(tmp_path, {0: {"prompt": "a circle"}})
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(layout, "is_main_process", lambda: True)
    layout.write_records(tmp_path, {0: {"prompt": "a circle"}})
    assert (tmp_path / "00000" / "metadata.jsonl").is_file()


def test_batch_size_only_rounds(tiny_pipeline, tmp_path):
    one, eight = (sampled(tiny_pipeline, tmp_path / str(size), batch_size=size) for size in (1, 8))
    for name in one:
        assert np.abs(one[name].astype(int) - eight[name]).max() <= 1


def test_each_image_has_its_own_noise_unless_it_is_to_be_shared():
    jobs = make_jobs(Path("x"), dict.fromkeys(range(50), "p"), 4)
    assert len({image_seed(Sampler(), job) for job in jobs}) == 200
    assert len({image_seed(Sampler(same_noise=True), job) for job in jobs}) == 4
    assert image_seed(Sampler(seed=1), jobs[0]) != image_seed(Sampler(seed=2), jobs[0])


def test_images_made_otherwise_are_not_mixed(tiny_pipeline, tmp_path):
    sampled(tiny_pipeline, tmp_path)
    with pytest.raises(ValueError, match=r"guidance 6\.0, but 2\.0"):
        sampled(tiny_pipeline, tmp_path, guidance=2.0)


def test_the_prompt_list_is_fixed_and_half_of_it_held_out():
    prompts = scenes.scene_prompts()
    # A change of this hash is a new version of the benchmark: raise VERSION with it.
    assert (scenes.VERSION, scenes.prompts_hash(prompts)[:16]) == (4, "ba5c5a7c408ba00e")
    assert [prompt.index for prompt in prompts] == list(range(600))
    assert len({(prompt.skill, prompt.prompt) for prompt in prompts}) == 600
    for prompt in prompts:
        assert HELD_OUT.isdisjoint(stated(prompt.claims)) == (prompt.split == "trained")
    assert {prompt.skill for prompt in prompts} == set(SKILLS)


@cache
def pictures_of(skill, split):
    """By caption, the picture of the scene that the caption was made for."""
    wanted = {prompt.prompt for prompt in scenes.choose_prompts([skill], split)}
    found = {}
    for index in range(2000):
        if len(found) == len(wanted):
            break
        sample = sample_scene(scenes._SEED, index, "unseen" if split == "trained" else split, [skill])
        if sample.caption in wanted and sample.caption not in found:
            found[sample.caption] = Image.fromarray(render(sample.scene, 32))
    return found


def perfect(root, prompts, images_per_prompt):
    """Images that show each prompt."""
    for job in make_jobs(root, {prompt.index: prompt.prompt for prompt in prompts}, images_per_prompt):
        prompt = scenes.scene_prompts()[job.prompt_index]
        job.path.parent.mkdir(parents=True, exist_ok=True)
        pictures_of(prompt.skill, prompt.split)[prompt.prompt].save(job.path)


def test_perfect_images_get_all_and_empty_ones_next_to_nothing(tmp_path):
    prompts = scenes.scene_prompts()
    perfect(tmp_path / "good" / "images", prompts, 1)
    good = scenes.score(prompts, tmp_path / "good", images_per_prompt=1)
    assert good.complete
    assert {row.score for row in good.rows} == {1.0}
    for job in make_jobs(tmp_path / "bad" / "images", {prompt.index: "" for prompt in prompts}, 1):
        job.path.parent.mkdir(parents=True)
        Image.new("RGB", (32, 32), (140, 140, 145)).save(job.path)
    bad = scenes.score(prompts, tmp_path / "bad", images_per_prompt=1)
    assert max(row.score for row in bad.rows) < 0.05
    difference = {
        (entry.name, entry.part): entry for entry in compare([tmp_path / "bad", tmp_path / "good"]).differences
    }
    assert difference["overall", "held-out"].beyond_noise
    assert difference["overall", "all"].difference > 0.95


def test_missing_broken_and_extra_images_are_named_counted_and_kept_out(tmp_path):
    prompts = scenes.choose_prompts(["counting", "position"])
    images = tmp_path / "images"
    perfect(images, prompts, 2)
    paths = sorted(images.rglob("*.png"))
    paths[0].unlink()
    paths[5].write_bytes(paths[5].read_bytes()[:60])
    (images / "notes.txt").write_text("x")
    (images / "99999" / "samples").mkdir(parents=True)
    (images / "99999" / "samples" / "00000.png").write_bytes(b"x")
    result = scenes.score(prompts, tmp_path, images_per_prompt=2)
    assert not result.complete
    assert result.remark.startswith("INCOMPLETE: 158 of 160 images scored")
    assert "1 missing images: 00080/samples/00000.png" in result.remark
    assert [len(names) for names in result.problems.values()] == [1, 1, 2]
    assert {row.score for row in result.rows} == {1.0}
    assert (tmp_path / "result.md").read_text().startswith("INCOMPLETE")
    lines = read_lines(tmp_path / "results.jsonl")
    assert [line["correct"] for line in lines].count(None) == 2


def test_an_incomplete_result_has_no_overall_score_unless_asked(tmp_path):
    prompts = scenes.scene_prompts()
    perfect(tmp_path / "images", prompts[:590], 1)
    withheld = scenes.score(prompts, tmp_path, images_per_prompt=1)
    given = scenes.score(prompts, tmp_path, images_per_prompt=1, partial=True)
    assert {row.score for row in withheld.rows if row.name == "overall"} == {None}
    assert {row.score for row in given.rows if row.name == "overall"} == {1.0}
    assert not given.complete
    assert read_result(tmp_path) == given


def test_skills_and_halves_can_be_chosen():
    chosen = scenes.choose_prompts(["counting"], "held-out")
    assert {(prompt.skill, prompt.split) for prompt in chosen} == {("counting", "held-out")}
    assert len(chosen) == 20
    assert [measure.name for measure in scenes.measures(chosen)] == ["counting"]
    with pytest.raises(ValueError, match="juggling"):
        scenes.choose_prompts(["juggling"])


def test_scoring_as_many_images_as_geneval_has_takes_less_than_a_minute(tmp_path):
    prompts = scenes.scene_prompts()[:150]
    perfect(tmp_path / "images", prompts, 2)
    started = time.perf_counter()
    scenes.score(prompts, tmp_path, images_per_prompt=2)
    assert (time.perf_counter() - started) * 553 * 4 / 300 < 60


def test_results_can_be_read_by_others(tmp_path):
    prompts = scenes.choose_prompts(["single_object", "part"])
    perfect(tmp_path / "images", prompts, 1)
    scenes.score(prompts, tmp_path, images_per_prompt=1)
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["settings"]["versions"]["torch"]
    lines = (tmp_path / "result.csv").read_text().splitlines()
    assert lines[0] == "name,part,score,low,high,prompts,images,status"
    assert lines[1] == "single_object,all,1.0,1.0,1.0,40,40,complete"
