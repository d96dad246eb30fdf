"""Cuts the photographs that scikit-image and scikit-learn carry into pictures of mixed shapes, with captions.

pip install scikit-image scikit-learn
python examples/photographs.py runs/photographs
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

SUBJECTS = {
    "skimage/data": {
        "astronaut.png": "an astronaut in an orange suit",
        "chelsea.png": "a tabby cat",
        "coffee.png": "a cup of coffee on a wooden table",
        "hubble_deep_field.jpg": "galaxies in a dark sky",
        "motorcycle_left.png": "a motorcycle in a workshop",
        "retina.jpg": "the retina of an eye",
        "rocket.jpg": "a rocket on its launch pad",
    },
    "sklearn/datasets/images": {"china.jpg": "a chinese temple", "flower.jpg": "a red flower"},
}
EACH = 24  # pictures of a photograph


def main(out: Path) -> None:
    """Writes `captions.jsonl` and JPEG files."""
    out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    lines = []
    for folder, subjects in SUBJECTS.items():
        package, _, inside = folder.partition("/")
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            sys.exit(f"The package {package} is not installed: pip install scikit-image scikit-learn")
        for file, subject in subjects.items():
            with Image.open(Path(spec.origin).parent / inside / file) as photograph:
                whole = photograph.convert("RGB")
            for number in range(EACH):
                ratio = np.exp(random.uniform(-0.9, 0.9))  # of width to height
                side = min(whole.width / ratio**0.5, whole.height * ratio**0.5) * random.uniform(0.4, 0.9)
                width, height = int(side * ratio**0.5), int(side / ratio**0.5)
                left, top = random.integers(whole.width - width + 1), random.integers(whole.height - height + 1)
                name = f"{Path(file).stem}-{number:02d}.jpg"
                whole.crop((left, top, left + width, top + height)).save(out / name, quality=92)
                lines.append(json.dumps({"image": name, "text": f"a part of a photograph of {subject}"}) + "\n")
    (out / "captions.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"Wrote {len(lines)} pictures to {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
