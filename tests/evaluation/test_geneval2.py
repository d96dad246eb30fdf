"""GenEval 2: scores equal the official script's on recorded answers, and nothing that failed becomes a score."""

import json
import math
import shutil

import numpy as np
import pytest
from chat_endpoint import question_of, text_reply, yes_no_reply
from PIL import Image

from semantic_routing.evaluation import GenEval2, geneval2
from semantic_routing.evaluation.benchmark import ImageFile
from semantic_routing.evaluation.judges import Answer, JudgeOptions
from semantic_routing.evaluation.questions import AnswerError
from semantic_routing.evaluation.runner import score
from semantic_routing.io.jsonl import read_lines

# The protocol's worked example: scores, skills, numbers of atoms, and what the official script makes of them.
SCORES = [[0.9, 0.8, 0.99], [0.5, 0.5], [0.25, 1.0, 1.0, 1.0]]
SKILLS = [["count", "attribute", "object"], ["object", "count"], ["count", "object", "verb", "position"]]
COUNTS = [3, 3, 4]
WORKED = {"count": 55.0, "attribute": 80.0, "object": 83.0, "position": 100.0, "verb": 100.0}
GM = 100 * float(np.mean([np.prod(own) ** (1 / len(own)) for own in SCORES]))
AM = 73.63888889


def write_prompts(path, skills=SKILLS):
    lines = []
    for number, own in enumerate(skills):
        asked = [
            [f"How many things {number} {k}?", "four"] if skill == "count" else [f"Is it {skill} {number} {k}?", "Yes"]
            for k, skill in enumerate(own)
        ]
        line = {"prompt": f"thing {number}", "atom_count": COUNTS[number], "vqa_list": asked, "skills": own}
        lines.append(json.dumps(line) + "\n")
    path.write_text("".join(lines))
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """A prompt file and an image a prompt."""
    write_prompts(tmp_path / "prompts.jsonl")
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "images" / f"{number}_sample_0.png")
    return tmp_path


def judged_by(server, **options):
    chosen = {"judge_model": ["judge"], "judge_url": [server.url], "judge_check": False, "workers": 4}
    return JudgeOptions(**{**chosen, **options})


def benchmark(folder, server, **options):
    return GenEval2(str(folder / "prompts.jsonl"), judged_by(server), **options)


def recorded(request):
    """The answer of the example to a question, by the numbers at its end."""
    *_, number, k = question_of(request).split("?")[0].split()
    p = SCORES[int(number)][int(k)]
    right = "Four" if question_of(request).startswith("How many") else "Yes"
    listed = {right: 0.6 * p, right.lower(): 0.4 * p, "The": 1 - p}
    return yes_no_reply({token: value for token, value in sorted(listed.items(), key=lambda pair: -pair[1]) if value})


def test_scores_are_the_official_ones(folder, chat_server):
    chat_server.reply = recorded
    assert pytest.approx(70.0130, abs=1e-4) == GM
    result = score(benchmark(folder, chat_server), folder)
    rows = {(row.name, row.part): row for row in result.rows}
    assert 100 * rows["overall", "AM"].score == pytest.approx(AM, abs=1e-6)
    assert 100 * rows["overall", "GM"].score == pytest.approx(GM, abs=1e-6)
    assert {skill: 100 * rows[skill, "questions"].score for skill in WORKED} == pytest.approx(WORKED, abs=1e-6)
    assert 100 * rows["3 atoms", "GM"].score == pytest.approx(69.6642, abs=1e-4)
    assert 100 * rows["4 atoms", "GM"].score == pytest.approx(70.710678, abs=1e-6)
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["soft_tifa_am"], summary["soft_tifa_gm"]) == pytest.approx((AM, GM), abs=1e-6)
    assert summary["skills"] == pytest.approx(WORKED, abs=1e-6)
    assert result.complete
    assert len(chat_server.requests) == 9
    request = chat_server.requests[0]
    assert question_of(request).endswith("? Answer in one word.")
    assert (request["max_tokens"], request["temperature"], request["top_logprobs"]) == (1, 0, 20)
    assert [part["type"] for part in request["messages"][0]["content"]] == ["image_url", "text"]
    judge = result.settings["judge"]
    assert judge["template"] == "{question} Answer in one word."
    assert "as officially" in judge["rule"]
    assert result.settings["probability_listed"]["least"] == pytest.approx(1)
    assert result.settings["official_size"] is False


def test_a_skills_interval_takes_prompts_for_the_sample(folder, chat_server):
    write_prompts(folder / "prompts.jsonl", [["object"] * 3, ["object"] * 2, ["object"] * 4])
    chat_server.reply = recorded
    result = score(benchmark(folder, chat_server), folder)
    row = next(row for row in result.rows if row.name == "object")
    means, numbers = np.array([np.mean(each) for each in SCORES]), np.array([3, 2, 4])
    assert row.score == pytest.approx(np.average(means, weights=numbers))
    assert row.prompts == 3
    # Nine independent answers would leave much less open.
    assert row.high - row.low > 0.5


SPELLINGS = ("four", "Four", " four", " Four", "4", " 4")


def test_the_official_spellings():
    assert geneval2.accepted_texts("How many cats?", "four") == SPELLINGS
    assert geneval2.accepted_texts("How many cats?", "eleven") == ("other",)
    assert geneval2.accepted_texts("Is it red?", "Yes") == ("Yes", "yes", " yes", " Yes")


def read(tmp_path, answer, total="official"):
    asked = GenEval2(write_prompts(tmp_path / "p.jsonl"), total=total)
    return asked.read(answer, ImageFile(0, 0, "x", tmp_path, question=0))


def test_tokens_that_several_texts_share_count_as_often_or_once(tmp_path):
    # A tokenizer that splits a space from what follows: three texts begin with token 7.
    accepted = [(index, math.log(p)) for index, p in ((1, 0.3), (2, 0.2), (7, 0.05), (7, 0.05), (4, 0.1), (7, 0.05))]
    answer = Answer("k", first_token=[("Four", math.log(0.3))], accepted=accepted)
    assert read(tmp_path, answer)["score"] == pytest.approx(0.3 + 0.2 + 0.1 + 3 * 0.05)
    assert read(tmp_path, answer, "distinct")["score"] == pytest.approx(0.3 + 0.2 + 0.1 + 0.05)
    # Over an endpoint, a space before a digit is a token of its own.
    listed = {"four": 0.4, " ": 0.1, "4": 0.2, "five": 0.3}
    answer = Answer("k", first_token=[(token, math.log(p)) for token, p in listed.items()])
    assert read(tmp_path, answer) == {"score": pytest.approx(0.7), "right": True, "mass": pytest.approx(1)}


@pytest.mark.parametrize(
    ("token", "right"), [("Four", True), ("FOUR", True), (" four", True), ("4", True), ("44", False)]
)
def test_the_likeliest_token_is_right_by_its_lower_case(tmp_path, token, right):
    assert read(tmp_path, Answer("k", first_token=[(token, -0.1), ("x", -3.0)]))["right"] is right


def test_impossible_probabilities_are_no_score(tmp_path):
    with pytest.raises(AnswerError, match="more than 1"):
        read(tmp_path, Answer("k", first_token=[("four", 0.5)]))
    with pytest.raises(AnswerError, match="no alternatives"):
        read(tmp_path, Answer("k"))
    shared = Answer("k", first_token=[("x", -0.1)], accepted=[(1, math.log(0.9))] * 6)
    with pytest.raises(AnswerError, match="--sum distinct"):
        read(tmp_path, shared)


def test_failures_are_named_counted_and_never_zero(folder, chat_server):
    def reply(request):
        return text_reply("Yes") if question_of(request).endswith("1 1? Answer in one word.") else recorded(request)

    chat_server.reply = reply
    (folder / "images" / "2_sample_0.png").write_bytes(b"no image")
    result = score(benchmark(folder, chat_server), folder, partial=True)
    assert {kind: len(names) for kind, names in result.problems.items()} == {
        "failed judgments": 1,
        "unreadable images": 1,
    }
    assert "1 of 2 questions: the reply has no log-probabilities" in result.problems["failed judgments"][0]
    rows = {(row.name, row.part): row.score for row in result.rows}
    assert rows["overall", "AM"] == pytest.approx(np.mean(SCORES[0]))
    assert rows["verb", "questions"] is None
    # Answers of the image that failed were kept: only the failed question is asked again.
    asked = len(chat_server.requests)
    chat_server.reply = recorded
    again = score(benchmark(folder, chat_server), folder, partial=True)
    assert len(chat_server.requests) == asked + 1
    assert again.remark.startswith("INCOMPLETE: 2 of 3")


@pytest.mark.parametrize(
    ("question", "listed", "known"),
    [
        (0, {"five": 0.9}, True),  # wrong, which is an answer
        (0, {"None": 0.9}, True),
        (0, {" ": 0.9}, True),
        (0, {"Yes": 0.9}, False),
        (1, {"No": 0.9}, True),
        (1, {"The": 0.9, "no": 0.01}, True),
        (1, {"The": 0.9, "four": 0.1}, False),
    ],
)
def test_whether_a_question_is_answered(folder, chat_server, question, listed, known):
    chat_server.reply = lambda request: (
        yes_no_reply(listed)
        if question_of(request).endswith(f"0 {question}? Answer in one word.")
        else recorded(request)
    )
    result = score(benchmark(folder, chat_server), folder, partial=True)
    assert (result.problems == {}) == known
    assert ("0/AM" in result.values) == known, "what is no answer is left out, and no zero"
    if not known:
        word, kind = next(iter(listed)), ("a number", "yes or no")[question]
        wanted = f"0_sample_0.png (1 of 3 questions: the judge began with {word!r}, and no likely token is {kind})"
        assert result.problems == {"unresolved judgments": [wanted]}


def test_a_judge_that_knows_its_tokenizer_always_answers(tmp_path):
    accepted = [(index, math.log(1e-6)) for index in range(6)]
    found = read(tmp_path, Answer("k", first_token=[("The", math.log(0.9))], accepted=accepted))
    assert found["score"] == pytest.approx(6e-6)


def official_scores(tokens, logprobs, encode, prompts):
    """The official script's figures, written from the protocol by itself: full distributions in, per cent out.

    `tokens` are a judge's vocabulary, `logprobs[prompt][question]` one value a token; `encode` gives a text's tokens.
    """
    words = dict(
        zip(["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"], range(1, 11), strict=True)
    )
    scores, hard = [], []
    for prompt, rows in zip(prompts, logprobs, strict=True):
        own = []
        for (question, answer), row in zip(prompt["vqa_list"], rows, strict=True):
            accepted = ["Yes", "yes", " yes", " Yes"]
            if question.startswith("How many"):
                accepted = ["other"]
                if answer in words:
                    digit = str(words[answer])
                    accepted = [answer, answer.capitalize(), " " + answer, " " + answer.capitalize()]
                    accepted += [digit, " " + digit]
            own.append(sum(math.exp(row[encode(text)[0]]) for text in accepted))
            hard.append(tokens[int(np.argmax(row))].lower() in accepted)
        scores.append(own)
    gm = [math.prod(own) ** (1 / len(own)) for own in scores]
    pooled, by_count = {}, {}
    for prompt, own, mean in zip(prompts, scores, gm, strict=True):
        by_count.setdefault(str(prompt["atom_count"]), []).append(100 * mean)
        for skill, value in zip(prompt["skills"], own, strict=True):
            pooled.setdefault(skill, []).append(100 * value)
    return {
        "am": 100 * np.mean([np.mean(own) for own in scores]),
        "gm": 100 * np.mean(gm),
        "hard": 100
        * np.mean([np.mean(part) for part in np.split(np.array(hard), np.cumsum([*map(len, scores)])[:-1])]),
        "skills": {skill: np.mean(values) for skill, values in pooled.items()},
        "atom_counts": {count: np.mean(values) for count, values in by_count.items()},
    }


NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven")
TOKENS = ("Yes", "yes", " yes", " Yes", "No", " no", " ", "The", *"1234567", *NUMBER_WORDS)
TOKENS = (*TOKENS, *(word.capitalize() for word in NUMBER_WORDS), *(f" {word}" for word in NUMBER_WORDS))
TOKENS = (*TOKENS, *(f" {word.capitalize()}" for word in NUMBER_WORDS))


def test_recorded_answers_come_to_what_the_official_rule_makes_of_them(tmp_path, chat_server, monkeypatch):
    """Sixty prompts of 3 to 10 atoms and all skills, with the answers of a judge of forty-odd tokens."""
    random = np.random.default_rng(0)
    prompts, logprobs, by_question = [], [], {}
    for number in range(60):
        skills = list(random.choice(["object", "count", "attribute", "position", "verb"], 3 + number % 8 + number % 2))
        asked = []
        for k, skill in enumerate(skills):
            count = skill == "count"
            text = f"How many things {number} {k}?" if count else f"Is it {skill} {number} {k}?"
            asked.append([text, str(random.choice(NUMBER_WORDS)) if count else "Yes"])
        prompts.append(
            {"prompt": f"p {number}", "atom_count": 3 + number % 8, "vqa_list": asked, "skills": [*map(str, skills)]}
        )
        rows = np.log(random.dirichlet(np.full(len(TOKENS), 0.3), len(skills)) + 1e-12)
        rows -= np.log(np.exp(rows).sum(1, keepdims=True))
        logprobs.append(rows)
        by_question |= {f"{text} Answer in one word.": row for (text, _), row in zip(asked, rows, strict=True)}
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    (tmp_path / "images").mkdir()
    for number in range(60):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")

    def reply(request):
        row = by_question[question_of(request)]
        order = np.argsort(-row)
        return yes_no_reply({TOKENS[index]: math.exp(row[index]) for index in order})

    def encode(text):  # as Qwen's: a space before a digit is a token by itself
        return [TOKENS.index(" ")] if text[0] == " " and text[1:].isdecimal() else [TOKENS.index(text)]

    chat_server.reply = reply
    judge = judged_by(chat_server, workers=16)
    result = score(GenEval2(str(tmp_path / "p.jsonl"), judge), tmp_path)
    official = official_scores(TOKENS, logprobs, encode, prompts)
    rows = {(row.name, row.part): 100 * row.score for row in result.rows}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert rows["overall", "AM"] == summary["soft_tifa_am"] == pytest.approx(official["am"], abs=1e-6)
    assert rows["overall", "GM"] == pytest.approx(official["gm"], abs=1e-6)
    assert rows["overall", "hard"] == pytest.approx(official["hard"], abs=1e-6)
    assert summary["soft_tifa_gm"] == pytest.approx(official["gm"], abs=1e-6)
    assert summary["skills"] == pytest.approx(official["skills"], abs=1e-6)
    assert {name: rows[name, "questions"] for name in official["skills"]} == pytest.approx(official["skills"], abs=1e-6)
    assert summary["atom_counts"] == pytest.approx(official["atom_counts"], abs=1e-6)


def test_a_judge_without_log_probabilities_is_not_asked_everything(tmp_path, chat_server):
    lines = [
        {"prompt": f"p {n}", "atom_count": 3, "vqa_list": [[f"Is it {n}?", "Yes"]], "skills": ["object"]}
        for n in range(40)
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "images").mkdir()
    for number in range(40):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    chat_server.reply = lambda request: text_reply("Yes")
    result = score(benchmark(tmp_path, chat_server), tmp_path)
    assert {row.score for row in result.rows} == {None}
    assert len(result.problems["failed judgments"]) == 40
    assert "vLLM: --max-logprobs 20" in result.problems["failed judgments"][-1]
    assert len(chat_server.requests) < 20


def test_images_come_and_go_in_the_official_form(folder, chat_server):
    chat_server.reply = recorded
    own = benchmark(folder, chat_server)
    own.files.write_records(folder / "images")
    written = json.loads((folder / "images" / "images.json").read_text())
    assert list(written) == ["thing 0", "thing 1", "thing 2"]
    first = score(own, folder)
    assert first.complete
    assert "left aside" not in first.problems
    theirs = folder / "theirs"
    shutil.copytree(folder / "images", theirs / "png")
    named = {f"thing {number}": f"png/{number}_sample_0.png" for number in range(2)}
    (theirs / "list.json").write_text(json.dumps({**named, "a cat": "png/2_sample_0.png"}))
    result = score(benchmark(folder, chat_server), folder / "out", theirs / "list.json", partial=True)
    assert result.values == {key: value for key, value in first.values.items() if not key.startswith("2/")}
    assert {kind: len(names) for kind, names in result.problems.items()} == {"missing images": 1, "left aside": 1}


def test_another_sum_or_answer_of_a_kept_judgment(folder, chat_server):
    chat_server.reply = recorded
    first = score(benchmark(folder, chat_server), folder)
    asked = len(chat_server.requests)
    again = score(benchmark(folder, chat_server, total="distinct"), folder)
    assert len(chat_server.requests) == asked, "a sum is taken of what was said"
    assert again.values == first.values
    text = (folder / "prompts.jsonl").read_text()
    (folder / "prompts.jsonl").write_text(text.replace('"four"', '"five"'))
    other = score(benchmark(folder, chat_server), folder)
    assert other.values["0/count"] == 0 < first.values["0/count"]


def test_one_question_a_prompt(folder, chat_server):
    chat_server.reply = lambda request: yes_no_reply({"Yes": 0.75, "No": 0.2})
    result = score(benchmark(folder, chat_server, method="vqascore"), folder)
    assert question_of(chat_server.requests[0]).endswith("Answer the question with Yes or No.")
    assert 'Does this image show "thing 0"?' in {question_of(r).rsplit(" Answer", 1)[0] for r in chat_server.requests}
    assert [row.score for row in result.rows if row.part in ("AM", "GM")] == pytest.approx([0.75] * 4)
    assert len(read_lines(folder / "answers.jsonl")) == 3


GOOD = {"prompt": "a cat", "atom_count": 3, "vqa_list": [["Is it a cat?", "Yes"]], "skills": ["object"]}


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "holds no prompts"),
        ([{**GOOD, "skills": []}], "line 1 has 1 questions, but 0 skills"),
        ([GOOD, GOOD], "line 2 repeats line 1's prompt"),
        ([{**GOOD, "atom_count": "3"}], "'atom_count' is '3'"),
        ([{**GOOD, "vqa_list": [["Is it?"]]}], "'vqa_list'"),
        ([{"tag": "single_object", "prompt": "a cat"}], "line 1 is not GenEval 2's: its 'atom_count' is 'None'"),
        (["a cat"], "line 1 is not GenEval 2's"),
    ],
)
def test_other_prompt_files_are_refused(tmp_path, lines, says):
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=says):
        GenEval2(str(tmp_path / "p.jsonl"))


def test_a_file_of_another_size_is_told(tmp_path, caplog):
    GenEval2(write_prompts(tmp_path / "p.jsonl"))
    assert "holds 3 prompts with 9 questions, not GenEval 2's 800 with 6012" in caplog.text
