"""Amounts of money.

In: a decimal number, given as an amount of US dollars. Out: the same number, or `InvalidInput`.
Invariant: only finite numbers enter the books; None is an unknown amount.
"""

from decimal import Decimal

from db.errors import InvalidInput, shown

AMOUNT_MAX = Decimal(10) ** 12


def checked_amount(value: object, thing: str = "cost") -> Decimal | None:
    """`value`, if it is an amount of money or None. Raises `InvalidInput` naming `thing`.

    A float is refused: 0.1 is no amount of money, but a number beside it.
    """
    if not isinstance(value, Decimal | int | None) or isinstance(value, bool):
        raise InvalidInput(
            f"the {thing} {shown(value)} is a {type(value).__name__}, not an amount of money",
            "give a Decimal, as Decimal('0.01')",
        )
    if isinstance(value, int):
        value = Decimal(value)
    if value is not None and not (value.is_finite() and abs(value) < AMOUNT_MAX):
        raise InvalidInput(f"the {thing} {value} is not an amount of money", "give a finite number")
    return value
