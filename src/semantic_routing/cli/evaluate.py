"""`sroute evaluate`: a command a benchmark."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import information

if TYPE_CHECKING:
    from ..evaluation.judges import Judge
    from ..evaluation.report import Result

app = typer.Typer(no_args_is_help=True, help="Sample and score a benchmark, with 95 % intervals for every score.")
app.command("information")(information.command)

Action = Annotated[Literal["sample", "score", "both"], typer.Argument(help="What to do.")]
Pipeline = Annotated[str | None, typer.Option(help="Pipeline folder or hub name; default: the demo model.")]
Out = Annotated[Path, typer.Option(help="Folder for images and results; a second run goes on from what is there.")]
Images = Annotated[Path | None, typer.Option(help="Score these images; default: those in --out.")]
ImagesPerPrompt = Annotated[int, typer.Option(min=1, help="Images a prompt.")]
Steps = Annotated[int, typer.Option(min=1, help="Euler steps.")]
Guidance = Annotated[float, typer.Option(min=0, help="Classifier-free guidance scale; 1 is none.")]
Seed = Annotated[int, typer.Option(min=0, help="Image i of prompt p starts from noise of (seed, p, i).")]
SameNoise = Annotated[bool, typer.Option("--same-noise", help="Image i of every prompt starts from the same noise.")]
Size = Annotated[int | None, typer.Option(min=1, help="Pixels a side; default: the model's.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at a time.")]
Dtype = Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="Of the weights.")]
Device = Annotated[str | None, typer.Option(help="Default: cuda where there is one.")]
Prompts = Annotated[str, typer.Option(help="Prompt file, or hub:OWNER/NAME/FILE for one of a data set.")]
JudgeModel = Annotated[str | None, typer.Option(help="Name at the endpoint; without one, a folder or hub name.")]
JudgeUrl = Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint, e.g. http://localhost:8000/v1.")]
JudgeKey = Annotated[str | None, typer.Option(envvar="JUDGE_API_KEY", help="Sent as a bearer token.")]
Workers = Annotated[int, typer.Option(min=1, help="Requests at a time.")]
Retries = Annotated[int, typer.Option(min=0, help="Tries after the first, with growing pauses.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds for one try.")]
Partial = Annotated[bool, typer.Option("--partial", help="Give overall scores although images are missing.")]


def _finish(result: "Result", partial: bool) -> None:
    """Prints the table; an incomplete result that nobody asked for is a failure."""
    from ..evaluation.report import print_table

    print_table(result.table())
    if not result.complete and not partial:
        raise typer.Exit(1)


@app.command()
def scenes(
    action: Action = "both",
    pipeline: Pipeline = None,
    out: Out = Path("evaluation/scenes"),
    images: Images = None,
    skills: Annotated[str | None, typer.Option(help="Only these, joined by commas; default: all fifteen.")] = None,
    held_out: Annotated[bool, typer.Option("--held-out/--all", help="Only what training never names.")] = False,
    images_per_prompt: ImagesPerPrompt = 4,
    steps: Steps = 30,
    guidance: Guidance = 2.0,
    seed: Seed = 42,
    same_noise: SameNoise = False,
    size: Size = None,
    batch_size: BatchSize = 64,
    dtype: Dtype = "float32",
    device: Device = None,
    partial: Partial = False,
) -> None:
    """Colored shapes: 600 prompts of fifteen skills, half of them combinations that training never names."""
    from ..evaluation import scenes as benchmark
    from ..evaluation.sampling import Sampler, is_main_process

    named = [skill.strip() for skill in skills.split(",")] if skills else []
    prompts = benchmark.choose_prompts(named, "held-out" if held_out else "all")
    if action != "score":
        sampler = Sampler(
            pipeline, steps, guidance, images_per_prompt, seed, same_noise, size, None, batch_size, dtype, device
        )
        benchmark.sample(prompts, sampler, out)
    if action != "sample" and is_main_process():
        _finish(benchmark.score(prompts, out, images, images_per_prompt, partial), partial)


def _judge(
    model: str | None, url: str | None, key: str | None, workers: int, retries: int, timeout: float, device: str | None
) -> "Judge":
    """The judge behind an endpoint, or one that runs here."""
    from ..evaluation.judges import EndpointJudge, LocalJudge
    from ..io.chat import ChatClient

    if model is None:
        raise ValueError("Scoring needs a judge: name one with --judge-model, and its endpoint with --judge-url.")
    if url is None:
        return LocalJudge(model, device)
    return EndpointJudge(ChatClient(url, model, key, workers, retries, timeout))


@app.command()
def geneval(
    prompts: Prompts,
    action: Action = "both",
    pipeline: Pipeline = None,
    out: Out = Path("evaluation/geneval"),
    images: Images = None,
    images_per_prompt: ImagesPerPrompt = 4,
    steps: Steps = 50,
    guidance: Guidance = 6.0,
    seed: Seed = 42,
    same_noise: SameNoise = False,
    size: Size = None,
    batch_size: BatchSize = 16,
    dtype: Dtype = "float32",
    device: Device = None,
    detector: Annotated[str | None, typer.Option(help="Mask2Former folder or hub name; default: Swin-S, COCO.")] = None,
    clip: Annotated[str | None, typer.Option(help="CLIP folder or hub name; default: ViT-L/14 of OpenAI.")] = None,
    threshold: Annotated[float, typer.Option(help="Detections must score more.")] = 0.3,
    counting_threshold: Annotated[float, typer.Option(help="The same for the task counting.")] = 0.9,
    max_objects: Annotated[int, typer.Option(min=1, help="Instances kept a class.")] = 16,
    max_overlap: Annotated[float, typer.Option(help="IoU at which the worse instance is dropped; 1 drops none.")] = 1.0,
    position_threshold: Annotated[float, typer.Option(help="How far apart centers must lie, in sizes.")] = 0.1,
    bgcolor: Annotated[str, typer.Option(help="Around objects cut out for CLIP, or 'original'.")] = "#999",
    crop: Annotated[bool, typer.Option(help="Cut to the object's box for CLIP.")] = True,
    partial: Partial = False,
) -> None:
    """GenEval: objects, counts, colors and places, judged by Mask2Former and CLIP. Needs evaluation_metadata.jsonl."""
    from ..evaluation.geneval import scoring
    from ..evaluation.geneval.colors import DEFAULT_CLIP
    from ..evaluation.geneval.detector import DEFAULT_DETECTOR
    from ..evaluation.geneval.judging import JudgingOptions
    from ..evaluation.geneval.records import read_prompts
    from ..evaluation.prompt_files import find_prompts
    from ..evaluation.sampling import Sampler, is_main_process

    records = read_prompts(find_prompts(prompts))
    if action != "score":
        sampler = Sampler(
            pipeline, steps, guidance, images_per_prompt, seed, same_noise, size, None, batch_size, dtype, device
        )
        scoring.sample(records, sampler, out)
    if action != "sample" and is_main_process():
        judging = JudgingOptions(threshold, counting_threshold, max_objects, max_overlap, position_threshold)
        options = scoring.ScorerOptions(detector or DEFAULT_DETECTOR, clip or DEFAULT_CLIP, judging, bgcolor, crop)
        _finish(scoring.score(records, options, out, images, images_per_prompt, device, partial), partial)


@app.command()
def genai_bench(
    prompts: Prompts,
    action: Action = "both",
    skills: Annotated[str | None, typer.Option(help="genai_skills.json; without it only the overall score.")] = None,
    pipeline: Pipeline = None,
    out: Out = Path("evaluation/genai-bench"),
    images: Images = None,
    images_per_prompt: ImagesPerPrompt = 1,
    steps: Steps = 50,
    guidance: Guidance = 6.0,
    seed: Seed = 42,
    same_noise: SameNoise = False,
    size: Size = None,
    batch_size: BatchSize = 16,
    dtype: Dtype = "float32",
    device: Device = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    judge_key: JudgeKey = None,
    workers: Workers = 20,
    retries: Retries = 5,
    timeout: Timeout = 120.0,
    question: Annotated[str | None, typer.Option(help="{} is the prompt; default: the papers' wording.")] = None,
    image_first: Annotated[bool, typer.Option("--image-first/--text-first", help="What the judge reads first.")] = True,
    score: Annotated[
        Literal["yes_prob", "normalized", "first_match", "exact_yes"], typer.Option(help="What counts as P(yes).")
    ] = "yes_prob",
    partial: Partial = False,
) -> None:
    """GenAI-Bench: P(yes) of a vision-language judge, by skill. Needs genai_image.json and genai_skills.json."""
    from ..evaluation import genai_bench as benchmark
    from ..evaluation.prompt_files import find_prompts
    from ..evaluation.sampling import Sampler, is_main_process

    options = benchmark.VQAOptions(question or benchmark.QUESTION, image_first, score)
    entries = benchmark.read_prompts(find_prompts(prompts), find_prompts(skills) if skills else None)
    if action != "score":
        sampler = Sampler(
            pipeline, steps, guidance, images_per_prompt, seed, same_noise, size, None, batch_size, dtype, device
        )
        benchmark.sample(entries, sampler, out)
    if action != "sample" and is_main_process():
        judge = _judge(judge_model, judge_url, judge_key, workers, retries, timeout, device)
        _finish(benchmark.score(entries, judge, options, out, images, images_per_prompt, partial), partial)


@app.command()
def drawbench(
    prompts: Prompts,
    action: Action = "both",
    pipeline: Pipeline = None,
    out: Out = Path("evaluation/drawbench"),
    images: Images = None,
    images_per_prompt: ImagesPerPrompt = 1,
    steps: Steps = 50,
    guidance: Guidance = 6.0,
    seed: Seed = 42,
    same_noise: SameNoise = False,
    size: Size = None,
    batch_size: BatchSize = 16,
    dtype: Dtype = "float32",
    device: Device = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    judge_key: JudgeKey = None,
    workers: Workers = 16,
    retries: Retries = 5,
    timeout: Timeout = 120.0,
    encoding: Annotated[Literal["jpeg95", "png"], typer.Option(help="Of images sent to an endpoint.")] = "jpeg95",
    partial: Partial = False,
) -> None:
    """DrawBench prompts scored by UnifiedReward 2.0: style, alignment, coherence. Needs a prompt list."""
    from ..evaluation import drawbench as benchmark
    from ..evaluation.prompt_files import find_prompts
    from ..evaluation.sampling import Sampler, is_main_process

    entries = benchmark.read_prompts(find_prompts(prompts))
    if action != "score":
        sampler = Sampler(
            pipeline, steps, guidance, images_per_prompt, seed, same_noise, size, None, batch_size, dtype, device
        )
        benchmark.sample(entries, sampler, out)
    if action != "sample" and is_main_process():
        judge = _judge(judge_model, judge_url, judge_key, workers, retries, timeout, device)
        _finish(benchmark.score(entries, judge, out, images, images_per_prompt, encoding, partial), partial)
