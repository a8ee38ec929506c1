"""What `jobsworth doctor` says of the model and the embedder that the operator chose.

In: settings. Out: findings. Invariant: nothing is sent, and no provider's SDK is loaded.
"""

from db.errors import InvalidInput
from worker.cli.installation.finding import Finding, failed, ok
from worker.llm.choice import ModelChoice
from worker.memory.choice import require_embedder
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


def check_embedder(settings: Settings) -> list[Finding]:
    """A finding if the embedder needs what is not installed."""
    try:
        require_embedder(settings)
    except InvalidInput as error:
        return [failed("embedder", error)]
    return []
