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

from semantic_routing.evaluation import Scenes, runner, sampling, scenes
from semantic_routing.evaluation.compare import compare
from semantic_routing.evaluation.image_files import NumberedFolders, Place
from semantic_routing.evaluation.result import read_result
from semantic_routing.evaluation.runner import score
from semantic_routing.evaluation.sampler import Job, Sampler, image_seed
from semantic_routing.evaluation.sampling import sample_images
from semantic_routing.io.jsonl import read_lines
from semantic_routing.scenes import HARD_SKILLS, SKILLS, render, sample_scene
from semantic_routing.scenes.held_out import HELD_OUT, stated

PROMPTS = {3: "a red circle", 7: "two blue squares", 8: "a star", 11: "a red square and a circle"}


FILES = NumberedFolders({})


def make_jobs(images, prompts, images_per_prompt):
    return [
        Job(images / FILES.name(Place(index, number)), prompt, index, number)
        for index, prompt in prompts.items()
        for number in range(images_per_prompt)
    ]


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
from semantic_routing.evaluation.sampler import Job, Sampler
from semantic_routing.evaluation.sampling import processes, sample_images
assert processes().num_processes == 2
out = Path(sys.argv[2])
sampler = Sampler(pipeline=sys.argv[1], steps=2, images_per_prompt=2, batch_size=3)
sample_images(sampler, [Job(out / name, *rest) for name, *rest in eval(sys.argv[3])], out)
(out / f"made-by-{processes().process_index}").touch()
"""


def test_two_processes_make_the_images_of_one(tiny_pipeline, tmp_path):
    whole = sampled(tiny_pipeline, tmp_path / "one")
    (tmp_path / "share.py").write_text(SHARE)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29533"]
    jobs = [(str(path), *rest) for path, *rest in make_jobs(Path("images"), PROMPTS, 2)]
    arguments = [str(tmp_path / "share.py"), str(tiny_pipeline), str(tmp_path / "two"), repr(jobs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*launch, *arguments], check=True, env=environment, capture_output=True, timeout=120)
    assert len(list((tmp_path / "two").glob("made-by-*"))) == 2
    both = pictures(tmp_path / "two" / "images")
    assert whole.keys() == both.keys()
    assert all(np.array_equal(whole[name], both[name]) for name in whole)


def test_one_of_several_processes_writes_the_prompts_records(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "sample_images", lambda *args: None)
    benchmark = Scenes("colors", prompts_per_half=1)
    record = tmp_path / "images" / f"{next(iter(benchmark.prompts)):05d}" / "metadata.jsonl"
    for main in (False, True):
        monkeypatch.setattr(sampling, "is_main_process", lambda main=main: main)
        runner.sample(benchmark, Sampler(), tmp_path)
        assert record.is_file() == main
    assert json.loads(record.read_text())["prompt"] in benchmark.prompts.values()


def test_batch_size_only_rounds(tiny_pipeline, tmp_path):
    one, eight = (sampled(tiny_pipeline, tmp_path / str(size), batch_size=size) for size in (1, 8))
    for name in one:
        assert np.abs(one[name].astype(int) - eight[name]).max() <= 1


def test_each_image_has_its_own_noise_unless_it_is_to_be_shared():
    jobs = make_jobs(Path("x"), dict.fromkeys(range(50), "p"), 4)
    assert len({image_seed(Sampler(), job) for job in jobs}) == 200
    assert len({image_seed(Sampler(same_noise=True), job) for job in jobs}) == 4
    assert image_seed(Sampler(seed=1), jobs[0]) != image_seed(Sampler(seed=2), jobs[0])
    # The noise of images that were made before must not change.
    job = Job(Path("x"), "p", 3, 1)
    assert image_seed(Sampler(), job) == 5430396998017525854
    assert image_seed(Sampler(seed=7, same_noise=True), job) == 3317731564112288844


def test_images_made_otherwise_are_not_mixed(tiny_pipeline, tmp_path):
    sampled(tiny_pipeline, tmp_path)
    with pytest.raises(ValueError, match=r"guidance 6\.0, but 2\.0"):
        sampled(tiny_pipeline, tmp_path, guidance=2.0)


def test_the_prompt_list_is_fixed_and_half_of_it_held_out():
    prompts = scenes.choose_prompts()
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


def perfect(root, benchmark, images_per_prompt):
    """Images that show each prompt."""
    for job in make_jobs(root, benchmark.prompts, images_per_prompt):
        prompt = benchmark.by_index[job.prompt_index]
        job.path.parent.mkdir(parents=True, exist_ok=True)
        pictures_of(prompt.skill, prompt.split)[prompt.prompt].save(job.path)


def test_perfect_images_get_all_and_empty_ones_next_to_nothing(tmp_path):
    benchmark = Scenes(prompts_per_half=5)
    perfect(tmp_path / "good" / "images", benchmark, 1)
    good = score(benchmark, tmp_path / "good", images_per_prompt=1)
    assert good.complete
    assert {row.score for row in good.rows} == {1.0}
    for job in make_jobs(tmp_path / "bad" / "images", benchmark.prompts, 1):
        job.path.parent.mkdir(parents=True)
        Image.new("RGB", (32, 32), (140, 140, 145)).save(job.path)
    bad = score(benchmark, tmp_path / "bad", images_per_prompt=1)
    assert max(row.score for row in bad.rows) < 0.05
    # Ten prompts, all right or all wrong, do not make a score certain.
    assert all(0.7 < row.low < 0.73 < row.high == 1 for row in good.rows if row.prompts == row.images == 10)
    compared = compare([[tmp_path / "bad"], [tmp_path / "good"]])
    differences = {(entry.name, entry.part): entry for entry in compared.differences}
    assert differences["overall", "held-out"].beyond_noise
    assert differences["overall", "all"].difference > 0.95
    assert differences["overall", "all"].verdict == "better"
    assert [place for place, entry in differences.items() if entry.primary] == [("overall", "all")]


def test_missing_broken_and_extra_images_are_named_counted_and_kept_out(tmp_path):
    benchmark = Scenes("counting,position")
    images = tmp_path / "images"
    perfect(images, benchmark, 2)
    paths = sorted(images.rglob("*.png"))
    paths[0].unlink()
    paths[5].write_bytes(paths[5].read_bytes()[:60])
    (images / "notes.txt").write_text("x")
    paths[9].with_name("00002.png").write_bytes(paths[9].read_bytes())  # one more than there should be
    (images / "99999" / "samples").mkdir(parents=True)
    (images / "99999" / "samples" / "00000.png").write_bytes(b"x")
    result = score(benchmark, tmp_path, images_per_prompt=2)
    assert not result.complete
    assert result.remark.startswith("INCOMPLETE: 158 of 160 images scored")
    assert "1 missing images: 00080/samples/00000.png" in result.remark
    assert [len(names) for names in result.problems.values()] == [1, 1, 3]
    assert {row.score for row in result.rows} == {1.0}
    assert (tmp_path / "result.md").read_text().startswith("INCOMPLETE")
    lines = read_lines(tmp_path / "results.jsonl")
    assert [line["correct"] for line in lines].count(None) == 2


def test_images_of_skills_that_are_not_chosen_are_no_foreign_files(tmp_path):
    perfect(tmp_path / "images", Scenes("counting,position", prompts_per_half=2), 1)
    result = score(Scenes("counting", prompts_per_half=2), tmp_path, images_per_prompt=1)
    assert result.remark == "4 of 4 images scored"


def test_images_of_another_list_are_refused(tmp_path):
    benchmark = Scenes("counting", prompts_per_half=1)
    perfect(tmp_path / "images", benchmark, 1)
    NumberedFolders({index: {"prompt": "a cat"} for index in benchmark.prompts}).write_records(tmp_path / "images")
    with pytest.raises(ValueError, match="for the prompt 'a cat'; the benchmark has"):
        score(benchmark, tmp_path)


def test_an_incomplete_result_has_no_overall_score_unless_asked(tmp_path):
    benchmark = Scenes(prompts_per_half=2)
    perfect(tmp_path / "images", benchmark, 1)
    for path in sorted((tmp_path / "images").rglob("*.png"))[:4:2]:
        path.unlink()
    withheld = score(benchmark, tmp_path, images_per_prompt=1)
    given = score(benchmark, tmp_path, images_per_prompt=1, partial=True)
    assert {row.score for row in withheld.rows if row.name == "overall"} == {None}
    assert {row.score for row in given.rows if row.name == "overall"} == {1.0}
    assert not given.complete
    assert read_result(tmp_path) == given


def test_skills_and_halves_can_be_chosen():
    benchmark = Scenes("counting", held_out=True)
    assert {(prompt.skill, prompt.split) for prompt in benchmark.chosen} == {("counting", "held-out")}
    assert len(benchmark.prompts) == 20
    assert [measure.name for measure in benchmark.measures()] == ["counting"]
    with pytest.raises(ValueError, match="juggling"):
        Scenes("juggling")


def test_scoring_as_many_images_as_geneval_has_takes_less_than_a_minute(tmp_path):
    benchmark = Scenes("counting,position,colors", prompts_per_half=10)
    perfect(tmp_path / "images", benchmark, 2)
    started = time.perf_counter()
    score(benchmark, tmp_path, images_per_prompt=2)
    assert (time.perf_counter() - started) * 553 * 4 / 120 < 60


def test_results_can_be_read_by_others(tmp_path):
    benchmark = Scenes("single_object,part")
    perfect(tmp_path / "images", benchmark, 1)
    score(benchmark, tmp_path, images_per_prompt=1)
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["settings"]["versions"]["torch"]
    lines = (tmp_path / "result.csv").read_text().splitlines()
    assert lines[0] == "name,part,score,low,high,prompts,images,status"
    assert lines[1].startswith("single_object,all,1.0,0.91")
    assert lines[1].endswith(",1.0,40,40,complete")


def test_hard_skills_follow_the_fixed_list_and_settings_are_chosen_on_another_one():
    hard = scenes.choose_prompts(HARD_SKILLS)
    assert [prompt.index for prompt in hard] == list(range(600, 600 + 40 * len(HARD_SKILLS)))
    assert {prompt.skill for prompt in hard} == set(HARD_SKILLS)
    assert "hard" in {measure.name for measure in Scenes(",".join(HARD_SKILLS)).measures()}
    tuning = Scenes("ordinal,colors", tuning=True)
    assert len(tuning.prompts) == 80
    shared = set(tuning.prompts.values()) & set(Scenes("ordinal").prompts.values())
    assert len(shared) < 4  # a caption of few words can come twice


def test_features_of_a_pool_make_the_same_images(tiny_pipeline, tmp_path):
    plain = sampled(tiny_pipeline, tmp_path / "plain")
    pooled = sampled(tiny_pipeline, tmp_path / "pooled", text_pool=tmp_path / "features")
    assert list((tmp_path / "features").glob("pool-*"))
    assert plain.keys() == pooled.keys()
    for name, picture in plain.items():  # other prompts are encoded beside a prompt, so its last bits move
        assert abs(picture.astype(int) - pooled[name]).max() <= 1
