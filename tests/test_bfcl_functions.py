"""evaluation/bfcl_functions.py: results by hand, the published ones, calls that would never end."""

import json
import time

import pytest
from bfcl_cases import PUBLISHED

from evaluation.bfcl_functions import WEB, run
from evaluation.bfcl_source import parse_call

RESULTS = [
    ("estimate_derivative", {"function": "lambda x: 3*x**2 + 2*x + 1", "x": 5}, 32.00000264769187),
    ("estimate_derivative", {"function": "lambda t: 7", "x": 5}, 0.0),
    ("math_factorial", {"n": 5}, 120),
    ("math_factorial", {"n": 0}, 1),
    ("calculate_permutations", {"n": 5, "k": 2}, 20.0),
    ("calc_binomial_probability", {"n": 2, "k": 1, "p": 0.5}, 0.5),
    ("math_gcd", {"a": 12, "b": 18}, 6),
    ("math_lcm", {"a": 4, "b": 6}, 12.0),
    ("get_prime_factors", {"number": 360}, [2, 2, 2, 3, 3, 5]),
    ("get_prime_factors", {"number": 97}, [97]),
    ("get_fibonacci_sequence", {"n": 6}, [0, 1, 1, 2, 3, 5]),
    ("get_fibonacci_number", {"n": 1}, 0),
    ("get_fibonacci_number", {"n": 7}, 8),
    ("quadratic_roots", {"a": 1, "b": -3, "c": 2}, [2.0, 1.0]),
    ("quadratic_roots", {"a": 1, "b": 2, "c": 5},
     [{"real": -1.0, "imaginary": 2.0}, {"real": -1.0, "imaginary": -2.0}]),
    ("calculate_mean", {"numbers": [1, 2]}, 1.5),
    ("calculate_standard_deviation", {"numbers": [2, 4, 4, 4, 5, 5, 7, 9]}, 2.0),
    ("linear_regression", {"x": [1, 2, 3], "y": [2, 4, 6], "point": 10}, 20.0),
    ("sort_array", {"array": [3, 1, 2]}, [1, 2, 3]),
    ("sort_array", {"array": [3, 1, 2], "reverse": True}, [3, 2, 1]),
    ("mat_mul", {"matA": [[1, 2]], "matB": [[3], [4]]}, [[11]]),
    ("calculate_cosine_similarity", {"vectorA": [3, 4], "vectorB": [3, 4]}, 1.0),
    ("add_binary_numbers", {"a": "101", "b": "11"}, "1000"),
    ("get_distance", {"pointA": [0, 0], "pointB": [3, 4]}, 5.0),
    ("calculate_triangle_area", {"base": 3, "height": 4}, 6.0),
    ("geometry_area_circle", {"radius": 2}, 12.566370614359172),
    ("polygon_area", {"vertices": [[0, 0], [2, 0], [2, 3], [0, 3]]}, 6.0),
    ("maxPoints", {"points": [[0, 0], [1, 1], [2, 2], [0, 5], [0, 7]]}, 3),
    ("maxPoints", {"points": [[0, 0]]}, 1),
    ("calculate_displacement", {"initial_velocity": 2, "acceleration": 4, "time": 3}, 24.0),
    ("calculate_final_velocity", {"initial_velocity": 2, "acceleration": 4, "time": 3}, 14),
    ("calculate_electrostatic_potential_energy", {"charge": 2, "voltage": 3}, 6),
    ("calculate_density", {"mass": 3, "volume": 2}, 1.5),
    ("calculate_future_value", {"present_value": 100, "interest_rate": 0.5, "periods": 2}, 225.0),
    ("mortgage_calculator", {"loan_amount": 1200, "interest_rate": 12, "loan_period": 1}, 1200 * 4096 / 4095),
    ("order_food", {"item": ["a", "b"], "quantity": [2, 1], "price": [1.5, 4]}, 7.0),
]  # fmt: skip


@pytest.mark.parametrize("name, arguments, wanted", RESULTS)
def test_a_function(name, arguments, wanted):
    result = run(name, [], arguments)
    assert result == wanted and type(result) is type(wanted)


def test_the_value_of_an_investment():
    worth = {"initial_investment": 1000, "annual_contribution": 100, "years": 2, "annual_return": 0.5}
    deflated = run("calculate_investment_value", [], worth | {"inflation_rate": [0.25, 0.5]})
    assert deflated == 1000 * 1.25 + 75 + 50
    plain = worth | {"inflation_rate": [], "adjust_for_inflation": False}
    assert run("calculate_investment_value", [], plain) == (1000 * 1.5 + 100) * 1.5 + 100


def test_nutritional_needs():
    person = {"weight": 70, "height": 175, "age": 30, "gender": "female", "activity_level": 1, "goal": "gain"}
    needs = run("calculate_nutritional_needs", [], person)
    calories = (447.593 + 9.247 * 70 + 3.098 * 175 - 4.330 * 30) * 1.2 + 500
    assert [*needs] == ["calories", "proteins_g", "fats_g", "carbohydrates_g"]
    assert needs["calories"] == pytest.approx(calories)
    in_grams = needs["proteins_g"] * 4 + needs["fats_g"] * 9 + needs["carbohydrates_g"] * 4
    assert in_grams == pytest.approx(calories)


def test_booking_a_room():
    room = {"room_type": "double", "price": 100, "customer_id": "c"}
    room |= {"check_in_date": "a", "check_out_date": "b"}
    booked = {"customer_id": "c", "room_number": "double", "check_in_date": "a", "check_out_date": "b"}
    assert run("book_room", [], room) == booked | {"total_price": 100}
    assert run("book_room", [], room | {"discount_code": "DISCOUNT10"})["total_price"] == 90.0


def test_the_results_of_the_published_functions():
    path = PUBLISHED / "unused_datasets/computed_results/exec_python_results.jsonl"
    if not path.exists():
        pytest.skip(f"no published results in {path.parent}")
    pure = 0
    for row in map(json.loads, path.read_text("utf-8").splitlines()):
        for i, text in enumerate(row["ground_truth"]):
            name, positional, keywords = parse_call(text)
            assert (name in WEB) is row["needs_network"][i]
            if name not in WEB:
                pure += 1
                result, wanted = run(name, positional, keywords), row["computed_result"][i]
                assert json.dumps(result) == json.dumps(wanted), text  # to the last bit
    assert pure == 94


# ---- what a model may ask for ----

RAISING = [
    "lambda x: y",
    "lambda x: open(x)",
    "lambda x: x.real",
    "lambda x: 'a' * x",
    "lambda x: 9**9**9**x",
    "lambda x: " + "*".join(["9**3000"] * 400),
    "lambda x: x/0",
    "lambda x: math.factorial(x)",
    "lambda x: [x]",
]


@pytest.mark.parametrize("text", RAISING)
def test_a_lambda_that_raises(text):
    begun = time.monotonic()
    with pytest.raises((ValueError, TypeError, ArithmeticError)):
        run("estimate_derivative", [], {"function": text, "x": 3})
    assert time.monotonic() - begun < 5


ENDLESS = [
    ("math_factorial", {"n": 10**9}),
    ("get_fibonacci_sequence", {"n": 10**9}),
    ("calculate_future_value", {"present_value": 1, "interest_rate": 9, "periods": 10**9}),
    ("calculate_triangle_area", {"base": "a" * 100, "height": 10**9}),
    ("get_prime_factors", {"number": 10**30 + 57}),
    ("order_food", {"item": ["a"], "quantity": [["x"]], "price": [10**9]}),
    ("math_gcd", {"a": 1}),
    ("open", {}),
]


@pytest.mark.parametrize("name, arguments", ENDLESS)
def test_a_call_that_would_never_end_raises(name, arguments):
    with pytest.raises((ValueError, TypeError, OverflowError)):
        run(name, [], arguments)
