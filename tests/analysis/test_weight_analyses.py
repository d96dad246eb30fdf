import json
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pipelines import NUM_LAYERS, model_of, saved_pipeline

from semantic_routing.analysis import ANALYSES, Drift, SavedModel, Similarity, Trend
from semantic_routing.analysis.layer_weights import FINE_TIMES
from semantic_routing.analysis.weights import draw_weights, shown_blocks, weight_map
from semantic_routing.fusion import FUSIONS, PAPER_STRATEGIES, FusionSizes, Moment
from semantic_routing.pipelines.saved import find_pipeline, layer_numbers, load_fusion
from semantic_routing.reporting.arrays import NamedArray
from semantic_routing.reporting.figures import panels, save, style

TIME_AND_BLOCK = {"timestep": "flow_time", "block": "block"}


@pytest.mark.parametrize("strategy", PAPER_STRATEGIES)
def test_the_fusion_alone_gives_the_transformers_weights(language_models, strategy):
    model = model_of(language_models, strategy)
    fusion = model.pipeline.transformer.fusion
    timestep = torch.tensor(1000 * (1 - FINE_TIMES), dtype=torch.float32)
    with torch.no_grad():
        whole = fusion.layer_weights(None, Moment(timestep))[:, :, 0].transpose(0, 1).numpy()
    seen = model.weights.values
    if "block" not in model.weights.axes:
        seen = seen[..., None, :]
    np.testing.assert_allclose(*np.broadcast_arrays(seen, whole), atol=1e-6)
    assert model.weight_axes - {"layer"} == {TIME_AND_BLOCK[name] for name in fusion.varies_with}


def test_weights_by_token_are_means_over_real_tokens_then_over_prompts(language_models):
    model = model_of(language_models, "test-by-token")
    assert list(model.weights.axes) == ["layer"]
    transformer, moment = model.pipeline.transformer, Moment(torch.tensor([0.0]))
    rows = []
    for prompt in model.prompts:  # one at a time there is no padding
        prepared = transformer.prepare_text(*model.pipeline.prompt_encoder([prompt]))
        rows.append(transformer.fusion.layer_weights(prepared, moment)[0, 0].mean(0).detach().numpy())
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    np.testing.assert_allclose(model.weights.values, np.mean(rows, axis=0), atol=1e-5)


def test_weights_of_a_fusion_that_reads_the_image_are_recorded_while_sampling(language_models):
    model = model_of(language_models, "test-by-state")
    assert list(model.weights.axes) == ["flow_time", "block", "layer"]
    np.testing.assert_allclose(model.weights.values.sum(-1), 1, atol=1e-6)
    fusion, seen = model.pipeline.transformer.fusion, []
    hook = fusion.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    model.samples_of(model.pipeline, model.guidance)
    hook.remove()
    first = next(moment for moment in seen if moment.block == 1)
    with torch.no_grad():
        # Of the four rows of two guided images, the last two have the prompts.
        wanted = fusion.layer_weights(None, first)[0, 2:, 0].mean(0)
    assert len(first.state) == 4
    np.testing.assert_allclose(model.weights.at(flow_time=0.0, block=1), wanted, atol=1e-6)
    assert np.abs(np.diff(model.weights.values, axis=0)).max() > 1e-4


@pytest.mark.parametrize("strategy", ["test-mean", "test-signed"])
def test_what_is_no_distribution_is_not_taken_for_one(language_models, strategy):
    model = model_of(language_models, strategy)
    assert (model.weights is None) == (strategy == "test-mean")
    assert not model.weight_axes
    with pytest.raises(ValueError, match=f"not negative; this model has the fusion {strategy}"):
        _ = model.distributions


@pytest.mark.parametrize("strategy", ["joint", "depth-wise"])
@pytest.mark.parametrize("old", [False, True])
def test_no_tensor_of_the_backbone_is_needed(language_models, tmp_path, strategy, old):
    files = find_pipeline(str(saved_pipeline(language_models, strategy)))
    (tmp_path / "transformer").mkdir()
    for name in ("model_index.json", "transformer/config.json"):
        (tmp_path / name).write_text((files.folder / name).read_text())
    weights = load_file(next((files.folder / "transformer").glob("*.safetensors")))
    tensors = {name: tensor for name, tensor in weights.items() if name.startswith("fusion.")}
    if old:  # as version 0.1 named them
        tensors = {
            name.replace("fusion.", "router.strategy.").replace(".beta", ".logits"): tensor
            for name, tensor in tensors.items()
        }
    save_file(tensors, tmp_path / "transformer" / "part.safetensors")
    bare = find_pipeline(str(tmp_path))
    for name, tensor in load_fusion(bare).state_dict().items():
        assert tensor.equal(load_fusion(files).state_dict()[name])
    tensors.popitem()
    save_file(tensors, tmp_path / "transformer" / "part.safetensors")
    with pytest.raises(ValueError, match=r"lacks (gate|beta)"):
        load_fusion(bare)


def test_a_fusion_that_nobody_imported_is_named_with_its_source(language_models):
    files = find_pipeline(str(saved_pipeline(language_models, "static")))
    config = {**files.transformer, "strategy": "word-gate", "fusion_source": "word_gate.WordGate"}
    with pytest.raises(ValueError, match="'word-gate', which is not registered: import word_gate"):
        load_fusion(files._replace(transformer=config))


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


@pytest.mark.parametrize("strategy", [name for name in PAPER_STRATEGIES if name != "penultimate"])
def test_an_untrained_model_reads_all_layers_alike_everywhere(language_models, strategy):
    model = model_of(language_models, strategy, trained=False)
    np.testing.assert_allclose(model.weights.values, 1 / NUM_LAYERS, atol=1e-7)
    for analysis in (Similarity(), Trend(), Drift()):
        if not analysis.applies_to(model):
            continue
        for name, array in analysis.compute(model).items():
            wanted = {"center": 0.5, "dispersion": (NUM_LAYERS + 1) / (12 * (NUM_LAYERS - 1)), "drift": 0.0}
            value = wanted.get(name.split("_")[0], 1.0)
            np.testing.assert_allclose(array.values, value, atol=1e-6, err_msg=name)


def test_of_24_blocks_the_papers_three_are_drawn():
    weights = NamedArray(np.full((24, 2), 0.5), {"block": range(24), "layer": [1, 2]})
    assert shown_blocks(weights, False) == [0, 11, 23]
    assert len(shown_blocks(weights, True)) == 24


def test_the_color_scale_is_the_same_for_all_models_and_white_at_the_uniform_weight():
    colors = {}
    for layers in (6, 36):
        for factor in (0.0, 1 / 4, 1.0, 4.0, 5.0, -1.0):
            axes = panels(1, 1)[1][0]
            cells = weight_map(axes, np.full((1, layers), factor / layers))
            colors.setdefault(factor, []).append(tuple(cells.to_rgba(cells.get_array())[0, 0].round(3)))
    assert all(first == second for first, second in colors.values())
    assert min(colors[1.0][0]) > 0.95
    assert colors[4.0] == colors[5.0] != colors[1.0]
    assert colors[-1.0] not in (colors[0.0], colors[1 / 4])


def test_drift_is_that_of_the_mean_over_blocks_and_of_each_block(language_models):
    model = model_of(language_models, "joint")
    arrays = Drift().compute(model)
    weights = model.weights.values
    grid = np.diff(np.linspace(0, 1, NUM_LAYERS))
    cumulative = np.cumsum(weights, -1)[..., :-1]
    steps = (np.abs(np.diff(cumulative, axis=0)) * grid).sum(-1)
    np.testing.assert_allclose(arrays["drift_by_block"].values, steps, atol=1e-7)
    mean_steps = (np.abs(np.diff(cumulative.mean(1), axis=0)) * grid).sum(-1)
    np.testing.assert_allclose(arrays["drift"].values, mean_steps, atol=1e-7)
    assert len(arrays["drift"].values) == 20
    assert (arrays["drift"].values <= arrays["drift_by_block"].values.mean(1) + 1e-12).all()


@pytest.mark.parametrize("strategy", PAPER_STRATEGIES)
def test_draw_weights_writes_a_picture_and_every_number(language_models, tmp_path, strategy):
    picture, table = draw_weights(str(saved_pipeline(language_models, strategy)), tmp_path)
    assert (picture.name, table.name) == ("weights.png", "weights.csv")
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = [line.split(",") for line in table.read_text().splitlines()]
    assert rows[0][-2:] == ["layer", "weight"]
    places = {tuple(row[:-2]) for row in rows[1:]}
    assert sum(float(row[-1]) for row in rows[1:]) == pytest.approx(len(places), rel=1e-5)


def test_a_full_size_joint_model_takes_less_than_ten_seconds(tmp_path):
    fusion = FUSIONS["joint"](FusionSizes(36, 24))
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    (tmp_path / "transformer").mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps({"text_layers": "all"}))
    sizes = {"num_text_layers": 36, "num_blocks": 24, "text_channels": 2560, "hidden_size": 2048}
    config = {"strategy": "joint", "num_key_value_heads": 8, **sizes}
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    weights = {f"fusion.{name}": tensor for name, tensor in fusion.state_dict().items()}
    save_file(weights, tmp_path / "transformer" / "model.safetensors")
    started = time.process_time()
    model = SavedModel(find_pipeline(str(tmp_path)))
    for name in ("weights", "similarity", "trend", "drift"):
        with style():
            for figure in ANALYSES[name]().draw(model.result(name), model):
                save(figure, tmp_path)
    assert time.process_time() - started < 10
