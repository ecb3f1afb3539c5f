"""leaks.py: what hides no question, what is another one, and names of one function."""

import random

import pytest

from stages.leaks import LEAK, NEAR, Functions, Questions, runs_of

SALON = "I would like to find a Unisex Salon in San Jose"
QUESTIONS = Questions(
    [SALON, "What is the weather like in Boston?", "帮我查一下明天北京到上海的高铁票还有没有", "Yes, please."]
)

SAME = [
    SALON + ".",
    "i would like to find a unisex salon in san jose",
    "I would like to find a Unisex Salon, in San Jose!",
    "I would like to find a “unisex” salon in San José",
    "I would like to find a Uni\u200bsex Salon\u200b in\u2060 San Jose",
    "I\u200bwould\u200blike\u200bto\u200bfind\u200ba\u200bUnisex\u200bSalon\u200bin\u200bSan\u200bJose",
    "I\u00adwould like to\u00a0find a Unisex\u3000Salon in San Jose\ufeff",
    "Ｉ would like to find a Ｕｎｉｓｅｘ Salon in San Jose",
    "I would like to find a\nUnisex - Salon\n(in San_Jose)",
    "I would like to find a <b>Unisex Salon</b><br>in San&nbsp;Jose&period;",
    "I would like to find a\\nUnisex Salon\\nin San Jose",
    "I would like to find a Uni\0sex\x07 Sa\x1blon in\x08 San\u2800Jose\ue000",
    "I would like to find a U\u20ddnisex Salon in San Jose",
    "I would like to find a Unisех Sаlоn in Sаn Jоsе",  # half of the letters are Cyrillic
    "I would like to find a 𝐔𝐧𝐢𝐬𝐞𝐱 𝑺𝒂𝒍𝒐𝒏 in San Jose",
    "Question: " + SALON,
    SALON + "\n\nThink step by step and answer with one call.",
    "Hello there. " + SALON + ". Please be quick; I have to leave at 5.",
]


@pytest.mark.parametrize("text", SAME)
def test_what_hides_no_question(text):
    score, question = QUESTIONS.nearest(text)
    assert score >= LEAK and question == SALON


def test_scores():
    assert QUESTIONS.nearest(SALON) == (1.0, SALON)
    assert QUESTIONS.nearest("What is the weather like in Paris?") == (
        0.8,
        "What is the weather like in Boston?",
    )
    assert NEAR <= QUESTIONS.nearest("I would like to find a Unisex Salon in San Mateo")[0] < LEAK
    score, _ = QUESTIONS.nearest("Would you like to find a unisex salon in Oakland or San Jose?")
    assert score == pytest.approx(5 / 9)
    assert QUESTIONS.nearest("I would like to find a hotel in Rome") == (0.0, "")
    assert QUESTIONS.nearest("请帮我查一下明天北京到上海的高铁票还有没有。")[0] == 1.0
    assert QUESTIONS.nearest("Yes, please.") == QUESTIONS.nearest("") == (0.0, "")
    assert Questions(["It costs 10,000 for 3 km"]).nearest("it costs 10000 for 3km")[0] == 1.0
    assert Questions(["Tell me the weather"]).nearest("Tell me the weekday") == (0.0, "")  # of two runs one
    assert (
        Questions([r"Compute $\frac{1}{2}+\frac{1}{3}$ now"]).nearest(
            r"compute \dfrac{1}{2}+\tfrac{1}{3} now"
        )[0]
        == 1.0
    )
    assert (
        Questions(["Is AT&amp;T&nbsp;bigger than Verizon?"]).nearest("is AT&T bigger than verizon")[0] == 1.0
    )
    assert Questions([]).nearest(SALON) == (0.0, "")


@pytest.mark.parametrize("seed", range(3))
def test_nearest_against_a_comparison_with_every_question(seed):
    """The index leaves no question out that shares enough."""
    chance = random.Random(seed)
    sentence = lambda low, high: " ".join(chance.choices("abcdefghijkl", k=chance.randint(low, high)))  # noqa: E731
    asked = [f"the longest one of {sentence(1, 12)}" for _ in range(60)]
    questions = Questions(asked)
    for text in [sentence(5, 60) for _ in range(100)] + [f"{text} {sentence(1, 9)}" for text in asked]:
        best = 0.0
        for question in asked:
            of_question = runs_of(question)
            shared = len(of_question & runs_of(text))
            if shared >= 3 and shared / len(of_question) >= NEAR:
                best = max(best, shared / len(of_question))
        assert questions.nearest(text)[0] == best


def tool(name: str, *parameters: str) -> dict:
    return {"name": name, "parameters": {"type": "object", "properties": dict.fromkeys(parameters, {})}}


KNOWN = Functions()
KNOWN.add("restaurants", tool("Restaurants_2_FindRestaurants", "category", "location", "price_range"))
KNOWN.add("hypot", tool("math.hypot", "x", "y"))
KNOWN.add("weather", tool("get_weather", "city"))

ALIKE = [
    (tool("FindRestaurants", "category", "location"), {"restaurants"}),
    (tool("find_restaurants", "Location", "priceRange", "category"), {"restaurants"}),
    (tool("Restaurants_1_FindRestaurants", "category", "location"), {"restaurants"}),
    (tool("api.find-restaurants", "category", "location"), {"restaurants"}),
    (tool("FindRestaurants", "stars", "name"), set()),
    (tool("FindRestaurants"), set()),
    (tool("FindRestaurantsNearby", "category", "location", "price_range"), set()),
    (tool("hypot", "x", "y"), {"hypot"}),
    (tool("geometry.hypot", "x", "y"), {"hypot"}),
    (tool("hypot", "x", "y", "z"), set()),  # of one word all parameters must be there
    (tool("forecast_weather", "city"), set()),
    (tool("api_get_weather", "city", "day"), {"weather"}),
    ({"name": "get_weather"}, set()),
]


def test_long_names_and_texts_cost_no_square():
    """Each would take minutes if it did."""
    for name in ("a" * 300_000, "_1" * 100_000, "a_" * 100_000, "_" + "1" * 300_000):
        assert KNOWN.alike(tool(name, "x", "y")) == set()
    for text in ("," * 300_000, "1," * 150_000, "\u200b" * 300_000, "what is the " * 50_000):
        assert QUESTIONS.nearest(text)[0] == 0.0


@pytest.mark.parametrize(("offered", "keys"), ALIKE)
def test_functions_of_one_last_part_and_parameters(offered, keys):
    assert KNOWN.alike(offered) == keys == KNOWN.alike(offered)
