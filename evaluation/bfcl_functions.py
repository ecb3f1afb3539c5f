"""The functions of BFCL's executable questions, for the checks to run calls with.

    run("math_gcd", [], {"a": 12, "b": 18})  # 6

Results are compared by plain equality, so the order of operations matters, down to the last bit of a float.
Names, arguments and conventions are those that the questions were written for. Calls come from models: one
that would run for ever raises.
"""

import inspect
import math
from collections import Counter
from typing import Any

from evaluation.bfcl_source import parse_lambda, power

# ---- the functions ----

COUNT = 10_000  # of steps: far beyond the questions, and soon done
LARGEST = 10**12


def total(values: list[float]) -> float:
    """Added from left to right; Python 3.12's `sum` rounds floats in another way."""
    result = 0
    for value in values:
        result = result + value
    return result


def counted(n: int) -> int:
    """A number of steps. Raises ValueError when there are too many."""
    if n > COUNT:
        raise ValueError(f"got {n}, wanted at most {COUNT} steps")
    return n


def math_factorial(n):
    return math.prod(range(1, counted(n) + 1))  # 1 for a negative n


def calculate_permutations(n, k):
    return math_factorial(n) / math_factorial(n - k)


def calc_binomial_probability(n, k, p):
    ways = math_factorial(n) / (math_factorial(k) * math_factorial(n - k))
    return ways * (power(p, k) * power(1 - p, n - k))


def math_gcd(a, b):
    while b != 0:
        a, b = b, a % b
    return a


def math_lcm(a, b):
    return a * b / math_gcd(a, b)  # a float


def get_prime_factors(number):
    """With multiplicity, the smallest first."""
    factors, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors + [number] * (number > 1)


def get_fibonacci_sequence(n):
    """0, 1, 1, 2 ...: n numbers, and never fewer than two."""
    sequence = [0, 1]
    for _ in range(2, counted(n)):
        sequence.append(sequence[-2] + sequence[-1])
    return sequence


def get_fibonacci_number(n):
    """The first is 0."""
    if n < 1:
        raise ValueError(f"got {n}, wanted 1 or more")
    return get_fibonacci_sequence(n)[n - 1]


def quadratic_roots(a, b, c):
    """The root with the plus sign first; complex ones as {"real", "imaginary"}."""
    discriminant = b**2 - 4 * a * c
    if discriminant >= 0:
        return [(-b + discriminant**0.5) / (2 * a), (-b - discriminant**0.5) / (2 * a)]
    real, imaginary = -b / (2 * a), abs(discriminant) ** 0.5 / (2 * a)
    return [{"real": real, "imaginary": imaginary}, {"real": real, "imaginary": -imaginary}]


def estimate_derivative(function, x):
    """Forward difference of a lambda given as text."""
    f, h = parse_lambda(function), 1e-10
    return (f(x + h) - f(x)) / h


def calculate_mean(numbers):
    return total(numbers) / len(numbers)


def calculate_standard_deviation(numbers):
    """Of a whole population."""
    mean = calculate_mean(numbers)
    return (total([(number - mean) ** 2 for number in numbers]) / len(numbers)) ** 0.5


def linear_regression(x, y, point):
    """The least-squares line at `point`."""
    n, sum_x, sum_y = len(x), total(x), total(y)
    products, squares = total([x[i] * y[i] for i in range(n)]), total([value**2 for value in x])
    slope = (n * products - sum_x * sum_y) / (n * squares - sum_x**2)
    return slope * point + (sum_y - slope * sum_x) / n


def sort_array(array, reverse=False):
    return sorted(array, reverse=reverse)


def mat_mul(matA, matB):
    rows, columns, inner = range(len(matA)), range(len(matB[0])), range(len(matB))
    return [[total([matA[i][k] * matB[k][j] for k in inner]) for j in columns] for i in rows]


def calculate_cosine_similarity(vectorA, vectorB):
    dot = total([vectorA[i] * vectorB[i] for i in range(len(vectorA))])
    lengths = [total([value**2 for value in vector]) ** 0.5 for vector in (vectorA, vectorB)]
    return dot / (lengths[0] * lengths[1])


def add_binary_numbers(a, b):
    return f"{int(a, 2) + int(b, 2):b}"


def get_distance(pointA, pointB):
    return ((pointA[0] - pointB[0]) ** 2 + (pointA[1] - pointB[1]) ** 2) ** 0.5


def calculate_triangle_area(base, height):
    return base * height / 2


def geometry_area_circle(radius):
    return math.pi * radius**2


def polygon_area(vertices):
    """The shoelace rule."""
    if len(vertices) < 3:
        raise ValueError(f"got {len(vertices)} vertices, wanted 3 or more")
    following = [*vertices[1:], vertices[0]]
    return abs(total([a[0] * b[1] - b[0] * a[1] for a, b in zip(vertices, following, strict=True)])) / 2.0


def maxPoints(points):
    """How many of the points lie on one line, at most."""
    most = 1
    for i, start in enumerate(points):
        slopes = Counter()
        for end in points[i + 1 :]:
            across, up = end[0] - start[0], end[1] - start[1]
            slopes[up / across if across else "vertical"] += 1
        most = max(most, 1 + max(slopes.values(), default=0))
    return most


def calculate_displacement(initial_velocity, acceleration, time):
    return initial_velocity * time + 0.5 * acceleration * time**2


def calculate_final_velocity(initial_velocity, acceleration, time):
    return initial_velocity + acceleration * time


def calculate_electrostatic_potential_energy(charge, voltage):
    return charge * voltage


def calculate_density(mass, volume):
    return mass / volume


def calculate_future_value(present_value, interest_rate, periods):
    return present_value * power(1 + interest_rate, periods)


def mortgage_calculator(loan_amount, interest_rate, loan_period):
    """Paid each month for `loan_period` years at a yearly rate."""
    rate = interest_rate / 12
    growth = (1 + rate) ** (loan_period * 12)
    return loan_amount * rate * growth / (growth - 1)


def calculate_investment_value(
    initial_investment, annual_contribution, years, annual_return, inflation_rate, adjust_for_inflation=True
):
    """`inflation_rate`: one for each year."""
    value = initial_investment
    for year in range(counted(years)):
        if adjust_for_inflation:
            inflation = inflation_rate[year]
            value = value * (1 + annual_return - inflation) + annual_contribution * (1 - inflation)
        else:
            value = value * (1 + annual_return) + annual_contribution
    return value


def calculate_nutritional_needs(weight, height, age, gender, activity_level, goal):
    """Revised Harris-Benedict; activity_level 1 to 5; goal lose, gain or maintain."""
    if gender == "male":
        basal = 88.362 + 13.397 * weight + 4.799 * height - 5.677 * age
    else:
        basal = 447.593 + 9.247 * weight + 3.098 * height - 4.330 * age
    calories = basal * [1.2, 1.375, 1.55, 1.725, 1.9][activity_level - 1]
    calories = calories + {"lose": -500, "gain": 500}.get(goal, 0)
    return {
        "calories": calories,
        "proteins_g": calories * 0.30 / 4,
        "fats_g": calories * 0.25 / 9,
        "carbohydrates_g": calories * 0.45 / 4,
    }


def book_room(room_type, price, check_in_date, check_out_date, customer_id, discount_code=None):
    return {
        "customer_id": customer_id,
        "room_number": room_type,
        "check_in_date": check_in_date,
        "check_out_date": check_out_date,
        "total_price": price * 0.9 if discount_code == "DISCOUNT10" else price,
    }


def order_food(item, quantity, price):
    return total([quantity[i] * price[i] for i in range(len(item))])


PURE = (
    math_factorial, calculate_permutations, calc_binomial_probability, math_gcd, math_lcm, get_prime_factors,
    get_fibonacci_sequence, get_fibonacci_number, quadratic_roots, estimate_derivative, calculate_mean,
    calculate_standard_deviation, linear_regression, sort_array, mat_mul, calculate_cosine_similarity,
    add_binary_numbers, get_distance, calculate_triangle_area, geometry_area_circle, polygon_area, maxPoints,
    calculate_displacement, calculate_final_velocity, calculate_electrostatic_potential_energy,
    calculate_density, calculate_future_value, mortgage_calculator, calculate_investment_value,
    calculate_nutritional_needs, book_room, order_food,
)  # fmt: skip
FUNCTIONS = {function.__name__: function for function in PURE}

# Arguments that may be something else than numbers and lists of numbers.
TEXTS = {
    "estimate_derivative": ["function"],
    "add_binary_numbers": ["a", "b"],
    "sort_array": ["array"],
    "order_food": ["item"],
    "calculate_nutritional_needs": ["gender", "goal"],
    "book_room": ["room_type", "check_in_date", "check_out_date", "customer_id", "discount_code"],
}

# Functions that ask a web service: weather, places, money, films, shops, ... Their questions are not run.
WEB = {
    "get_weather_data", "get_coordinates_from_city", "convert_currency", "find_term_on_urban_dictionary",
    "get_coordinate_by_ip_address", "get_zipcode_by_ip_address", "get_covid_death_by_country",
    "get_active_covid_case_by_country", "get_rating_by_amazon_ASIN", "get_price_by_amazon_ASIN",
    "get_product_name_by_amazon_ASIN", "get_company_name_by_stock_name", "get_stock_price_by_stock_name",
    "get_stock_history", "retrieve_city_based_on_zipcode", "retrieve_holiday_by_year",
    "get_time_zone_by_coord", "get_movie_rating", "get_movie_director", "get_director_by_movie_name",
    "get_movie_genre", "requests.get",
}  # fmt: skip


def run(name: str, positional: list, keywords: dict) -> Any:
    """The result of a call; a tuple as a list. Raises whatever is wrong with it."""
    if name not in FUNCTIONS:
        raise ValueError(f"{name} is not here")
    arguments = inspect.signature(FUNCTIONS[name]).bind(*positional, **keywords).arguments
    for argument, value in arguments.items():
        if argument not in TEXTS.get(name, ()):
            _check_numbers(value, argument)
    result = FUNCTIONS[name](**arguments)
    return list(result) if isinstance(result, tuple) else result


def _check_numbers(value: Any, argument: str) -> None:
    """Text where a number belongs would never be right, but may run for ever: "a" * 10**9."""
    if isinstance(value, list | tuple):
        for item in value:
            _check_numbers(item, argument)
        return
    too_large = isinstance(value, int) and abs(value) > LARGEST
    if too_large or not isinstance(value, int | float):
        raise ValueError(f"{argument}: got {value!r:.60}, wanted numbers, integers up to {LARGEST}")
