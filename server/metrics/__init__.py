"""All metric names of Cueline, in one place. Labels come from small closed sets, never from call ids or words.

Source: OPERATIONS d5.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from server.wire.clock import STAGES

_MS = (0.5, 1, 2.5, 5, 10, 25, 50, 75, 100, 150, 200, 300, 400, 500, 750, 1000, 1250, 1500, 2000, 3000, 5000)
LATENCY_BUCKETS_S = tuple(ms / 1000 for ms in _MS)
"""OPERATIONS d5's buckets, with finer ones below 5 ms: most of our own stages end there."""


class Metrics:
    """One registry with everything this process counts. Created once by the composition root and handed in.

    Attributes:
        registry: What `/metrics` prints.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...] = LATENCY_BUCKETS_S) -> Histogram:
            return Histogram(name, text, labels, registry=registry, buckets=buckets)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        # the way of an utterance
        self.stage_duration = histogram("cueline_stage_duration_seconds", "Time in one stage.", "stage")
        self.e2e = histogram("cueline_e2e_seconds", "End of speech to published.", "kind")
        self.asr_final_lag = histogram("cueline_asr_final_lag_seconds", "End of speech to final transcript.")
        self.time_to_first_annotation = histogram(
            "cueline_time_to_first_annotation_seconds", "Transcript published to its first annotation."
        )
        # the engine
        self.queue_delay = histogram("cueline_queue_delay_seconds", "Time a row waited for its batch.", "row_class")
        self.graph_node_duration = histogram(
            "cueline_graph_node_duration_seconds", "Time in one graph node.", "node", "outcome"
        )
        self.batch_rows = histogram(
            "cueline_batch_rows", "Rows of a batch.", "model", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
        )
        self.batch_padding_ratio = histogram(
            "cueline_batch_padding_ratio", "Padding share of a batch.", "model", buckets=(0, 0.05, 0.1, 0.2, 0.4, 0.8)
        )
        self.dropped = counter("cueline_dropped_total", "Rows that never reached a model, by reason.", "reason")
        self.reused = counter("cueline_reused_total", "Rows answered without a model pass of their own.", "reason")
        # model versions; their states are collected by `server.metrics.models`
        self.model_changes = counter("cueline_model_changes_total", "What happened to versions.", "model", "change")
        self.shadow_rows = counter(
            "cueline_shadow_rows_total", "Rows that a version in shadow was asked too.", "model", "output", "result"
        )
        # speech and ingest
        self.gap_seconds = counter("cueline_gap_seconds_total", "Audio without transcript.", "state")
        self.asr_reconnects = counter("cueline_asr_reconnects_total", "Recogniser streams opened again.", "cause")
        self.asr_replayed = counter("cueline_asr_replayed_seconds_total", "Audio sent to a recogniser once more.")
        self.asr_unsettled = gauge("cueline_asr_unsettled_seconds", "Audio kept because it is not recognised yet.")
        self.asr_second_pass = counter(
            "cueline_asr_second_pass_total", "Finals shown to the stronger recogniser.", "result"
        )
        self.ingest_errors = counter("cueline_ingest_errors_total", "Refused ingest messages.", "source", "code")
        self.ingest_sources = gauge("cueline_ingest_sources", "Sources in progress.", "source")
        self.relay_moves = counter("cueline_relay_moves_total", "Telephony sources taken to a call's next owner.")
        self.live_calls = gauge("cueline_live_calls", "Calls in progress.")
        self.unattended_calls = gauge("cueline_unattended_calls", "Live calls whose agent is at no screen.")
        self.live_streams = gauge("cueline_live_streams", "Audio channels in progress.")
        # Amazon Connect's consumer
        self.kvs_behind = histogram("cueline_kvs_behind_seconds", "Fragment behind the newest of its stream.")
        self.kvs_contacts = gauge("cueline_kvs_contacts", "Contacts being read.")
        self.kvs_reconnects = counter("cueline_kvs_reconnects_total", "Broken readings of a contact.", "cause")
        self.kvs_filled_seconds = counter("cueline_kvs_filled_seconds_total", "Silence where a stream has nothing.")
        self.kvs_late_seconds = counter("cueline_kvs_late_seconds_total", "Audio given up: its place was filled.")
        # feed
        self.feed_deliver = histogram("cueline_feed_deliver_seconds", "Published to socket write.")
        self.feed_sockets = gauge("cueline_feed_sockets", "Open feed sockets.")
        self.feed_recoveries = counter("cueline_feed_recoveries_total", "Subscriptions with a position.", "result")
        self.feed_dropped = counter("cueline_feed_dropped_total", "Interims dropped for slow readers.", "reason")
        self.feed_closed = counter("cueline_feed_closed_total", "Sockets we closed.", "code")
        self.receipts = counter("cueline_receipts_total", "What agents did with actions.", "ev")
        # durable side
        self.outbox_records = gauge("cueline_outbox_records", "Records waiting for the store.")
        # guidance
        self.actions = counter("cueline_actions_total", "Actions published.", "type", "state")
        self.policy_refusals = counter("cueline_policy_refusals_total", "Changed policy files that are wrong.")
        self.shed = counter("cueline_shed_total", "Work given up on purpose.", "what")
        # knowledge assist
        self.knowledge_card = histogram(
            "cueline_knowledge_card_seconds", "Question known to its card, by step of the card.", "stage"
        )
        self.knowledge_questions = counter("cueline_knowledge_questions_total", "Questions, by outcome.", "outcome")
        self.knowledge_speculation = counter(
            "cueline_knowledge_speculation_total",
            "Searches begun on interims: their final had the same words (hit), others (changed), or was no question "
            "(cancelled); and questions whose interims told nothing (none).",
            "result",
        )
        self.knowledge_sentences = counter(
            "cueline_knowledge_sentences_total", "Written sentences, by whether a passage supports them.", "result"
        )
        # text generation
        self.llm_first_token = histogram("cueline_llm_first_token_seconds", "Request to first token.")
        self.llm_requests = counter("cueline_llm_requests_total", "Requests for text, by how they ended.", "outcome")
        self.llm_hedges = counter("cueline_llm_hedges_total", "Second requests for text.")
        self.llm_tokens = counter("cueline_llm_tokens_total", "Tokens as the endpoint counts them.", "kind")
        self.llm_cost = counter("cueline_llm_cost_dollars_total", "Tokens at the configured prices.")
        self.loop_lag = histogram("cueline_event_loop_lag_seconds", "How late the event loop woke up.")
        # Every stage is visible from the first scrape; looking its histogram up would cost as much as observing.
        self._stages = {stage: self.stage_duration.labels(stage) for stage in STAGES}

    def observe_stages(self, durations_ms: Mapping[str, float]) -> None:
        """Count how long an utterance took in some of its stages."""
        for stage, duration_ms in durations_ms.items():
            self._stages[stage].observe(duration_ms / 1000)

    def render(self) -> bytes:
        """The Prometheus text exposition."""
        return generate_latest(self.registry)
