"""The configuration tree. Every default works on a laptop without a server, a key or a network.

Unknown keys are refused; values are checked one by one by their types here and against each other in
`server.config.check`.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from server.wire.ids import ExternalId

PROJECT_ROOT = Path(__file__).resolve().parents[2]
"""Where `graphs/` and `model_repo/` lie beside the packages."""

Positive = Annotated[int, msgspec.Meta(gt=0)]
NotNegative = Annotated[int, msgspec.Meta(ge=0)]
Ratio = Annotated[float, msgspec.Meta(gt=0, le=1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections."""


class AuthSettings(_Section, frozen=True):
    """Who may connect. Without `shared_key` and `jwks`: anonymous mode, loopback only.

    Attributes:
        shared_key: HS256 key for tokens, at least 32 bytes; for development and small installations.
        jwks: The identity provider's key set for RS256 and ES256 tokens: an https address, or a file.
        issuer: What a token's `iss` has to be; empty: any.
        audience: What a token's `aud` has to hold; empty: any. Needed with `jwks`: a provider signs for others, too.
        claims_prefix: Before the claims `tenant`, `agent`, `roles` and `teams`, where the provider wants a namespace.
        metrics_key: Bearer of `/metrics` for a scraper on another machine; empty: this machine only.
        default_tenant: Tenant of the anonymous agent.
        default_agent: Id of the anonymous agent.
        allowed_origins: Origins of web pages that may open sockets besides our own.
    """

    shared_key: str = ""
    jwks: str = ""
    issuer: str = ""
    audience: str = ""
    claims_prefix: str = ""
    metrics_key: str = ""
    default_tenant: ExternalId = "car_service"
    default_agent: ExternalId = "agent"
    allowed_origins: tuple[str, ...] = ()

    @property
    def is_anonymous(self) -> bool:
        """No keys: everyone on this machine is the default agent."""
        return not self.shared_key and not self.jwks


class TlsSettings(_Section, frozen=True):
    """Encryption of the port. A renewed certificate is taken up while the server runs.

    Attributes:
        certificate: PEM file with the certificate and its chain; empty: no TLS.
        key: PEM file with its private key.
        client_ca: PEM file with the authorities whose client certificates are asked for and required; empty: none.
    """

    certificate: str = ""
    key: str = ""
    client_ca: str = ""


class DeepgramSettings(_Section, frozen=True):
    """Deepgram's live API, or a server that speaks it. The key comes from the environment alone: `DEEPGRAM_API_KEY`.

    Attributes:
        url: Where it is; `cueline speech-server` prints its own. Without TLS on this machine only.
        model: Model name.
        endpointing_ms: Silence after which it closes an utterance.
        smart_format: Let it write numbers, dates and amounts as people do.
        mip_opt_out: Keep customers' voices out of its training.
        replay_speed: How many times faster than real time it takes audio that is sent again.
    """

    url: str = "wss://api.deepgram.com"
    model: str = "nova-3"
    endpointing_ms: Annotated[int, msgspec.Meta(ge=10, le=5_000)] = 300
    smart_format: bool = True
    mip_opt_out: bool = True
    replay_speed: Annotated[float, msgspec.Meta(gt=1, le=100)] = 1.25


class WhisperSettings(_Section, frozen=True):
    """A Whisper beside the embedded recogniser: better finals, and languages other than English.

    Attributes:
        folder: Of a CTranslate2 Whisper of any size; `make whisper` makes one. Empty: none.
        device: `cpu` or `cuda`.
        compute_type: CTranslate2's; empty: int8 on a CPU, float16 on a GPU.
        workers: Processes; 0: one for every two cores, one on a GPU.
        budget_ms: Longest that a final waits for it; then the fast recogniser's text is final.
    """

    folder: str = ""
    device: Literal["cpu", "cuda"] = "cpu"
    compute_type: str = ""
    workers: NotNegative = 0
    budget_ms: Annotated[int, msgspec.Meta(ge=50, le=30_000)] = 600


class SpeechSettings(_Section, frozen=True):
    """The recogniser, and what is kept for the case that it fails.

    Attributes:
        recogniser: `embedded`, or a vendor: `deepgram`.
        fallback: Who takes over while the vendor does not answer: `embedded`, or `none`.
        workers: Processes that recognise here; 0: one a core.
        endpoint_ms: Silence that ends an utterance; 0: the recogniser's measured default.
        moonshine_folder: Folder of the recogniser's weights; empty: the installed package.
        max_streams: Audio channels at once; more are refused as overloaded.
        ring_s: Audio of one channel kept in memory until it is recognised.
        spool_s: Audio kept encrypted on disk beyond that; older audio is lost, and told so. 0: none.
        whisper: What revises the embedded recogniser's finals.
        deepgram: The vendor.
    """

    recogniser: Literal["embedded", "deepgram"] = "embedded"
    fallback: Literal["embedded", "none"] = "embedded"
    workers: NotNegative = 0
    endpoint_ms: NotNegative = 0
    moonshine_folder: str = ""
    max_streams: Positive = 64
    ring_s: Annotated[float, msgspec.Meta(ge=5, le=300)] = 30.0
    spool_s: Annotated[float, msgspec.Meta(ge=0, le=7_200)] = 600.0
    whisper: WhisperSettings = WhisperSettings()
    deepgram: DeepgramSettings = DeepgramSettings()


class EngineSettings(_Section, frozen=True):
    """The inference engine.

    Attributes:
        backend: Where models run: `onnxruntime` in this process, or `triton` on another machine.
        triton_url: `host:port` of a Triton's gRPC port, `grpcs://host:port` for TLS; for `triton` only.
        triton_timeout_ms: Longest that one batch waits for Triton.
        fallback: Whether models run in this process while Triton does not answer; they are loaded here, too.
        device: `cpu` or `cuda`.
        precision: Which built file of a model version serves; empty: the repository's default.
        workers: Sessions side by side; 0: one a core.
        max_queue_rows: Rows that may wait; more are refused as overloaded.
        max_batch_tokens: Padded tokens of one batch.
        max_wait_ms: Longest a row waits for company; 0 takes what is there.
        final_deadline_ms: A final's annotations are worthless after this.
        interim_deadline_ms: An interim's.
    """

    backend: Literal["onnxruntime", "triton"] = "onnxruntime"
    triton_url: str = ""
    triton_timeout_ms: Positive = 1000
    fallback: bool = True
    device: Literal["cpu", "cuda"] = "cpu"
    precision: str = ""
    workers: NotNegative = 0
    max_queue_rows: Positive = 2048
    max_batch_tokens: Positive = 256
    max_wait_ms: NotNegative = 0
    final_deadline_ms: Positive = 5000
    interim_deadline_ms: Positive = 1000


class ModelSettings(_Section, frozen=True):
    """How new versions of models are taken in while the server runs.

    Attributes:
        rollout: What a new version does first: `direct` answers all calls, `canary` a share of them, `shadow` none.
        shadow_ratio: Share of the rows that a version in shadow is asked as well.
        canary_ratio: Share of the calls that a canary answers.
        poll_s: How often the folder is looked at.
        settle_s: A version is taken once its files are quiet for so long.
        probation_s: A version that took all calls is judged, and the one before kept loaded, for so long.
        trial: Whether a version is first loaded in a process of its own, where a crash hurts nobody.
        max_load_s: Longest that trial and warm-up may take.
        min_rows: Rows of the last minute below which shares say nothing.
        max_failed_ratio: Share of failed rows above which a version is given up.
        max_latency_ratio: Times as long as the one before that a version may take for the same batch.
    """

    rollout: Literal["direct", "canary", "shadow"] = "direct"
    shadow_ratio: Ratio = 0.1
    canary_ratio: Ratio = 0.1
    poll_s: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    settle_s: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    probation_s: Annotated[float, msgspec.Meta(ge=0)] = 600.0
    trial: bool = True
    max_load_s: Annotated[float, msgspec.Meta(gt=0)] = 120.0
    min_rows: Positive = 50
    max_failed_ratio: Ratio = 0.02
    max_latency_ratio: Annotated[float, msgspec.Meta(gt=1)] = 3.0


class TwilioAccount(_Section, frozen=True):
    """An account of Twilio whose streams are taken.

    Attributes:
        auth_token: Signs its requests.
        tenant_id: Whose calls they are.
    """

    auth_token: Annotated[str, msgspec.Meta(min_length=16)]
    tenant_id: ExternalId


class TwilioSettings(_Section, frozen=True):
    """Twilio Media Streams.

    Attributes:
        accounts: Who may connect; without any, a stream needs a bearer token as its custom parameter `token`.
        public_url: The address as Twilio calls it, `wss://host/v1/ingest/twilio`, where a proxy changes the host;
            empty: taken from the request.
    """

    accounts: tuple[TwilioAccount, ...] = ()
    public_url: str = ""


class AudioHookAccount(_Section, frozen=True):
    """An AudioHook integration of Genesys Cloud.

    Attributes:
        api_key: Its API key, which names the secret.
        client_secret: Its client secret, base64 as Genesys shows it.
        tenant_id: Whose calls they are.
    """

    api_key: Annotated[str, msgspec.Meta(min_length=1)]
    client_secret: str
    tenant_id: ExternalId

    @property
    def secret(self) -> bytes:
        """The secret's bytes."""
        return base64.b64decode(self.client_secret, validate=True)


class AudioHookSettings(_Section, frozen=True):
    """Genesys AudioHook.

    Attributes:
        accounts: Integrations that may connect; without any, only a bearer token opens it.
    """

    accounts: tuple[AudioHookAccount, ...] = ()


class IngestSettings(_Section, frozen=True):
    """The doors.

    Attributes:
        max_calls: Live calls of this process; more are refused as overloaded.
        start_timeout_s: A socket that says nothing is closed after this.
        idle_timeout_s: A source that sends nothing for so long lost its call.
        resume_grace_s: A call whose source vanished waits so long for it to come back before it ends.
        twilio: Twilio Media Streams.
        audiohook: Genesys AudioHook.
    """

    max_calls: Positive = 500
    start_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    idle_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    resume_grace_s: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    twilio: TwilioSettings = TwilioSettings()
    audiohook: AudioHookSettings = AudioHookSettings()


class ConnectSettings(_Section, frozen=True):
    """`cueline connect-kvs`: Amazon Connect's audio from Kinesis Video Streams.

    Attributes:
        host: Address for contact events; anything but loopback needs authentication.
        port: Port for contact events; 0 takes a free one.
        server_url: The Cueline server, `ws://host:port` or `wss://…`.
        token: Bearer token for the server; empty: one is signed with `auth.shared_key`, if that is set.
        region: AWS region; empty: the AWS environment's.
        endpoint_url: Kinesis Video Streams' control plane; empty: Amazon's own.
        agents_by_arn: Contact events say whose call it is, by the agent's id in Connect; otherwise only the flow does.
        max_contacts: Contacts that one process reads at once; more are refused and come again.
        max_skew_ms: A side that falls so far behind the other is filled up with silence.
        stall_s: A stream that says nothing for so long is connected to anew.
        drain_s: After a contact's end, how long to wait for more audio of it.
        stream_end_s: A stream that stopped for so long ends its contact, if its contact event never came.
        abandon_s: A contact without any audio for so long is given up.
    """

    host: str = "127.0.0.1"
    port: Port = 8090
    server_url: str = "ws://127.0.0.1:8080"
    token: str = ""
    region: str = ""
    endpoint_url: str = ""
    agents_by_arn: bool = False
    max_contacts: Positive = 50
    max_skew_ms: Positive = 2000
    stall_s: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    drain_s: Annotated[float, msgspec.Meta(gt=0)] = 3.0
    stream_end_s: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    abandon_s: Annotated[float, msgspec.Meta(gt=0)] = 900.0


class LogSettings(_Section, frozen=True):
    """The event log.

    Attributes:
        backend: `embedded` in this process and its data directory, or `redis`, which several processes share.
        url: Of Redis or Valkey: `redis://user@host:port/0`, `rediss://…?ssl_ca_certs=F` for TLS, `unix://…`.
        password: Of that user, best given as `CUELINE_LOG__PASSWORD`; wins over one in the URL.
        timeout_ms: What Redis may take to answer, reconnecting included; then a call goes on without it.
        lease_ms: A process that did not renew its ownership of a call for so long has lost it.
        max_stream_entries: Publications of one channel that Redis keeps; older ones are known by the snapshot alone.
        retention_hours: Ended calls are forgotten after this.
    """

    backend: Literal["embedded", "redis"] = "embedded"
    url: str = ""
    password: str = ""
    timeout_ms: Positive = 500
    lease_ms: Annotated[int, msgspec.Meta(ge=500)] = 2000
    max_stream_entries: Positive = 20_000
    retention_hours: Positive = 72


class FleetSettings(_Section, frozen=True):
    """Several processes that share one Redis.

    Attributes:
        host: Address of this machine at which the other processes reach it, for sources that came to the wrong one;
            loopback is enough for the workers of one machine. Anything else needs authentication.
        worker: Number of this process among those of `--workers`, which sets it.
        drain_s: A process that leaves carries the sockets of telephony systems, which cannot be moved, to their calls'
            next owners until they hang up, for so long at most.
    """

    host: str = "127.0.0.1"
    drain_s: Annotated[float, msgspec.Meta(ge=0)] = 900.0
    worker: NotNegative = 0


class StoreSettings(_Section, frozen=True):
    """The durable store.

    Attributes:
        url: `postgresql://user@host:port/database`, with `?ssl=verify-full` for TLS; empty: SQLite in the data
            directory.
        password: Of that user; set it by the environment, `CUELINE_STORE__PASSWORD`.
        max_connections: Connections of one process; the server's own limit has to have room for all processes.
        statement_timeout_ms: The database ends a statement that takes longer.
    """

    url: str = ""
    password: str = ""
    max_connections: Positive = 8
    statement_timeout_ms: Positive = 5000


class KeysSettings(_Section, frozen=True):
    """The keys that seal customer words at rest, one a tenant.

    Attributes:
        provider: `local`: files of this host. `kms`: AWS KMS.
        folder: Of local keys; empty: `keys` in the data directory.
        kms_key: Key id or alias, with `{tenant}` where the tenant's name goes.
        region: AWS region; empty: from the environment.
        endpoint_url: Empty: the service's own.
    """

    provider: Literal["local", "kms"] = "local"
    folder: str = ""
    kms_key: str = "alias/cueline-{tenant}"
    region: str = ""
    endpoint_url: str = ""


class PathSettings(_Section, frozen=True):
    """Folders of declarations and models; the defaults are the project's own.

    Attributes:
        graphs: Graphs, policies and the latency budget.
        knowledge: A folder of articles for each knowledge base that the server fills itself, by the base's name.
        model_repo: Models in Triton's layout.
    """

    graphs: str = str(PROJECT_ROOT / "graphs")
    knowledge: str = str(PROJECT_ROOT / "graphs" / "knowledge")
    model_repo: str = str(PROJECT_ROOT / "model_repo")


class GenerationSettings(_Section, frozen=True):
    """The endpoint that writes answers: anything that speaks the OpenAI-compatible chat protocol.

    Attributes:
        base_url: Such as `https://api.fireworks.ai/inference/v1`, or a llama-server's `http://127.0.0.1:8081/v1`.
            Empty: the sentences of a passage are the answer, and nothing leaves this machine.
        model: Name of the model there.
        api_key_env: Environment variable that holds the key; empty: none is sent.
        first_token_ms: An answer whose first token comes later is given up; the passage stays.
        hedge_after_ms: A second request is sent when the first has given nothing for so long.
        max_tokens: Longest answer.
        isolation_field: Request field that keeps tenants' prompt caches apart: `prompt_cache_isolation_key`
            (Fireworks), `cache_salt` (vLLM), empty for an endpoint without one.
        max_concurrent: Requests at once.
        prompt_price: Dollars for a million prompt tokens, for the cost metric.
        completion_price: The same for what is written.
    """

    base_url: str = ""
    model: str = ""
    api_key_env: str = ""
    first_token_ms: Positive = 1000
    hedge_after_ms: Positive = 250
    max_tokens: Positive = 200
    isolation_field: Literal["", "prompt_cache_isolation_key", "prompt_cache_key", "cache_salt"] = (
        "prompt_cache_isolation_key"
    )
    max_concurrent: Positive = 32
    prompt_price: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    completion_price: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class DemoSettings(_Section, frozen=True):
    """The demo call.

    Attributes:
        enabled: Offer the demo call and the WAV drop zone. Anonymous mode only.
        autoplay: Play it once, a moment after the first agent looked at the page.
    """

    enabled: bool = True
    autoplay: bool = False


class Settings(_Section, frozen=True):
    """The whole tree.

    Attributes:
        host: Address to listen on; anything but loopback needs authentication.
        port: 0 takes a free one and prints it.
        data_dir: Holds all state.
        log_level: Of the process log on standard error.
    """

    host: str = "127.0.0.1"
    port: Port = 8080
    data_dir: str = "data"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    auth: AuthSettings = AuthSettings()
    tls: TlsSettings = TlsSettings()
    speech: SpeechSettings = SpeechSettings()
    engine: EngineSettings = EngineSettings()
    models: ModelSettings = ModelSettings()
    ingest: IngestSettings = IngestSettings()
    connect: ConnectSettings = ConnectSettings()
    log: LogSettings = LogSettings()
    fleet: FleetSettings = FleetSettings()
    store: StoreSettings = StoreSettings()
    keys: KeysSettings = KeysSettings()
    paths: PathSettings = PathSettings()
    generation: GenerationSettings = GenerationSettings()
    demo: DemoSettings = DemoSettings()

    @property
    def data_path(self) -> Path:
        """The data directory."""
        return Path(self.data_dir)

    @property
    def private_path(self) -> Path:
        """Where what belongs to this process alone lies: the data directory, or a worker's own folder in it."""
        return self.data_path / "workers" / str(self.fleet.worker) if self.fleet.worker else self.data_path
