"""What the settings of webhooks allow: hosts, addresses and secrets."""

from __future__ import annotations

import os
import time

import pytest

from db.approvals import webhooks
from db.errors import InvalidInput
from db.pool import Connection, Database
from tests.worker.approvals.listening import (
    HOSTS,
    SECRET,
    Listener,
    ask,
    client,
    signed_by,
)
from tests.worker.approvals.listening import listener as listener
from worker.approvals.webhook_signature import is_signed, new_secret, signature
from worker.approvals.webhooks import check_url, deliver
from worker.settings import Settings, SettingsError, load_settings


def test_the_signature_is_that_of_the_specifications_example() -> None:
    """The example of the reference libraries: same secret, id, time and body."""
    made = signature(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_while_the_secret_changes_both_signatures_are_sent(
    database: Database, conn: Connection, listener: Listener
) -> None:
    new = new_secret()
    await webhooks.add(conn, listener.url)
    await ask(conn)
    async with client() as http:
        await deliver(database, http, secret=f"{new},{SECRET}", hosts=HOSTS)
    [request] = listener.requests
    assert signed_by(request, new)
    assert signed_by(request, SECRET)
    for listens_with in (new, SECRET, f"{new_secret()},{SECRET}"):
        assert is_signed(listens_with, request.headers, request.body)
    assert not is_signed(new_secret(), request.headers, request.body)
    assert not is_signed(new, request.headers, request.body + b" ")
    for wrong in ("0", "", "-1", "²", "9" * 30, str(int(time.time()) - 400)):
        assert not is_signed(new, {**request.headers, "webhook-timestamp": wrong}, request.body)
    garbage = {**request.headers, "webhook-signature": "v1 v1, \udcff é"}
    assert not is_signed(new, garbage, request.body)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://bridge.example.org/x", None),
        ("https://BRIDGE.example.org:8443/x", None),
        ("http://127.0.0.1:80/x", None),
        ("http://[::1]/x", None),
        ("https://only.example.org:8443/x", None),
        ("https://only.example.org/x", "only.example.org:443 is not among the hosts"),
        ("http://[::1]:8480/x", None),
        ("https://[fe80::1]:80/x", None),
        ("https://[fe80::1]/x", "fe80::1]:443 is not among"),
        ("http://bridge.example.org/x", "not encrypted"),
        ("https://bridge.example.org\\@evil.org/", "must not contain a user"),
        ("https://bridge.example.org\u3002evil.org/", "not among the hosts"),
        ("https://bridge.example.org./", "not among the hosts"),
        ("https://b\u00fccher.example.org/", "not among the hosts"),
        ("https://2130706433/", "not among the hosts"),
        ("https://evil.example.org/x", "not among the hosts"),
        ("https://bridge.example.org.evil.org/", "not among the hosts"),
        ("https://bridge.example.org@evil.org/", "must not contain a user"),
        ("https://evil.org#@bridge.example.org/", "not among the hosts"),
        ("ftp://bridge.example.org/", "not a web address"),
        ("bridge.example.org", "not a web address"),
        ("https:///x", "not a web address"),
        ("https://[::1/x", "not a URL"),
        ("https://bridge.example.org:99999/", "not a URL"),
    ],
)
def test_only_what_is_allowed_and_encrypted_is_an_address(url: str, reason: str | None) -> None:
    hosts = ("bridge.example.org", "only.example.org:8443", "127.0.0.1", "::1", "[fe80::1]:80")
    if reason is None:
        check_url(url, hosts)
    else:
        with pytest.raises(InvalidInput, match=reason):
            check_url(url, hosts)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("JOBSWORTH_WEBHOOK_SECRET", "topsecret"),
        ("JOBSWORTH_WEBHOOK_SECRET", "whsec_dG9wc2VjcmV0"),
        ("JOBSWORTH_WEBHOOK_SECRET", f"{SECRET},topsecret"),
        ("JOBSWORTH_WEBHOOK_SECRET", f"{SECRET},{SECRET},{SECRET}"),
        ("JOBSWORTH_WEBHOOK_HOSTS", "https://example.org"),
        ("JOBSWORTH_WEBHOOK_HOSTS", "example.org:port"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: str
) -> None:
    for name in [name for name in os.environ if name.startswith("JOBSWORTH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(setting, value)
    with pytest.raises(SettingsError, match=setting) as refused:
        load_settings()
    assert "topsecret" not in str(refused.value)
    assert "dG9w" not in str(refused.value)


def test_the_secret_is_not_shown() -> None:
    settings = Settings.model_validate({"webhook_secret": SECRET})
    assert SECRET not in repr(settings)
