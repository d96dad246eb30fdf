import dataclasses

import numpy as np
import pytest
import torch
from tiny_pipelines import NUM_BLOCKS, QUICK, model_of, saved_pipeline

from semantic_routing.analysis.attention import attention_weights, record_attention
from semantic_routing.analysis.model import AnalysisOptions
from semantic_routing.analysis.overhead import BASELINE, Overhead, relative_costs
from semantic_routing.analysis.prompt import Prompt
from semantic_routing.analysis.samples import gaussian, identity, sample_trajectory, starting_noise
from semantic_routing.analysis.shift import NONE, Shift
from semantic_routing.analysis.trajectory import TrajectoryAnalysis, measured_map
from semantic_routing.analysis.usage import Usage, keep_numbers
from semantic_routing.fusion import FUSIONS, PAPER_STRATEGIES, Moment
from semantic_routing.fusion.timestep_map import TimestepMap
from semantic_routing.pipelines.loading import load_pipeline
from semantic_routing.reporting.arrays import NamedArray


def test_a_trajectory_goes_from_the_noise_to_the_pipelines_own_latents(language_models):
    pipeline = load_pipeline(str(saved_pipeline(language_models, "joint")))
    noise = starting_noise(pipeline, 3, seed=5)
    prompts = ["a red circle", "two blue squares", "a star"]
    trajectory = sample_trajectory(pipeline, prompts, noise, steps=4, guidance=2.0, batch_size=2)
    assert trajectory.states.shape == (5, 3, 3, 16, 16)
    assert trajectory.states[0].equal(noise)
    wanted = pipeline(prompts, num_inference_steps=4, guidance_scale=2.0, latents=noise, output_type="latent").images
    torch.testing.assert_close(trajectory.states[-1], wanted, rtol=1e-4, atol=1e-4)
    assert trajectory.flow_times[0] == 0
    assert trajectory.flow_times[-1] == 1
    assert (np.diff(trajectory.flow_times) > 0).all()


def test_noise_of_an_image_does_not_depend_on_the_others():
    assert gaussian(3, (1, 4, 4), 7)[1:].equal(gaussian(2, (1, 4, 4), 8))


def test_trajectory_measures_every_scale_and_ends_at_1(language_models):
    model = model_of(language_models, "time-wise")
    arrays = TrajectoryAnalysis().compute(model)
    assert arrays["mse"].axes["guidance"] == [1.0, 2.0, 4.0]
    assert list(arrays["mse"].axes) == ["guidance", "process", "flow_time"]
    assert arrays["mse"].values[..., -1] == pytest.approx(0)
    forward = arrays["mse"].at(process="forward")
    along = 1 - arrays["mse"].numbers("flow_time")
    np.testing.assert_allclose(forward, forward[:, :1] * along**2, rtol=1e-5, atol=1e-9)
    assert (forward[:, 0] > 1).all()
    assert arrays["effective_time"].values[..., -1] == pytest.approx(1)
    assert not np.isnan(arrays["error"].values).any()


def test_the_measured_map_shows_the_gate_the_effective_time_and_never_turns_back(language_models):
    model = model_of(language_models, "time-wise")
    times = TrajectoryAnalysis().compute(model)["effective_time"]
    gate = measured_map(times, 2.0, "paired")
    grid = 1 - torch.linspace(1000, 0, 500).double().numpy() / 1000
    seen = 1 - gate(torch.linspace(1000, 0, 500)).double().numpy() / 1000
    assert (np.diff(seen) >= -1e-6).all()
    measured = np.interp(0.5, times.numbers("flow_time"), times.at(guidance=2.0, method="paired"))
    assert np.interp(0.5, grid, seen) == pytest.approx(measured, abs=0.01)


def test_a_shift_by_nothing_changes_nothing_and_a_real_one_does(language_models):
    options = dataclasses.replace(QUICK, amplitude=0.0)
    arrays = Shift().compute(model_of(language_models, "time-wise", options=options))
    names = arrays["difference"].axes["map"]
    assert names[0] == NONE
    assert arrays["difference"].at(map=names[1]) == pytest.approx(0, abs=1e-6)
    assert arrays["difference"].values[2:].max() > 1e-6
    np.testing.assert_allclose(arrays["gate_time"].at(map=NONE), arrays["gate_time"].numbers("flow_time"))


def test_a_map_that_was_saved_is_used_and_a_call_can_say_otherwise(language_models, tmp_path):
    pipeline = load_pipeline(str(saved_pipeline(language_models, "time-wise")))
    gate_time = TimestepMap([(1000.0, 900.0), (500.0, 300.0), (0.0, 0.0)])
    pipeline.register_to_config(timestep_map=[list(point) for point in gate_time.points])
    pipeline.save_pretrained(tmp_path)
    again = load_pipeline(str(tmp_path))
    noise = starting_noise(pipeline, 1, 0)

    def sample(from_pipeline, **options):
        made = from_pipeline(
            "a star", num_inference_steps=3, guidance_scale=1.0, latents=noise, output_type="latent", **options
        )
        return made.images

    assert sample(again).equal(sample(pipeline, timestep_map=gate_time))
    assert sample(again, timestep_map=identity).equal(sample(pipeline))
    assert not sample(again).equal(sample(pipeline))
    assert TimestepMap(again.config.timestep_map) == gate_time


def test_usage_loses_nothing_with_all_layers_and_more_with_fewer(language_models):
    arrays = Usage().compute(model_of(language_models, "joint"))
    lost = arrays["lost_weight"].at(statistic="largest")
    assert (np.diff(lost) < 0).all()
    assert lost[-1] == pytest.approx(0)
    change = arrays["context_change"]
    assert change.at(keep=4, statistic="largest") == pytest.approx(0, abs=1e-5)
    assert (change.at(statistic="largest")[:-1] > 0.01).all()
    assert arrays["layers_run"].values[-1] == 4


def test_the_numbers_of_layers_that_are_tried_end_with_all():
    assert keep_numbers(6) == [1, 2, 3, 4, 5, 6]
    assert keep_numbers(36) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 36]


def test_overhead_compares_all_strategies_on_one_backbone(language_models, monkeypatch):
    known = {name: FUSIONS[name] for name in (*PAPER_STRATEGIES, "test-wide", "test-by-state")}
    monkeypatch.setattr("semantic_routing.analysis.overhead.FUSIONS", known)
    arrays = Overhead().compute(model_of(language_models, "static"))
    assert arrays["parameters"].axes["strategy"] == list(known)
    relative = relative_costs(arrays)
    assert relative.at(strategy=BASELINE).tolist() == [1, 1, 1]
    parameters = {name: arrays["parameters"].at(strategy=name) for name in known}
    assert parameters["static"] - parameters["uniform"] == 4
    assert parameters["depth-wise"] - parameters["uniform"] == 4 * NUM_BLOCKS
    assert parameters["joint"] - parameters["uniform"] == NUM_BLOCKS * (parameters["time-wise"] - parameters["uniform"])
    flops = {name: arrays["flops"].at(strategy=name) for name in known}
    assert flops["penultimate"] < flops["depth-wise"] < flops["joint"]


def test_overhead_says_how_much_latencies_of_the_rounds_differ(language_models):
    model = model_of(language_models, "static")
    by_strategy = {"strategy": [BASELINE, "static"]}
    seconds = np.array([[1.0, 1.1], [2.0, 1.9], [4.0, 4.8]])
    arrays = {
        "parameters": NamedArray(np.ones(2), by_strategy),
        "flops": NamedArray(np.ones(2), by_strategy),
        "latency": NamedArray(seconds, {"round": range(3), **by_strategy}),
    }
    rows = Overhead().tables(arrays, model)[0].rows
    assert rows[0][-1] == "+0.0 % [+0.0, +0.0]"
    assert rows[1][-1] == "+10 % [−5, +20]"
    axes = Overhead().draw(arrays, model)[0].canvas.axes[1]
    assert [text.get_text() for text in axes.texts][-2:] == ["+0.0", "+10"]
    low, high = axes.containers[-1].errorbar.lines[2][0].get_segments()[1][:, 1]
    assert (low, high) == pytest.approx((-5, 20))


def test_recorded_attention_is_what_the_block_uses(language_models):
    transformer = load_pipeline(str(saved_pipeline(language_models, "joint"))).transformer
    hidden_states = torch.randn(2, 4, 7, 32)
    mask = torch.tensor([[True] * 7, [True] * 3 + [False] * 4])
    with torch.no_grad(), record_attention(transformer) as seen:
        transformer(torch.randn(2, 3, 16, 16), torch.tensor([500.0, 500.0]), hidden_states, mask)
    assert len(seen) == NUM_BLOCKS
    for weights in seen:
        torch.testing.assert_close(weights.sum(1), torch.ones(2))
        assert weights[1, 3:].abs().max() == 0


def test_attention_weights_give_the_attentions_output(language_models):
    transformer = load_pipeline(str(saved_pipeline(language_models, "joint"))).transformer
    module = transformer.blocks[0].cross_attention
    prepared = transformer.prepare_text(torch.randn(1, 4, 5, 32))
    context = transformer.text_context(prepared, torch.tensor([300.0]), cache=True)
    text = context.blocks[0]
    x = torch.randn(1, 1, 32)
    with torch.no_grad():
        weights = attention_weights(module, x, text, context.tokens)
        # With equal values for all heads, the mean over heads is all that matters.
        value = torch.randn(1, 5, 1, 1).expand(1, 5, 2, 8)
        mixed = module.processor(module.query(x), text.key, value, None).mean(2)[0, 0, 0]
    assert (weights[0] @ value[0, :, 0, 0]).item() == pytest.approx(mixed.item(), abs=1e-5)


def test_prompt_has_a_distribution_over_tokens_for_each_block_and_time(language_models):
    arrays = Prompt().compute(model_of(language_models, "depth-wise"))
    attention = arrays["attention"]
    assert list(attention.axes) == ["flow_time", "block", "token"]
    assert attention.axes["token"] == ["0: a", "1: red", "2: circle"]
    np.testing.assert_allclose(attention.values.sum(-1), 1, atol=1e-5)


def test_scenes_are_judged(language_models):
    options = AnalysisOptions(num_prompts=3, steps=2, guidance_scales=(1.0,))
    model = model_of(language_models, "static", options=options)
    correct = model.correct(model.samples(1.0))
    assert correct.shape == (3,)
    assert len({prompt.skill for prompt in model.scene_prompts}) == 3


@pytest.mark.parametrize("wrong", [{"prompts": ()}, {"steps": 1}, {"num_prompts": 0}])
def test_options_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=r"no prompt|at least"):
        AnalysisOptions(**wrong)


@pytest.mark.parametrize(("steps", "guidance", "wanted"), [(None, None, (50, 6.0)), (7, 3.0, (7, 3.0))])
def test_steps_and_guidance_are_the_pipelines_unless_said_otherwise(language_models, steps, guidance, wanted):
    options = dataclasses.replace(QUICK, steps=steps, guidance=guidance)
    model = model_of(language_models, "static", options=options)
    assert (model.steps, model.guidance) == wanted
    assert model.guidance_scales == sorted({1.0, 2.0, wanted[1]})


def test_prompt_shows_attention_without_special_tokens_too(language_models):
    options = dataclasses.replace(QUICK, prompts=("a red <end> circle",))
    model = model_of(language_models, "depth-wise", options=options)
    arrays = Prompt().compute(model)
    assert arrays["attention"].axes["token"] == ["0: a", "1: red", "2: <end>", "3: circle"]
    words = arrays["attention_of_words"]
    assert words.axes["token"] == ["0: a", "1: red", "3: circle"]
    np.testing.assert_allclose(words.values.sum(-1), 1)
    share = arrays["attention"].values[..., [0, 1, 3]]
    np.testing.assert_allclose(words.values, share / share.sum(-1, keepdims=True))
    assert len(Prompt().draw(arrays, model)[0].canvas.axes) == 6  # three maps, each with its bar


@pytest.mark.parametrize(
    ("strategy", "axes"),
    [
        ("test-by-token", {"weights": ["block", "layer"], "weights_by_token": ["token", "layer"]}),
        ("test-by-state", {"weights": ["block", "layer"]}),
        ("test-mean", {}),
    ],
)
def test_prompt_shows_what_layers_are_read_for_it(language_models, strategy, axes):
    model = model_of(language_models, strategy)
    arrays = Prompt().compute(model)
    assert {name: list(array.axes) for name, array in arrays.items() if name.startswith("weights")} == axes
    for name in axes:
        np.testing.assert_allclose(arrays[name].values.sum(-1), 1, atol=1e-5)
    if strategy == "test-by-token":
        pipeline = model.pipeline
        prepared = pipeline.transformer.prepare_text(*pipeline.prompt_encoder(model.prompts[:1]))
        with torch.no_grad():
            wanted = pipeline.transformer.fusion.layer_weights(prepared, Moment(torch.tensor([0.0])))[0, 0]
        np.testing.assert_allclose(arrays["weights_by_token"].values, wanted, atol=1e-5)
    figures = [figure.name for figure in Prompt().draw(arrays, model)]
    assert figures == ["prompt", *(["layers-by-token"] if "weights_by_token" in axes else [])]
