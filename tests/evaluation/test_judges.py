"""Judges: what their answers mean, and that no failure of theirs becomes a score."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from chat_endpoint import question_of, text_reply, yes_no_reply
from PIL import Image

from semantic_routing.evaluation import DrawBench, GenAIBench, drawbench
from semantic_routing.evaluation.benchmark import ImageFile
from semantic_routing.evaluation.judges import JUDGES, Answer, Form, Judge, JudgeOptions, Question, yes_scores
from semantic_routing.evaluation.judges.endpoint import EndpointJudge, read_reply
from semantic_routing.evaluation.judges.local import LocalJudge
from semantic_routing.evaluation.questions import AnswerError
from semantic_routing.evaluation.runner import score
from semantic_routing.io.chat import ChatClient, EndpointError, Reply
from semantic_routing.io.files import sha256
from semantic_routing.io.jsonl import read_lines, work_key

# Alternatives, and the scores that the protocol works out for them: sum of yes, its share, 2025-11, exact.
WORKED = [
    ({"Yes": 0.90, "No": 0.08}, (0.90, 0.9184, 0.90, 0.90)),
    ({"No": 0.70, "Yes": 0.25}, (0.25, 0.2632, 0.30, 0.25)),
    ({"Yes": 0.60, "yes": 0.20, "No": 0.15}, (0.80, 0.8421, 0.60, 0.60)),
    ({"No": 0.55, "Yes": 0.30, "no": 0.05, " yes": 0.04}, (0.34, 0.3617, 0.45, 0.30)),
    ({"no": 0.97, "No": 0.02}, (0, 0, 0.03, 0)),
    ({"The": 0.80, "Yes": 0.15, "No": 0.03}, (0.15, 0.8333, 0.15, 0.15)),
    ({"YES": 0.50, "NO": 0.45}, (0.50, 0.5263, 0.50, 0)),
]


@pytest.mark.parametrize(("alternatives", "expected"), WORKED)
def test_scores_of_the_first_token(alternatives, expected):
    scores = yes_scores([(token, math.log(p)) for token, p in alternatives.items()])
    assert list(scores.values()) == pytest.approx(expected, abs=5e-5)


def test_no_yes_and_no_no_is_no_score():
    assert yes_scores([("The", -0.1), ("It", -2.4)]) is None
    assert yes_scores([]) is None


def test_impossible_probabilities_are_no_score():
    with pytest.raises(ValueError, match="more than 1"):
        yes_scores([("Yes", 0.5), ("No", -1.0)])
    for impossible in (math.nan, math.inf, 1e9):
        with pytest.raises(ValueError, match="more than 1"):
            yes_scores([("Yes", impossible)])


def test_a_little_more_than_one_is_rounding():
    assert yes_scores([("Yes", math.log(0.6)), ("No", math.log(0.409))])["yes_prob"] == pytest.approx(0.6)
    with pytest.raises(ValueError, match=r"add up to 1\.0200"):
        yes_scores([("Yes", math.log(0.6)), ("No", math.log(0.42))])


EXAMPLE = """Alignment Score (1-5): 2.694700002670288
Coherence Score (1-5): 2.371500015258789
Style Score (1-5): 2.802500009536743"""
STARS = "**Alignment Score (1-5):** 4\n**Coherence Score (1-5):** 3.5\n**Style Score (1-5):** 3"
ECHO = "Alignment Score (1-5): X\nCoherence Score (1-5): Y\nStyle Score (1-5): Z\n" + EXAMPLE


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        (EXAMPLE, (2.6947, 2.3715, 2.8025)),
        (STARS, (4, 3.5, 3)),
        ("Alignment Score: 4\nCoherence Score: 3\nStyle Score: 5", (4, 3, 5)),
        ("- alignment score : 4\n* Coherence Score (1-5) : 3\n  Style Score: 5", (4, 3, 5)),
        (ECHO, (2.6947, 2.3715, 2.8025)),
        (STARS.replace("(1-5):** 3\n", "(1-5):** 3\n") + "/5", (4, 3.5, 3)),
        ("Style Score: 2\n" + STARS, (4, 3.5, 3)),
    ],
)
def test_three_scores_are_read(reply, scores):
    assert list(drawbench.parse_scores(reply).values()) == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        EXAMPLE.rsplit("\n", 1)[0],
        STARS.replace(":** 3\n", ":** 3\n").replace("Style Score (1-5):** 3", "Style Score (1-5):** 7"),
        STARS.replace("3.5", "-3.5"),
        "Alignment Score: 4 Coherence Score: 3 Style Score: 5",
        "I cannot judge this image.",
    ],
)
def test_a_reply_without_three_scores_is_none(reply):
    with pytest.raises(AnswerError):
        drawbench.parse_scores(reply)


def test_the_template_is_unifiedrewards():
    assert sha256(drawbench.TEMPLATE) == "1c8688821810d9cf71bd841ca47af57e35aa8123efcfb0d6effb4385a1caf3d7"


@pytest.fixture
def genai(tmp_path):
    """Twelve prompts in both id styles, skills, and an image each."""
    entries = {f"{n:05d}": {"id": str(n) if n % 2 else f"{n:05d}", "prompt": f"{{thing}} {n}"} for n in range(12)}
    (tmp_path / "genai_image.json").write_text(json.dumps(entries))
    skills = {"counting": [0, 1, 2], "negation": [2, 3], "attribute": [4, 5, 6], "basic": [4, 5, 6, 7]}
    skills["advanced"] = [0, 1, 2, 3]
    (tmp_path / "genai_skills.json").write_text(json.dumps(skills))
    images = tmp_path / "images"
    images.mkdir()
    for n in range(12):
        Image.new("RGB", (8, 8), (20 * n, 0, 0)).save(images / (f"{n}_sample_0.png" if n % 2 else f"{n:05d}.jpeg"))
    files = str(tmp_path / "genai_image.json"), str(tmp_path / "genai_skills.json")
    return lambda judge, **options: GenAIBench(*files, judge, **options)


def endpoint(server, **options):
    chosen = {"judge_model": ["judge"], "judge_url": [server.url], "judge_check": False, "workers": 4}
    return JudgeOptions(**{**chosen, **options})


def number_in(request):
    return int(question_of(request).split('"')[1].split()[1])


def test_genai_bench_by_skill(genai, chat_server, tmp_path):
    chat_server.reply = lambda request: yes_no_reply({"Yes": (number_in(request) + 1) / 20, "No": 0.1})
    result = score(genai(endpoint(chat_server)), tmp_path)
    scores = {row.name: row.score for row in result.rows}
    assert scores["counting"] == pytest.approx(2 / 20)
    assert scores["basic"] == pytest.approx(6.5 / 20)
    # Over the union of the lists, each prompt once: 0 to 7.
    assert scores["overall"] == pytest.approx(4.5 / 20)
    assert result.complete
    request = chat_server.requests[0]
    assert question_of(request).startswith('Does this figure show "{thing} ')
    assert request["temperature"] == 0
    assert (request["max_tokens"], request["logprobs"], request["top_logprobs"]) == (1, True, 20)
    assert [part["type"] for part in request["messages"][0]["content"]] == ["image_url", "text"]


def test_failures_are_named_and_never_zero(genai, chat_server, tmp_path):
    def reply(request):
        number = number_in(request)
        if number == 0:
            return yes_no_reply({"The": 0.9, "It": 0.05})
        if number == 1:
            return text_reply("Yes")
        return yes_no_reply({"Yes": 0.8, "No": 0.1})

    chat_server.reply = reply
    (tmp_path / "images" / "00002.jpeg").write_bytes(b"no image")
    (tmp_path / "images" / "3_sample_0.png").unlink()
    (tmp_path / "images" / "cat.png").write_bytes(b"")
    result = score(genai(endpoint(chat_server)), tmp_path, partial=True)
    assert {kind: len(names) for kind, names in result.problems.items()} == {
        "missing images": 1,
        "failed judgments": 1,
        "unreadable images": 1,
        "unresolved judgments": 1,
        "left aside": 1,
    }
    assert result.remark.startswith("INCOMPLETE: 8 of 12")
    assert [row.score for row in result.rows if row.score is not None] == pytest.approx([0.8] * 3)
    assert {row.name: row.score for row in result.rows}["counting"] is None
    asked = len(chat_server.requests)
    chat_server.reply = lambda request: yes_no_reply({"Yes": 0.8, "No": 0.1})
    again = score(genai(endpoint(chat_server)), tmp_path)
    # Only the failed one is asked again: an unresolved answer is an answer.
    assert len(chat_server.requests) == asked + 1
    assert again.remark.startswith("INCOMPLETE: 9 of 12")


def test_an_endpoint_that_is_down_is_not_asked_about_everything(genai, chat_server, tmp_path):
    chat_server.server.shutdown()
    chat_server.server.server_close()
    judge = endpoint(chat_server, retries=1, timeout=1.0, workers=2)
    result = score(genai(judge), tmp_path)
    assert not result.complete
    assert len(result.problems["failed judgments"]) == 12
    assert "not asked" in result.problems["failed judgments"][-1]
    assert {row.score for row in result.rows} == {None}


class Forgetful(Judge):
    """Answers each question when it is asked as often as `patience` says, and has an error before."""

    def __init__(self, patience):
        self.patience, self.asked = patience, []

    @property
    def identity(self):
        return {"judge": "forgetful"}

    def ask(self, questions, form):
        for question in questions:
            self.asked.append(question.key)
            ready = self.asked.count(question.key) >= self.patience[question.key]
            yield Answer(question.key, first_token=[("Yes", -0.1)], error=None if ready else "not now")


@pytest.mark.parametrize(
    ("patience", "times"),
    [
        ([1, 1], [1, 1]),
        ([1, 2], [1, 2]),
        ([1, 2, 3], [1, 2, 3]),
        ([1, 9], [1, 2]),  # a round in which nobody answers is the last
        ([1, 2, 3, 4], [1, 2, 3, 3]),  # and there are three at most
        ([2, 2], [1, 1]),
    ],
)
def test_who_did_not_answer_is_asked_again(genai, tmp_path, patience, times):
    keys = [str(number) for number in range(len(patience))]
    judge = Forgetful(dict(zip(keys, patience, strict=True)))
    benchmark = genai(JudgeOptions(judge_check=False))
    benchmark.__dict__["judge"] = judge
    image = next((tmp_path / "images").glob("*.jpeg"))
    list(benchmark.judge_all({key: ImageFile(int(key), 0, key, image) for key in keys}))
    assert [judge.asked.count(key) for key in keys] == times


def test_only_failures_in_a_row_say_that_an_endpoint_is_down():
    class Client(ChatClient):
        def map(self, requests):
            for number, request in enumerate(requests):
                body = None if number % 4 else {"choices": [{"message": {"content": "yes"}}]}
                yield Reply(request.key, body, None if body else EndpointError("broken"))

    questions = [Question(str(n), Image.new("RGB", (8, 8)), "?") for n in range(40)]
    answers = list(EndpointJudge(Client("http://nowhere/v1", "judge", workers=2)).ask(questions, Form(5)))
    assert [answer.text for answer in answers].count("yes") == 10
    assert not any("not asked" in (answer.error or "") for answer in answers)


def test_another_question_or_judge_is_asked_anew(genai, chat_server, tmp_path):
    for question in ("Is this {}?", "Is it {}?", "Is it {}?"):
        score(genai(endpoint(chat_server), question=question), tmp_path)
    assert len(chat_server.requests) == 24


@pytest.mark.parametrize(
    ("prompts", "skills", "says"),
    [
        ("[]", None, "not an object"),
        ("{", None, "not JSON"),
        ('{"x": {"prompt": "a"}}', None, "'x' is not a number"),
        ('{"1": {"caption": "a"}}', None, "'1' has no prompt"),
        ('{"1": {"prompt": "a"}}', '{"basic": [1, 2]}', "prompt 2"),
    ],
)
def test_wrong_genai_files_are_named(tmp_path, prompts, skills, says):
    (tmp_path / "p.json").write_text(prompts)
    if skills:
        (tmp_path / "s.json").write_text(skills)
    with pytest.raises(ValueError, match=says):
        GenAIBench(str(tmp_path / "p.json"), str(tmp_path / "s.json") if skills else None)


def test_drawbench_reports_three_dimensions_by_category(chat_server, tmp_path):
    (tmp_path / "prompts.csv").write_text(
        "Prompts,Category\n".replace("Prompts", "prompt") + "a {x} cat,Colors\na dog,Text\n"
    )
    (tmp_path / "images").mkdir()
    for index in range(2):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "images" / f"{index}_sample_0.png")
    replies = iter(["Style: good", STARS, EXAMPLE])
    chat_server.reply = lambda request: text_reply(next(replies))
    result = score(DrawBench(str(tmp_path / "prompts.csv"), endpoint(chat_server, workers=1)), tmp_path)
    scores = {(row.name, row.part): row.score for row in result.rows}
    assert scores["overall", "style"] == pytest.approx((3 + 2.8025) / 2, abs=1e-4)
    assert scores["Text", "alignment"] == pytest.approx(4)
    assert scores["Colors", "mean"] == pytest.approx((2.6947 + 2.3715 + 2.8025) / 3, abs=1e-4)
    assert result.complete
    assert [request["temperature"] for request in chat_server.requests] == [0, 0, 0.3]
    assert question_of(chat_server.requests[0]).endswith("Text Caption: [a {x} cat]")
    assert chat_server.requests[0]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/jpeg")


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".tsv"])
def test_drawbench_lists_of_every_form(tmp_path, suffix):
    entries = [{"caption": "a cat", "category": "Colors"}, {"caption": "a dog", "category": "Text"}]
    forms = {
        ".json": json.dumps({"7": entries[0], "9": entries[1]}),
        ".jsonl": "\n".join(map(json.dumps, entries)),
        ".tsv": "caption\tcategory\na cat\tColors\na dog\tText\n",
    }
    path = tmp_path / f"list{suffix}"
    path.write_text(forms[suffix])
    assert drawbench.read_prompts(path) == [("a cat", "Colors"), ("a dog", "Text")]


def test_a_drawbench_entry_without_a_prompt_is_named(tmp_path):
    (tmp_path / "list.json").write_text('["a cat", {"category": "Text"}]')
    with pytest.raises(ValueError, match="entry 1 has no prompt"):
        drawbench.read_prompts(tmp_path / "list.json")


MANY = 400

JUDGE_MANY = """
import sys
from pathlib import Path
import openai._base_client
from semantic_routing.evaluation import GenAIBench
from semantic_routing.evaluation.judges import JudgeOptions
from semantic_routing.evaluation.runner import score
openai._base_client.INITIAL_RETRY_DELAY = 0.01
out = Path(sys.argv[1])
judge = JudgeOptions(
    judge_model=["judge"], judge_url=[sys.argv[2]], judge_check=False, workers=20, timeout=5.0
)
print(score(GenAIBench(str(out / "prompts.json"), judge=judge), out).remark)
"""


def test_hundreds_of_requests_to_a_bad_server_and_a_kill(chat_server, tmp_path):
    chat_server.failing, chat_server.delay = 0.1, 0.02
    (tmp_path / "images").mkdir()
    (tmp_path / "prompts.json").write_text(json.dumps({str(n): {"prompt": f"thing {n}"} for n in range(MANY)}))
    for n in range(MANY):
        Image.new("RGB", (4, 4), (n % 256, n // 256, 0)).save(tmp_path / "images" / f"{n}.png")
    (tmp_path / "judge.py").write_text(JUDGE_MANY)
    command = [sys.executable, str(tmp_path / "judge.py"), str(tmp_path), chat_server.url]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while sum(chat_server.answered.values()) < MANY // 3:
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = len(read_lines(tmp_path / "answers.jsonl"))
    assert 0 < kept < MANY
    time.sleep(0.2)
    chat_server.answered.clear()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == f"{MANY} of {MANY} images scored"
    assert len(chat_server.answered) == MANY - kept, "what was answered before the kill was asked again"
    entries = [entry for entry in read_lines(tmp_path / "answers.jsonl") if entry["status"] == "ok"]
    assert len({entry["key"] for entry in entries}) == len(entries) == MANY


@pytest.fixture(scope="module")
def tiny_vlm(tmp_path_factory):
    """A random LLaVA whose words include yes and no."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = ["<unk>", "<pad>", "<end>", "<image>", "Yes", "yes", "No", "NO", "cat", "a", "this", "Is"]
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="<end>", extra_special_tokens={}
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    )
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**tower, image_size=16, patch_size=8),
        text_config=LlamaConfig(**tower, vocab_size=len(words)),
        image_token_index=3,
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vlm")
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        chat_template=template,
        image_token="<image>",
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


def test_a_local_judge_gives_the_probabilities_of_its_forward_pass(tiny_vlm):
    judge = LocalJudge(str(tiny_vlm), "cpu", "float32")
    image = Image.new("RGB", (16, 16), "red")
    answer = next(iter(judge.ask([Question("k", image, "Is this a cat")], Form(1, first_token=True))))
    assert math.fsum(math.exp(value) for _, value in answer.first_token) == pytest.approx(1, abs=1e-5)
    inputs = judge.processor(images=[image], text=["<image> Is this a cat "], return_tensors="pt")
    with torch.no_grad():
        probabilities = judge.model(**inputs).logits[0, -1].softmax(-1)
    assert yes_scores(answer.first_token)["yes_prob"] == pytest.approx(float(probabilities[[4, 5]].sum()), abs=1e-6)
    words = next(iter(judge.ask([Question("k", image, "Is this a cat")], Form(3)))).text
    assert isinstance(words, str)


def test_a_local_judge_scores_a_benchmark(tiny_vlm, genai, tmp_path):
    judge = JudgeOptions(judge_model=[str(tiny_vlm)], judge_check=False, device="cpu")
    result = score(genai(judge, question="Is this {}"), tmp_path)
    assert result.complete
    assert all(0 < row.score < 1 for row in result.rows)


def test_a_judge_of_ones_own_has_a_name(genai, tmp_path, monkeypatch):
    class Coin(Judge):
        identity = {"judge": "coin"}  # noqa: RUF012

        def ask(self, questions, form):
            return (Answer(question.key, first_token=[("Yes", math.log(0.5))]) for question in questions)

    monkeypatch.setattr(JUDGES, "_items", dict(JUDGES))
    JUDGES.register("coin")(lambda options: Coin())
    result = score(genai(JudgeOptions("coin", ["any"], judge_check=False)), tmp_path)
    assert {row.score for row in result.rows} == {0.5}
    with pytest.raises(ValueError, match="Unknown judge 'dice': expected one of endpoint, local, coin"):
        genai(JudgeOptions("dice", ["any"])).check_judge()
    with pytest.raises(ValueError, match="name one with --judge-model"):
        genai(JudgeOptions()).check_judge()


def test_a_judge_is_tried_before_pictures_are_made(genai, chat_server):
    asked = genai(JudgeOptions(judge_model=["judge"], judge_url=[chat_server.url], retries=0))
    asked.check_judge()
    assert not chat_server.requests, "opening asks nothing"
    asked.check_judge(ask=True)
    assert len(chat_server.requests) == 1
    chat_server.reply = lambda request: text_reply("Yes")
    with pytest.raises(ValueError, match=r"judge cannot be asked: the reply has no log-probabilities.*max-logprobs 20"):
        asked.check_judge(ask=True)
    gone = JudgeOptions(judge_model=["judge"] * 2, judge_url=[chat_server.url, "http://127.0.0.1:9/v1"], retries=0)
    chat_server.reply = lambda request: yes_no_reply({"Yes": 0.9})
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:9/v1 failed 1 times"):
        genai(gone).check_judge(ask=True)


def test_answers_are_known_by_the_key_that_earlier_versions_gave_them(genai):
    benchmark = genai(JudgeOptions(judge_model=["judge"], judge_url=["http://localhost/v1"]))
    key = work_key(image=sha256(b"x"), **benchmark.identity(0))
    assert key == "8aa8d095235f096ab38ec49a80396744b46af8175e4cffa233e88bcb8758e54e"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"choices": []},
        {"choices": [None]},
        {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "Yes", "logprob": 10**400}]}]}}]},
        {"choices": [{"logprobs": {"content": [{"top_logprobs": "Yes"}]}}]},
        {"choices": [{"logprobs": {"content": [{"top_logprobs": []}]}, "message": "Yes"}]},
    ],
)
def test_a_reply_of_another_shape_is_an_error_and_no_end(body):
    assert "no answer in the reply" in read_reply(Reply("k", body), Form(1, first_token=True)).error
