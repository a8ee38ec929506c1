"""What `doctor` says of the model that the operator chose.

In: settings. Out: what there is to say, as the doctor marks it. Invariant: nothing is sent, and no
provider's SDK is loaded.
"""

from typing import Literal

from db.errors import InvalidInput
from worker.llm.choice import ModelChoice
from worker.settings import Settings


def check_model(settings: Settings) -> tuple[Literal["ok", "problem"], str, str, str]:
    """Mark, subject, text and remedy: whether jobs can use the model, as far as can be known."""
    key = settings.model_key.get_secret_value() if settings.model_key else None
    choice = ModelChoice(settings.model, settings.model_url, key)
    if choice.offline:
        text = "offline rules: they quote what was said, make nothing up, and cost nothing"
        return ("ok", "model", text, "")
    try:
        choice.check()
    except InvalidInput as error:
        return ("problem", "model", error.message, error.remedy)
    where = f", at {settings.model_url}" if settings.model_url else ""
    return ("ok", "model", f"{settings.model}{where}; not asked", "")
