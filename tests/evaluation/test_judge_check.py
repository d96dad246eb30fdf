"""A judge's own accuracy, two judges' agreement, and what results say of who judged."""

import base64
import io
import json
import time

import numpy as np
import pytest
from chat_endpoint import ChatServer, question_of, text_reply, yes_no_reply
from PIL import Image

from semantic_routing.evaluation import GenAIBench
from semantic_routing.evaluation.agreement import compare_decisions, score_by_all
from semantic_routing.evaluation.judge_check import (
    HOW_MANY,
    STATEMENT,
    JudgeCheck,
    check_questions,
    read_word,
    score_check,
)
from semantic_routing.evaluation.judges import JudgeOptions
from semantic_routing.evaluation.runner import score
from semantic_routing.scenes import SKILLS, detect


def judge_at(*servers, models=("judge",), check=False):
    return JudgeOptions(
        judge_model=list(models), judge_url=[server.url for server in servers], judge_check=check, workers=8
    )


def test_half_of_the_statements_are_true_and_all_answers_are_right():
    questions = check_questions()
    assert 450 <= len(questions) <= 520
    statements = [question for question in questions if question.kind != "number"]
    for skill in SKILLS:
        kinds = [question.kind for question in statements if question.skill == skill]
        assert kinds.count("true") == kinds.count("false") == len(kinds) / 2 >= 10
    numbers = [question for question in questions if question.kind == "number"]
    assert len({question.answer for question in numbers}) >= 4
    for question in numbers:
        assert any(claim.holds(question.sample.scene) for claim in question.sample.claims)
    assert {len({q.text for q in statements[i : i + 2]}) for i in range(0, len(statements), 2)} == {2}


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ("Yes.", "yes"),
        (" no, it", "no"),
        ("**Four**", "four"),
        ("4", "four"),
        ("Maybe", None),
        ("", None),
        ("12", None),
    ],
)
def test_answers_are_read_by_their_first_word(answer, word):
    assert read_word(answer) == word


def test_a_judge_that_sees_is_right_and_one_that_says_yes_is_half_right(chat_server, tmp_path):
    asked = {question.text: question.answer for question in check_questions(2)}
    chat_server.reply = lambda request: text_reply(asked[question_of(request)])
    seeing = score_check(JudgeCheck(judge_at(chat_server), 2), tmp_path / "a")
    assert {row.score for row in seeing.rows} == {1.0}
    chat_server.reply = lambda request: text_reply("Yes")
    rows = {
        (row.name, row.part): row.score
        for row in score_check(JudgeCheck(judge_at(chat_server), 2), tmp_path / "b").rows
    }
    assert rows["colors", "all"] == 0.5
    assert (rows["overall", "true"], rows["overall", "false"]) == (1, 0)
    request = chat_server.requests[-1]
    assert request["max_tokens"] == 8
    assert "logprobs" not in request
    data = request["messages"][0]["content"][0]["image_url"]["url"].split(",")[1]
    assert detect(np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))).objects


def test_answers_outside_the_format_are_counted_and_no_mistakes(chat_server, tmp_path):
    chat_server.reply = lambda request: text_reply("A circle" if "How many" in question_of(request) else "Yes")
    result = score_check(JudgeCheck(judge_at(chat_server), 2), tmp_path, partial=True)
    assert len(result.problems["unresolved judgments"]) == 2
    assert {row.name: row.score for row in result.rows if row.part == "all"}["counting"] == 0.5


@pytest.fixture
def genai(tmp_path):
    """Four prompts and an image each, judged by any number of servers."""
    (tmp_path / "p.json").write_text(json.dumps({str(n): {"prompt": f"thing {n}"} for n in range(4)}))
    (tmp_path / "images").mkdir()
    for n in range(4):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(tmp_path / "images" / f"{n}.png")
    return lambda judge: GenAIBench(str(tmp_path / "p.json"), judge=judge)


def says_yes_to(numbers):
    def reply(request):
        text = question_of(request)
        if text.startswith((STATEMENT.split("{")[0], HOW_MANY.split("{")[0])):
            return text_reply("Yes")
        yes = int(text.split('"')[1].split()[1]) in numbers
        return yes_no_reply({"Yes": 0.9, "No": 0.1} if yes else {"No": 0.9, "Yes": 0.1})

    return reply


def test_two_judges_agreement_stands_in_both_results(genai, chat_server, tmp_path):
    other = ChatServer()
    chat_server.reply, other.reply = says_yes_to({0, 1}), says_yes_to({0})
    results = score_by_all(genai(judge_at(chat_server, other, models=("a", "b"))), tmp_path, None, None, False)
    other.server.shutdown()
    assert [result.rows[-1].score for result in results] == pytest.approx([0.5, 0.3])
    agreement = json.loads((tmp_path / "agreement.json").read_text())
    assert agreement == [{"judges": ["a", "b"], "questions": 4, "agreement": 0.75, "kappa": 0.5}]
    unlike = json.loads((tmp_path / "disagreements-2.jsonl").read_text())
    assert unlike == {"image": "1.png", "question": "", "first": "yes", "second": "no"}
    for folder in (tmp_path, tmp_path / "judge-2"):
        assert "b agrees with a on 0.750 of the questions, kappa 0.50" in (folder / "result.md").read_text()


def test_kappa_takes_chance_away():
    first = {(str(n), ""): "yes" if n < 90 else "no" for n in range(100)}
    always = dict.fromkeys(first, "yes")
    found = compare_decisions(first, always)
    assert (found.agreement, found.kappa) == (pytest.approx(0.9), pytest.approx(0))
    assert compare_decisions(first, first).kappa == pytest.approx(1)
    assert compare_decisions(always, always).kappa is None
    assert compare_decisions(first, {}).agreement is None


def test_judges_accuracy_stands_beside_its_score(genai, chat_server, tmp_path):
    chat_server.reply = says_yes_to({0, 1, 2, 3})
    result = score(genai(judge_at(chat_server, check=True)), tmp_path)
    judge = result.settings["judge"]
    assert judge["check"]["accuracy"]["colors"] == 0.5
    assert judge["check"]["accuracy"]["counting"] < 0.5
    assert (judge["model"], judge["template"].startswith("Does this figure")) == ("judge", True)
    assert judge["rule"].startswith("yes_prob: probability of the first token")
    assert "Judge: judge; its own accuracy on scenes: 0.4" in (tmp_path / "result.md").read_text()
    asked = len(chat_server.requests)
    score(genai(judge_at(chat_server, check=True)), tmp_path)
    assert len(chat_server.requests) == asked, "what was answered is not asked again, numbers asked for included"


def test_a_revision_is_part_of_the_judge(genai, chat_server):
    options = judge_at(chat_server)
    pinned = JudgeOptions(judge_model=["judge"], judge_url=[chat_server.url], judge_revision=["abc"])
    assert genai(options).identity(0) != genai(pinned).identity(0)
    assert genai(pinned).judge.identity["revision"] == "abc"


def test_numbers_of_judges_must_go_together():
    each = JudgeOptions(judge_model=["a"], judge_url=["http://x/v1", "http://y/v1"]).each()
    assert [(one.model, one.url) for one in each] == [("a", "http://x/v1"), ("a", "http://y/v1")]
    with pytest.raises(ValueError, match="There are 3 judges, but --judge-url is given 2 times"):
        JudgeOptions(judge_model=["a", "b", "c"], judge_url=["x", "y"]).each()


def test_five_hundred_questions_take_less_than_a_minute_beside_the_judge(chat_server, tmp_path):
    chat_server.reply = lambda request: text_reply("Yes")
    started = time.process_time()
    result = score_check(JudgeCheck(judge_at(chat_server)), tmp_path, partial=True)
    assert len(result.values) >= 450
    assert time.process_time() - started < 60
