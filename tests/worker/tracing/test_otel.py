"""Traces and metrics: what a collector receives of a run, and what becomes of jobs without one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID, uuid4

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from db.errors import InvalidInput
from tests.chaos.scene import Scene
from tests.support import environment, until_sync
from tests.worker.tracing import SECRET
from worker.tracing.start import start

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
HANDLERS = {"JOBSWORTH_HANDLERS": "tests.worker.tracing.handlers"}


class Span:
    """A span as it arrived."""

    def __init__(self, span: Any, worker: str) -> None:
        self.name: str = span.name
        self.trace_id: str = span.trace_id.hex()
        self.id: str = span.span_id.hex()
        self.parent: str = span.parent_span_id.hex()
        self.links = [(link.trace_id.hex(), link.span_id.hex()) for link in span.links]
        self.failed = span.status.code == 2
        self.took = span.end_time_unix_nano - span.start_time_unix_nano
        self.worker = worker
        self.attributes: dict[str, Any] = {
            one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes
        }


class Collector:
    """Receives OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.metrics: dict[str, float] = {}
        self.bodies: list[bytes] = []
        collector = self

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.receive(self.path, body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def receive(self, path: str, body: bytes) -> None:
        self.bodies.append(body)
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                known = {one.key: one.value.string_value for one in resource.resource.attributes}
                assert known["service.name"] == "jobsworth"
                for scope in resource.scope_spans:
                    self.spans += [Span(one, known["service.instance.id"]) for one in scope.spans]
        elif path == "/v1/metrics":
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        total = sum(p.as_int or p.as_double for p in metric.sum.data_points)
                        self.metrics[metric.name] = total

    def named(self, name: str) -> list[Span]:
        return [one for one in self.spans if one.name == name]

    def one(self, name: str) -> Span:
        [span] = self.named(name)
        return span


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def settings(queue: str, url: str, join: str = "parent") -> dict[str, str]:
    return {
        **HANDLERS,
        "JOBSWORTH_QUEUES": queue,
        "JOBSWORTH_TRACES": join,
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
    }


def test_the_tree_of_one_run_across_two_workers(scene: Scene, collector: Collector) -> None:
    scene.start(settings("trace-a", collector.url))
    scene.start(settings("trace-b", collector.url))
    nodes = [
        {
            "node": "fetch",
            "mode": "trace.fetch",
            "queue": "trace-a",
            "payload": {"secret": SECRET},
        },
        {
            "node": "write",
            "mode": "trace.write",
            "queue": "trace-b",
            "payload": {"secret": SECRET},
            "after": ["fetch"],
        },
    ]
    run_id: UUID = scene.value(
        "select jobsworth.start_run(%(nodes)s::jsonb, trace_parent => %(parent)s)",
        {"nodes": json.dumps(nodes), "parent": f"00-{TRACE}-{CALLER}-01"},
    )
    approval = until_sync(lambda: scene.value("select id from jobsworth.approvals"))
    scene.value(
        "select jobsworth.resolve(%(id)s, 'approve', 'Ann', 'test')::text", {"id": approval}
    )
    until_sync(lambda: len(collector.named("attempt trace.write")) == 2, 60, "the last attempt")
    until_sync(lambda: collector.named("attempt trace.follow"), 60, "the follow-up")

    fetched, wrote = collector.one("enqueue trace.fetch"), collector.one("enqueue trace.write")
    first = collector.one("attempt trace.fetch")
    waited, went_on = collector.named("attempt trace.write")
    followed = collector.named("attempt trace.follow")[0]
    above = {
        "enqueue trace.fetch": CALLER,
        "enqueue trace.write": CALLER,
        "attempt trace.fetch": fetched.id,
        "step read": first.id,
        "chat m-1": first.id,
        "enqueue trace.follow": first.id,
        "approval": went_on.id,
        "invoke_agent writer": went_on.id,
    }
    assert {name: collector.one(name).parent for name in above} == above
    assert [one.parent for one in (waited, went_on)] == [wrote.id, wrote.id]
    assert followed.parent == collector.one("enqueue trace.follow").id
    agent = collector.one("invoke_agent writer")
    assert [one.parent for one in collector.named("chat test")] == [agent.id] * 2
    [tool] = collector.named("execute_tool look_up")
    [step] = [one for one in collector.spans if one.id == tool.parent]
    assert step.parent == agent.id
    assert {one.trace_id for one in collector.spans} == {TRACE}
    assert first.worker != went_on.worker

    assert first.attributes["jobsworth.run.id"] == str(run_id)
    assert waited.attributes["jobsworth.waits_for"] == "approval"
    assert not waited.failed
    assert followed.failed
    assert followed.attributes["error.type"] == "ValueError"
    called = collector.one("chat m-1").attributes
    assert called["gen_ai.usage.input_tokens"] == 12
    assert called["jobsworth.call.cost_usd"] == 0.25
    assert collector.one("approval").took > 0
    until_sync(lambda: collector.metrics.get("jobsworth.attempts"), 60, "metrics")
    assert not any(SECRET.encode() in body for body in collector.bodies)


def test_a_linked_attempt_is_a_trace_of_its_own(scene: Scene, collector: Collector) -> None:
    scene.start(settings("trace-a", collector.url, "link"))
    scene.enqueue("trace.fetch", {"secret": SECRET}, queue="trace-a")
    until_sync(lambda: collector.named("attempt trace.fetch"), 60, "the attempt")
    enqueued, attempt = collector.one("enqueue trace.fetch"), collector.one("attempt trace.fetch")
    assert attempt.parent == ""
    assert attempt.links == [(enqueued.trace_id, enqueued.id)]
    assert attempt.trace_id != enqueued.trace_id


def test_a_collector_that_is_away_costs_no_job_and_is_told_once(scene: Scene) -> None:
    daemon = scene.start(
        settings("trace-a", "http://127.0.0.1:9")
        | {"OTEL_BSP_MAX_QUEUE_SIZE": "2", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1"}
    )
    ids = [scene.enqueue("trace.fetch", {"secret": SECRET}, queue="trace-a") for _ in range(5)]
    for job_id in ids:
        scene.until_status(job_id, "done")
    until_sync(lambda: daemon.events("traces.lost"), 60, "a line about it")
    assert len(daemon.events("traces.lost")) == 1
    daemon.terminate()
    assert daemon.wait() == 0


def test_nothing_of_opentelemetry_is_loaded_unless_a_setting_asks_for_it() -> None:
    script = """
import sys
from worker.tracing.start import start
assert start("off", None) is None
print([name for name in sys.modules if name.startswith(("opentelemetry", "google", "requests"))])
sys.modules["opentelemetry.sdk"] = None
try:
    start("parent", None)
except Exception as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(None),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded, refused = done.stdout.splitlines()
    assert loaded == "[]"
    assert "JOBSWORTH_TRACES=parent needs opentelemetry.sdk" in refused
    assert "pip install 'jobsworth[otel]'" in refused


def test_a_protocol_that_is_not_spoken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(InvalidInput, match="OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'"):
        start("parent", uuid4())
