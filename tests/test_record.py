"""record.py: which observations report an error. Dialogues are tested with the rows of their sources."""

import pytest

from sources.record import is_error, raised


@pytest.mark.parametrize(
    "text, error",
    (
        ("rain", False),
        ('{"error": "", "response": "fine"}', False),
        ('{"error": null}', False),
        ('{"errors_found": 0, "text": "no error"}', False),
        ("There was no error.", False),
        ('{"error": "Message error...", "response": ""}', True),
        ('{"error": {"code": 5}}', True),
        ('{"error": "Timeout error...HTTPConnectionPool(', True),
        ('[{"name": "f", "results": {"error": "no"}}]', True),
        ('{"error": "", "response": {"error": "no"}}', True),
        ('{"response": "Error: no"}', True),
        ("Error: no such city", True),
        ("ValueError: no such city", True),
        ("Traceback (most recent call last)\n  x\nKeyError: 'y'\nmore", True),
        ('{"note": "Exception"}', False),
        ("[" * 10_000 + '"error"', False),
        ("0.5\nPolynomialDivisionFailed: couldn't reduce degree", True),
    ),
)
def test_is_error(text, error):
    assert is_error(text) == error


def test_raised():
    assert (
        raised("----\nNameError  Traceback (most recent call last) Cell\n      5 x\n NameError: name 'x'")
        == "NameError"
    )
    assert raised("1\nzlib.error: x") is None and raised("sympy.SympifyError: x") == "SympifyError"
    assert (
        raised("The ValueError: x") is None
        and raised("") is None
        and raised("KeyboardInterrupt") == "KeyboardInterrupt"
    )
