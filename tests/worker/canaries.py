"""One secret of each shape, as a provider, a driver or a library would say it."""

from __future__ import annotations

import os

# By shape: the secret, and how it is said.
CANARIES = {
    "groq": ("gsk_7canary0123456789ABCDEFGHIJ", "Incorrect API key provided: {}."),
    "together": ("tgp_v1_7canary0123456789ABCDEF", "no such key {}"),
    "xai": ("xai-7canary0123456789ABCDEFGHIJ", "key={}"),
    "google": ("AIzaSyA7canary0123456789ABCDEFGHIJKLMN", "API key not valid: {}"),
    "hugging face": ("hf_7canary0123456789ABCDEFGH", "Invalid token ({})"),
    "openai": ("sk-proj-7canary0123456789ABCDEF", '{{"error": "{}"}}'),
    "anthropic": ("sk-ant-api03-7canary0123456789AB", "x-api-key: {}"),
    "jwt": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI3Y2FuYXJ5In0.c2lnN2NhbmFyeQ", "expired: {}"),
    "webhook": ("whsec_N2NhbmFyeTAxMjM0NTY3ODlhYmM=", "signed with {}"),
    "bearer": ("opaque7canary.of-no_shape~1", "Authorization: Bearer {}"),
    "header": ("opaque8canary-of-no-shape", "{{'x-api-key': '{}'}}"),
    "cookie": ("session=9canary-of-no-shape", "Cookie: {}"),
    "url": ("pass7canary", "postgresql://me:{}@host/db"),
    "url with a slash": ("pa/ss7canary", "redis://me:{}@host:6379/0"),
    "url encoded": ("p%40ss%2F7canary", "amqp://me:{}@host/v"),
    "token in a url": ("tok7canary0123", "https://{}@host/a.git"),
    "query": ("qu3ry7canary-of-no-shape", "https://host/v1?api_key={}&n=1"),
    "conninfo": ("c0nn7canary", "host=x password={} user=y"),
    "telegram": ("123456789:AAF7canary0123456789abcdefghijABC", "https://api.telegram.org/bot{}/x"),
    "member": ("m3mber7canary-of-no-shape", '{{"password": "{}"}}'),
}
# Of the worker's own settings and environment: they have no looks.
OWN = {
    "JOBSWORTH_MODEL_KEY": "model-11canary-of-no-shape",
    "JOBSWORTH_EMBEDDER_KEY": "embedder-12canary-of-no-shape",
    "JOBSWORTH_WEBHOOK_SECRET": "whsec_" + "MTNjYW5hcnk" * 4,
    "STRIPE_SECRET_KEY": "stripe 14canary of no shape",
}
PASSWORD = "own/15canary%40:x"


def said() -> str:
    """Everything, with what the environment holds."""
    told = [words.format(secret) for secret, words in CANARIES.values()]
    own = [os.environ.get(name, "") for name in OWN]
    return "; ".join([*told, *own, os.environ.get("JOBSWORTH_DATABASE_URL", "")])
