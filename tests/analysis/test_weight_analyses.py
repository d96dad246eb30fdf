import json
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pipelines import NUM_LAYERS, saved_pipeline, subject_of

from semantic_routing.analysis.base import FINE_TIMES, Subject
from semantic_routing.analysis.drift import Drift
from semantic_routing.analysis.similarity import Similarity
from semantic_routing.analysis.trend import Trend
from semantic_routing.analysis.weights import Weights, draw_weights
from semantic_routing.fusion import STRATEGIES, SemanticRouter
from semantic_routing.pipelines.saved import find_pipeline, layer_numbers, load_router
from semantic_routing.reporting.figures import save, style


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_router_alone_gives_the_transformers_weights(language_models, strategy):
    folder = saved_pipeline(language_models, strategy)
    subject = Subject(find_pipeline(str(folder)))
    weights = subject.weights(FINE_TIMES)
    timestep = torch.tensor(1000 * (1 - FINE_TIMES), dtype=torch.float32)
    whole = subject.pipeline.transformer.router.weights(timestep).transpose(0, 1).detach().numpy()
    seen = weights.values
    if "block" not in weights.axes:
        seen = seen[..., None, :]
    np.testing.assert_allclose(np.broadcast_to(seen, whole.shape), whole, atol=1e-6)
    assert ("flow_time" in weights.axes, "block" in weights.axes) == (
        STRATEGIES[strategy].depends_on_time,
        STRATEGIES[strategy].depends_on_depth,
    )


def test_no_tensor_of_the_backbone_is_needed(language_models, tmp_path):
    files = find_pipeline(str(saved_pipeline(language_models, "joint")))
    (tmp_path / "transformer").mkdir()
    for name in ("model_index.json", "transformer/config.json"):
        (tmp_path / name).write_text((files.folder / name).read_text())
    weights = load_file(next((files.folder / "transformer").glob("*.safetensors")))
    routers = {name: tensor for name, tensor in weights.items() if name.startswith("router.")}
    save_file(routers, tmp_path / "transformer" / "part.safetensors")
    bare = find_pipeline(str(tmp_path))
    for name, tensor in load_router(bare).state_dict().items():
        assert tensor.equal(load_router(files).state_dict()[name])
    routers.popitem()
    save_file(routers, tmp_path / "transformer" / "part.safetensors")
    with pytest.raises(ValueError, match=r"lack router\.strategy\.gate"):
        load_router(bare)


def test_what_is_no_pipeline(tmp_path):
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        find_pipeline(str(tmp_path))
    with pytest.raises((ValueError, OSError)):
        find_pipeline(str(tmp_path / "nothing here"))


@pytest.mark.parametrize(
    ("layers", "numbers"), [("all", [1, 2, 3, 4]), ([4, 2], [2, 4]), (2, [3, 4]), ([-1, 0], [0, 4])]
)
def test_layers_have_the_numbers_of_the_text_encoder(language_models, layers, numbers):
    files = find_pipeline(str(saved_pipeline(language_models, "joint")))
    transformer = {**files.transformer, "num_text_layers": len(numbers)}
    changed = files._replace(model_index={**files.model_index, "text_layers": layers}, transformer=transformer)
    assert layer_numbers(changed) == numbers


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "penultimate"])
def test_an_untrained_model_reads_all_layers_alike_everywhere(language_models, strategy):
    subject = subject_of(language_models, strategy, trained=False)
    weights = Weights().compute(subject)["weights"]
    np.testing.assert_allclose(weights.values, 1 / NUM_LAYERS, atol=1e-7)
    for analysis in (Similarity(), Trend(), Drift()):
        if not analysis.applies_to(strategy):
            continue
        for name, array in analysis.compute(subject).items():
            wanted = {"center": 0.5, "dispersion": (NUM_LAYERS + 1) / (12 * (NUM_LAYERS - 1)), "drift": 0.0}
            value = wanted.get(name.split("_")[0], 1.0)
            np.testing.assert_allclose(array.values, value, atol=1e-6, err_msg=name)


def test_drift_is_that_of_the_mean_over_blocks_and_of_each_block(language_models):
    subject = subject_of(language_models, "joint")
    arrays = Drift().compute(subject)
    weights = subject.weights(FINE_TIMES).values
    grid = np.diff(np.linspace(0, 1, NUM_LAYERS))
    cumulative = np.cumsum(weights, -1)[..., :-1]
    steps = (np.abs(np.diff(cumulative, axis=0)) * grid).sum(-1)
    np.testing.assert_allclose(arrays["drift_by_block"].values, steps, atol=1e-9)
    mean_steps = (np.abs(np.diff(cumulative.mean(1), axis=0)) * grid).sum(-1)
    np.testing.assert_allclose(arrays["drift"].values, mean_steps, atol=1e-9)
    assert len(arrays["drift"].values) == 20
    assert (arrays["drift"].values <= arrays["drift_by_block"].values.mean(1) + 1e-12).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_draw_weights_writes_a_picture_and_every_number(language_models, tmp_path, strategy):
    picture, table = draw_weights(str(saved_pipeline(language_models, strategy)), tmp_path)
    assert (picture.name, table.name) == ("weights.png", "weights.csv")
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = [line.split(",") for line in table.read_text().splitlines()]
    assert rows[0][-2:] == ["layer", "weight"]
    places = {tuple(row[:-2]) for row in rows[1:]}
    assert sum(float(row[-1]) for row in rows[1:]) == pytest.approx(len(places), rel=1e-5)


def test_a_full_size_joint_model_takes_less_than_ten_seconds(tmp_path):
    router = SemanticRouter("joint", 36, 24)
    for parameter in router.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    (tmp_path / "transformer").mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps({"text_layers": "all"}))
    config = {"strategy": "joint", "num_text_layers": 36, "num_blocks": 24}
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    weights = {f"router.{name}": tensor for name, tensor in router.state_dict().items()}
    save_file(weights, tmp_path / "transformer" / "model.safetensors")
    started = time.process_time()
    subject = Subject(find_pipeline(str(tmp_path)))
    for analysis in (Weights(), Similarity(), Trend(), Drift()):
        with style():
            for drawing in analysis.draw(subject.result(analysis), subject):
                save(drawing, tmp_path)
    assert time.process_time() - started < 10
