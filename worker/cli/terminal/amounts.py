"""Amounts as they are written on the command line: one notation, whatever the locale.

In: a text. Out: an exact number, or `InvalidInput`. A comma is refused: `0,50` is a half in one
country, and read as fifty in another.
"""

import re
from decimal import Decimal

from db.errors import InvalidInput

_AMOUNT = re.compile(r"[0-9]{1,15}(?:_[0-9]{1,15}){0,5}(?:\.[0-9]{1,15})?")


def read_amount(text: str, thing: str, unit: str) -> Decimal:
    """The amount that a text says. Raises `InvalidInput` naming `thing`, and its `unit`."""
    if _AMOUNT.fullmatch(text):
        return Decimal(text)
    if "," in text:
        reason = "has a comma: write decimals with a point"
        remedy = "like 0.50; in large numbers _ may separate thousands, like 90_000"
    else:
        reason, remedy = "is not an amount", f"give {unit}, like 5 or 0.25"
    raise InvalidInput(f"{thing} {text!r} {reason}", remedy)


def read_count(text: str, thing: str, unit: str) -> Decimal:
    """The whole number that a text says. Raises `InvalidInput` naming `thing`."""
    amount = read_amount(text, thing, unit)
    if amount != amount.to_integral_value():
        raise InvalidInput(f"{thing} {text!r} is not a whole number", f"give {unit}, like 90_000")
    return amount
