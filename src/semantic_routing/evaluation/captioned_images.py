"""Any pictures, or any pipeline's, against any captions of the user's: CLIP score, FID, KID, CMMD, by the user's tags.

With `--predict`, also how well the pipeline predicts the records' own pictures, see `prediction`.

OUT/
  images/0_sample_0.png   where a pipeline makes them
  scores.jsonl            CLIP scores, for a second run
  predictions.jsonl       losses and information, for a second run
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from typer import Option

from ..io.files import JsonObject, sha256
from ..io.images import UnreadableImageError, read_image
from ..io.resources import DEMO
from .benchmark import BENCHMARKS, OK, UNREADABLE, Benchmark, ImageFile, Json, Judged, Outcome, Scores, value_key
from .image_files import FlatFolder, Place
from .network_names import check_found, named_by
from .result import OVERALL, Measure, Row, Tally
from .sampler import Sampler

if TYPE_CHECKING:
    from .image_features import Clip, FrozenNetwork

DISTANCES = ("fid", "kid", "cmmd")
CLIP_SCORE = "CLIP score"
BATCH = 32
NONE = "none"


class Pair(NamedTuple):
    """A record: its caption, its picture if it has one, and its tags."""

    caption: str
    image: Path | None
    tags: tuple[str, ...]


@BENCHMARKS.register("images")
class CaptionedImages(Benchmark):
    """CLIP score, FID, KID and CMMD of images, a pipeline's or a folder's, against your captions and pictures.

    Args:
        data: JSON list or JSON lines of {"text": caption} and perhaps "image" and "tags".
        tag_key: of a record's tag or list of tags; results are given by tag.
        distances: some of `DISTANCES`, joined by commas, or none; they need the records' pictures.
        clip: of the CLIP score; "none" gives none.
        features: of FID and KID: inception, a file with weights of it, or a folder or hub name of an image model.
        cmmd_clip: of CMMD.
        least: images that a tag must have for distances.
        predict: how many of the records' pictures the pipeline is asked to predict.
        pipeline: that is sampled from, and that predicts; None is the demo model.
        dtype: of its weights.
        device: where to compute; None is cuda where there is one.

    Raises:
        ValueError: the data cannot be read, there are no pictures to compare with or to predict, or nothing is asked
            for.
    """

    sampler = Sampler(images_per_prompt=1)
    unit = (
        "CLIP score: 100 × cosine of image and caption. FID, KID × 1000, CMMD: between both sets, 0 is equal. "
        "Of the records' pictures, if predicted: validation loss, the lower the better, and information in nats."
    )
    bounds = None
    ledger = "scores.jsonl"

    def __init__(
        self,
        data: Annotated[Path, Option(help="JSON or JSONL of {text, image, tags}; image and tags may be left out.")],
        tag_key: Annotated[str, Option(help="Key of a record's tag or tags.")] = "tags",
        distances: Annotated[str, Option(help="Any of fid,kid,cmmd joined by commas, or none.")] = "fid,kid,cmmd",
        clip: Annotated[str, Option(help="CLIP model of the CLIP score, or none.")] = "openai/clip-vit-large-patch14",
        features: Annotated[
            str, Option(help="Network of FID and KID: inception, a file with its weights, or an image model's name.")
        ] = "inception",
        cmmd_clip: Annotated[str, Option(help="CLIP model of CMMD.")] = "openai/clip-vit-large-patch14-336",
        least: Annotated[int, Option(min=2, help="Images that a tag must have for distances.")] = 50,
        predict: Annotated[
            int, Option(min=0, help="Pictures of the records whose validation loss and information are measured.")
        ] = 0,
        pipeline: str | None = None,
        dtype: str = "float32",
        device: str | None = None,
    ) -> None:
        self.pairs = read_pairs(data, tag_key)
        self.sha256 = sha256(data.read_bytes())
        self.distances = choose_distances(distances)
        if self.distances and not any(pair.image for pair in self.pairs):
            raise ValueError(f"Distances need pictures, but no record of {data} has one; --distances none leaves them.")
        if predict and not any(pair.image for pair in self.pairs):
            raise ValueError(f"--predict needs pictures, but no record of {data} has one.")
        if clip == NONE and not self.distances and not predict:
            raise ValueError("--clip none and --distances none leave nothing to measure but --predict, which is 0.")
        self.data, self.predict, self.pipeline, self.dtype = data, predict, pipeline, dtype
        self.clip_name, self.features_name, self.cmmd_name = clip, features, cmmd_clip
        self.least = least
        self.device = device
        self.used: JsonObject = {}
        self.predicted: JsonObject = {}
        captions = {index: pair.caption for index, pair in enumerate(self.pairs)}
        stems = {index: pair.image.stem for index, pair in enumerate(self.pairs) if pair.image}
        super().__init__(captions, NamedAlike(captions, stems))

    @cached_property
    def clip(self) -> "Clip":
        """The CLIP score's model, loaded only if some image is new."""
        from .image_features import Clip

        with named_by("--clip", self.clip_name):
            return Clip(self.clip_name, self.device)

    def check_judge(self, ask: bool = False) -> None:
        """Looks for the networks, where sampling comes first."""
        if ask:
            from .image_features import inception_weights, is_inception

            wanted = {"--clip": self.clip_name} if self.clip_name != NONE else {}
            if {"fid", "kid"} & set(self.distances):
                if is_inception(self.features_name):
                    inception_weights(self.features_name)
                else:
                    wanted["--features"] = self.features_name
            if "cmmd" in self.distances:
                wanted["--cmmd-clip"] = self.cmmd_name
            for option, name in wanted.items():
                check_found(option, name)

    def identity(self, prompt: int, question: int = 0) -> Json:
        """The caption and the model."""
        return {"caption": self.prompts[prompt], "clip": self.clip_name}

    def judge_all(self, images: Mapping[str, ImageFile]) -> Iterator[tuple[str, Outcome]]:
        """CLIP scores, some images at a time; an image that does not open has none."""
        if self.clip_name != NONE:
            from .image_features import clip_scores

        listed = list(images.items())
        for start in range(0, len(listed), BATCH):
            opening = []
            for key, file in listed[start : start + BATCH]:
                try:
                    read_image(file.path)
                    opening.append((key, file))
                except UnreadableImageError as error:
                    yield key, Outcome(status=UNREADABLE, error=str(error))
            if self.clip_name == NONE:
                yield from ((key, Outcome()) for key, _ in opening)
            elif opening:
                paths, captions = zip(*((file.path, self.prompts[file.prompt]) for _, file in opening), strict=True)
                scores, about = clip_scores(self.clip, paths, captions), self.clip.describe()
                for (key, _), each in zip(opening, scores, strict=True):
                    yield key, Outcome({"clip_score": each, "about": about})

    def scores(self, found: Json) -> Scores:
        """The CLIP score."""
        return {"": found["clip_score"]} if "clip_score" in found else {}

    @cached_property
    def columns(self) -> dict[str, str]:
        """Titles of columns by the part of their values' keys."""
        columns = {} if self.clip_name == NONE else {"": CLIP_SCORE}
        if self.predict:
            from ..pipelines.saved import find_pipeline
            from .prediction import INFORMATION, LOSS

            columns[LOSS] = LOSS
            files = find_pipeline(self.pipeline or DEMO)
            if (files.training_data or {}).get("caption_dropout") != 0:  # else it has no unconditional branch
                columns[INFORMATION] = INFORMATION
        return columns

    def measures(self) -> list[Measure]:
        """A row a tag and one for all; a column a score."""
        from .prediction import LOSS

        return [
            Measure(tag, (tuple(value_key(index, part) for index in indices),), title, (), part == LOSS)
            for part, title in self.columns.items()
            for tag, indices in self.slices().items()
        ]

    def finish(self, lines: Sequence[Json], tally: Tally, out: Path) -> None:
        """Adds how well the pipeline predicts the records' pictures."""
        if not self.predict:
            return
        from ..pipelines.saved import find_pipeline
        from .prediction import INFORMATION, Predictions

        predictions = Predictions(
            find_pipeline(self.pipeline or DEMO),
            self.data,
            self.predict,
            out / "predictions.jsonl",
            INFORMATION in self.columns,
            self.dtype,
            self.device,
        )
        for index, found in predictions.measure():
            tally.scores |= {value_key(index, name): [value] for name, value in found.items()}
        unreadable = [name for names in predictions.tally.problems.values() for name in names]
        self.predicted = {
            "pictures": len(predictions.pictures),
            "unreadable": unreadable,
            "weights": predictions.weights,
        }

    def slices(self) -> dict[str, list[int]]:
        """Indices of records by tag; all of them last."""
        found: dict[str, list[int]] = {}
        for index, pair in enumerate(self.pairs):
            for tag in pair.tags:
                found.setdefault(tag, []).append(index)
        return {**found, OVERALL: list(range(len(self.pairs)))}

    def rows(self, judged: Sequence[Judged]) -> list[Row]:
        """The distances between the made images and the records' pictures, by tag."""
        if not self.distances:
            return []
        from . import image_features as features

        made = [entry.image for entry in judged if entry.outcome.status == OK]
        real, unreadable = self._references()
        self.used = {"references": len(real), "unreadable_references": unreadable}
        if not made or not real:
            return []
        networks: dict[str, Clip | FrozenNetwork] = {}
        if {"fid", "kid"} & set(self.distances):
            networks["fid"] = networks["kid"] = features.FrozenNetwork(self.features_name, self.device)
        if "cmmd" in self.distances:
            with named_by("--cmmd-clip", self.cmmd_name):
                networks["cmmd"] = features.Clip(self.cmmd_name, self.device)
        of_made, of_real = (
            {each: features.features_of(each, paths) for each in dict.fromkeys(networks.values())}
            for paths in ([image.path for image in made], list(real.values()))
        )
        rows = []
        for name in self.distances:
            network = networks[name]
            self.used[name] = network.describe()
            for tag, indices in self.slices().items():
                chosen = set(indices)
                mine = [row for row, image in enumerate(made) if image.prompt in chosen]
                theirs = [row for row, index in enumerate(real) if index in chosen]
                enough = min(len(mine), len(theirs)) >= self.least
                score = features.DISTANCES[name](of_real[network][theirs], of_made[network][mine]) if enough else None
                rows.append(Row(tag, name.upper(), score, None, None, len(theirs), len(mine)))
        return rows

    def _references(self) -> tuple[dict[int, Path], list[str]]:
        """The records' pictures that open, and the names of those that do not."""
        found, unreadable = {}, []
        for index, pair in enumerate(self.pairs):
            if pair.image is not None:
                try:
                    read_image(pair.image)
                    found[index] = pair.image
                except UnreadableImageError as error:
                    unreadable.append(str(error))
        return found, unreadable

    def settings(self, judged: Sequence[Judged]) -> Json:
        """The data, and the models by name, revision and their weights' digest."""
        said = [entry.outcome.found["about"] for entry in judged if "about" in entry.outcome.found]
        about = [each for number, each in enumerate(said) if each not in said[:number]]
        clip = (about[0] if len(about) == 1 else about) or self.clip_name
        predicted = {"predicted": self.predicted} if self.predicted else {}
        return {"data_sha256": self.sha256, "clip": clip, "least": self.least, **self.used, **predicted}


class NamedAlike(FlatFolder):
    """A flat folder whose images are named by number, or as the records' own pictures are.

    Args:
        captions: by index.
        stems: names of the records' pictures, without folder and suffix.
    """

    def __init__(self, captions: Mapping[int, str], stems: Mapping[int, str]) -> None:
        super().__init__({index: str(index) for index in captions})
        self.numbers = {stem: index for index, stem in stems.items()}

    def _listed(self, folder: Path) -> Iterator[tuple[Place | None, Path]]:
        for place, path in super()._listed(folder):
            yield Place(self.numbers[path.stem], 0) if path.stem in self.numbers else place, path


def choose_distances(text: str) -> tuple[str, ...]:
    """The distances named in a text.

    Raises:
        ValueError: one is unknown.
    """
    named = [name.strip().lower() for name in text.split(",") if name.strip()]
    if named in ([], ["none"]):
        return ()
    for name in named:
        if name not in DISTANCES:
            raise ValueError(f"Distance is {name!r}, but must be one of {', '.join(DISTANCES)}, or none.")
    return tuple(named)


def read_pairs(path: Path, tag_key: str = "tags") -> list[Pair]:
    """Reads the records of a JSON list or of JSON lines; paths of images start from the file's folder.

    Raises:
        ValueError: a record without a caption, or of tags that are no texts.
    """
    from ..data import FolderSource

    pairs = []
    images = FolderSource(source="json", path=path).images()
    for number, record in enumerate(map(images.record, range(images.length))):
        text = record.get("text")
        caption = text[0] if isinstance(text, list) and text else text
        if not isinstance(caption, str):
            seen = str(images.records[number])[:100]
            raise ValueError(f"Record {number} of {path} has no caption under 'text': {seen!r}.")
        tags = record.get(tag_key, [])
        tags = [tags] if isinstance(tags, str) else tags
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags) or OVERALL in tags:
            raise ValueError(
                f"Record {number} of {path} has the tags {tags!r}; texts other than {OVERALL!r} are wanted."
            )
        image = record.get("image")
        pairs.append(Pair(caption, path.parent / image if isinstance(image, str) else None, tuple(tags)))
    return pairs
