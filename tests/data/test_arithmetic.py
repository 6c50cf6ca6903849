from pathlib import Path

import pytest

from slimsweep.data.arithmetic import Arithmetic, worked_sum
from slimsweep.data.corpora import Corpora
from slimsweep.data.problems import Problem

NO_CORPORA = Corpora(None, Path("unused"))


def test_steps_add_one_number_at_a_time():
    assert worked_sum([3, 5, 9]) == Problem("Q: 3+5+9=\n", "3+5=8 8+9=17", "17")
    assert worked_sum([3, 5, 9], modulus=10) == Problem("Q: 3+5+9=\n", "3+5=8 8+9=7", "7")
    assert worked_sum([40, 2]) == Problem("Q: 40+2=\n", "40+2=42", "42")


def test_problems_are_distinct_and_their_seed_draws_them():
    data = Arithmetic(terms=2, digits=1, problem_count=100)
    prompts = [one.prompt for one in data.problems()]
    assert len(set(prompts)) == 100 and "Q: 0+0=\n" in prompts and "Q: 9+9=\n" in prompts
    assert data.problems() == data.problems() != Arithmetic(**{**vars(data), "problem_seed": 1}).problems()
    assert data.digest(NO_CORPORA) != Arithmetic(**{**vars(data), "problem_seed": 1}).digest(NO_CORPORA)


def test_numbers_are_below_the_modulus():
    prompts = [one.prompt for one in Arithmetic(terms=2, digits=1, modulus=3, problem_count=9).problems()]
    assert sorted(prompts) == [f"Q: {first}+{second}=\n" for first in range(3) for second in range(3)]


def test_the_split_is_disjoint_and_depends_on_content_only(tiny_source):
    few, many = (
        Arithmetic(terms=2, digits=2, problem_count=count).examples(tiny_source, NO_CORPORA) for count in (300, 900)
    )
    assert few.validation and not set(few.training) & set(few.validation)
    assert set(few.validation) <= set(many.validation)


def test_only_the_solution_is_predicted(tiny_source):
    data = Arithmetic(terms=2, digits=1, problem_count=20).examples(tiny_source, NO_CORPORA)
    tokenizer, problem = tiny_source.tokenizer(), data.training[0]
    batch = data.collate([problem])
    labels = batch["labels"][0]
    assert tokenizer.decode(labels[labels >= 0]) == problem.solution + "</s>"


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"terms": 1}, "data.terms=1: give a whole number of at least 2"),
        ({"digits": 0}, "data.digits=0"),
        ({"modulus": 1}, "data.modulus=1"),
        ({"terms": 2, "digits": 1, "problem_count": 101}, "there are 100 sums of 2 numbers"),
        ({"problem_seed": -1}, "data.problem_seed=-1"),
    ],
)
def test_bad_knobs_are_named(knobs, words):
    with pytest.raises(ValueError, match=words):
        Arithmetic(**knobs)
