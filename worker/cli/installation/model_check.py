"""What `jobsworth doctor` says of the model that the operator chose.

In: settings. Out: a finding. Invariant: nothing is sent, and no provider's SDK is loaded.
"""

from db.errors import InvalidInput
from worker.cli.installation.finding import Finding, failed, ok
from worker.llm.choice import ModelChoice
from worker.settings import Settings


def check_model(settings: Settings) -> Finding:
    """Whether jobs can use the model, as far as can be known without asking it."""
    key = settings.model_key.get_secret_value() if settings.model_key else None
    choice = ModelChoice(settings.model, settings.model_url, key)
    if choice.offline:
        return ok("model", "offline rules: they quote earlier messages, and cost nothing")
    try:
        choice.check()
    except InvalidInput as error:
        return failed("model", error)
    where = f", at {settings.model_url}" if settings.model_url else ""
    return ok("model", f"{settings.model}{where}; not asked")
