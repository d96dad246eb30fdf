"""GenEval as a benchmark: the official folders, verdicts, results file and summary.

OUT/
  images/00000/metadata.jsonl, images/00000/samples/00000.png
  results.jsonl           a line a judged image, as the official summary reads it
  summary.json            the official figures
  ledger.jsonl            what the models said, for a second run
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from PIL import Image
from typer import Option

from ...io.files import write_json
from ..benchmark import BENCHMARKS, OK, DetectorBenchmark, Json, Judged, Scores, value_key
from ..image_files import NumberedFolders
from ..network_names import check_found
from ..prompt_files import Prompts, find_prompts
from ..result import OVERALL, Measure, Tally
from .judging import JudgingOptions
from .options import BACKGROUND, DEFAULT_CLIP, DEFAULT_DETECTOR, ScorerOptions
from .records import OFFICIAL_SHA256, TAGS, read_prompts
from .summary import summarize_rows

if TYPE_CHECKING:
    from .scorer import Scorer

ANY = "any image"
"""The column for prompts of which at least one image is correct."""


@BENCHMARKS.register("geneval")
class GenEval(DetectorBenchmark):
    """GenEval: objects, counts, colors and places, judged by Mask2Former and CLIP. Needs evaluation_metadata.jsonl.

    Args:
        prompts: the prompt file.
        detector: Mask2Former by folder or hub name.
        clip: CLIP by folder or hub name.
        threshold: scores of detections must exceed it.
        counting_threshold: and this one in images of the task counting.
        max_objects: instances kept of each class.
        max_overlap: IoU at which the worse of two instances is dropped.
        position_threshold: share of the two sizes by which centers must lie apart.
        bgcolor: what surrounds an object that is cut out for CLIP, or "original".
        crop: cut the image to the object's box for CLIP.
        device: where to compute; None is cuda where there is one.

    Raises:
        ValueError: the prompt file cannot be read.
    """

    unit = "Share of images that show what the prompt asks for."
    ledger = "ledger.jsonl"

    def __init__(
        self,
        prompts: Prompts,
        detector: Annotated[str, Option(help="Mask2Former by folder or hub name.")] = DEFAULT_DETECTOR,
        clip: Annotated[str, Option(help="CLIP by folder or hub name.")] = DEFAULT_CLIP,
        threshold: Annotated[float, Option(help="Detections must score more.")] = 0.3,
        counting_threshold: Annotated[float, Option(help="The same for the task counting.")] = 0.9,
        max_objects: Annotated[int, Option(min=1, help="Instances kept of each class.")] = 16,
        max_overlap: Annotated[float, Option(help="IoU at which the worse instance is dropped; 1 drops none.")] = 1.0,
        position_threshold: Annotated[float, Option(help="How far apart centers must lie, in sizes.")] = 0.1,
        bgcolor: Annotated[str, Option(help="Around objects that are cut out for CLIP, or 'original'.")] = BACKGROUND,
        crop: Annotated[bool, Option(help="Cut the image to the object's box for CLIP.")] = True,
        device: str | None = None,
    ) -> None:
        self.file = read_prompts(find_prompts(prompts))
        texts = {index: record.prompt for index, record in enumerate(self.file.records)}
        super().__init__(texts, NumberedFolders(dict(enumerate(self.file.raw))))
        judging = JudgingOptions(threshold, counting_threshold, max_objects, max_overlap, position_threshold)
        self.options = ScorerOptions(detector, clip, judging, bgcolor, crop)
        self.device = device

    @cached_property
    def scorer(self) -> "Scorer":
        """The models, loaded only if some image is new."""
        from .scorer import Scorer

        return Scorer(self.options, self.device)

    def check_judge(self, ask: bool = False) -> None:
        """Looks for the models, where sampling comes first."""
        if ask:
            check_found("--detector", self.options.detector)
            check_found("--clip", self.options.clip_model)

    def identity(self, prompt: int, question: int = 0) -> Json:
        """The prompt's record and the scorer's options."""
        return {"record": self.file.raw[prompt], "scorer": asdict(self.options)}

    def judge(self, image: Image.Image, prompt: int) -> Json:
        """The official verdict, with reasons, details and colors."""
        return self.scorer(image, self.file.records[prompt])

    def scores(self, found: Json) -> Scores:
        """1 for a correct image, else 0."""
        return {"": float(found["correct"])}

    def settings(self, judged: Sequence[Judged]) -> Json:
        """The prompt file, whether it is the official one, and the scorer's options."""
        official = self.file.sha256 == OFFICIAL_SHA256
        return {"prompts_sha256": self.file.sha256, "official_prompts": official, "scorer": asdict(self.options)}

    def line(self, judged: Judged) -> Json | None:
        """A line of the official results file, which has none for images without a verdict, and what we add to it."""
        image, outcome = judged
        if outcome.status != OK:
            return None
        raw, found = self.file.raw[image.prompt], outcome.found
        return {
            "filename": str(image.path),
            "tag": raw["tag"],
            "prompt": raw["prompt"],
            "correct": found["correct"],
            "reason": found["reason"],
            "metadata": json.dumps(raw),
            "details": json.dumps(found["details"]),
            "prompt_index": image.prompt,
            "sample_index": image.sample,
            "colors": found["colors"],
        }

    def finish(self, lines: Sequence[Json], tally: Tally, out: Path) -> None:
        """Adds whether any image of a prompt is correct, and writes the official summary."""
        for key, scores in list(tally.scores.items()):
            tally.scores[f"{key}/{ANY}"] = [max(scores)]
        write_json(out / "summary.json", summarize_rows(lines))

    def measures(self) -> list[Measure]:
        """A row a task, and their plain mean, which is called overall only if all six tasks are there."""
        by_tag: dict[str, list[int]] = {}
        for index, record in enumerate(self.file.records):
            by_tag.setdefault(record.tag, []).append(index)
        mean = OVERALL if set(by_tag) == set(TAGS) else "mean of tasks"
        rows = {tag: [indices] for tag, indices in by_tag.items()} | {mean: list(by_tag.values())}
        return [
            Measure(name, tuple(tuple(value_key(index, part) for index in indices) for indices in groups), column)
            for column, part in (("images", ""), (ANY, ANY))
            for name, groups in rows.items()
        ]
