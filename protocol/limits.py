"""Every bound of the proxy in one place: unit, reason and precedent beside each number."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- HTTP from clients --------------------------------------------------------------------------------------
REQUEST_TARGET_BYTES_MAX: Final = 8 * KIB  # nginx large_client_header_buffers 8k; gunicorn 4094
HEADER_BYTES_MAX: Final = 16 * KIB  # h11 and caddy 16 KiB
HEADER_COUNT_MAX: Final = 100  # gunicorn 100, haproxy 101
BODY_BYTES_MAX: Final = 4 * MIB  # the MCP python-sdk's default
JSON_DEPTH_MAX: Final = 64  # deeper documents are refused before any parser recurses
ID_BYTES_MAX: Final = 256  # a request id is echoed, so it is memory held for a client
PIPELINED_REQUESTS_MAX: Final = 16  # more wait in the kernel's buffer
BATCH_MESSAGES_MAX: Final = 64  # 2025-03-26 arrays
HANDSHAKE_NEWS_MAX: Final = 10  # lines about handshakes that failed, within the next: who connects decides how many do
HANDSHAKE_NEWS_PERIOD_S: Final = 60.0
HANDSHAKES_MAX: Final = 128  # of TLS under way at a time; each costs a millisecond, and may never be finished
CONNECTIONS_MAX: Final = 1024  # envoy's default circuit breaker; of each front
FRONTS_MAX: Final = 8  # half of what a worker serves at once (flight.LINKS): fronts that have just ended count, too
MOVE_WAIT_S: Final = 10.0  # a connection waits so long for the front that it belongs to; as a request may for its head
HEADERS_DEADLINE_S: Final = 10.0  # slow-loris: a whole header block must arrive in this time (caddy 60, hypercorn 5)
BODY_GRACE_S: Final = 5.0  # the minimum rate below applies after this
BODY_RATE_MIN_BYTES_PER_S: Final = 1 * KIB
KEEP_ALIVE_IDLE_S: Final = 60.0  # nginx 75, caddy 300
WRITE_IDLE_S: Final = 30.0  # a client that takes no byte of an answer for so long is closed
STREAM_KEEP_ALIVE_S: Final = 15.0  # comment lines on open event streams

# --- lines on stdio -----------------------------------------------------------------------------------------
LINE_BYTES_MAX: Final = 4 * MIB
SERVER_LINE_BYTES_MAX: Final = 16 * MIB  # of a server that is a command: as much as an answer over HTTP may have

# --- servers (our side as a client) -------------------------------------------------------------------------
ANSWER_BYTES_MAX: Final = 16 * MIB  # hypercorn's default for bodies
SSE_EVENT_BYTES_MAX: Final = 16 * MIB  # an event may carry a whole answer
CONNECT_TIMEOUT_S: Final = 5.0  # envoy
TLS_HANDSHAKE_S: Final = 5.0  # envoy: part of the time to connect, which is 5 s there
PROXY_ANSWER_BYTES_MAX: Final = 16 * KIB  # of a proxy that is asked for a tunnel, as of a request's headers
CALL_TIMEOUT_S: Final = 60.0
CALL_CEILING_S: Final = 3600.0  # progress may extend a call up to this, and no timeout can be set higher
PROGRESS_PER_S: Final = 50.0  # reports of one call that its client is sent, more than anybody watches ...
PROGRESS_AT_ONCE: Final = 100.0  # ... and so many at once after a quiet time
STREAM_IDLE_S: Final = 300.0  # of an answer's event stream without a byte (envoy's stream idle timeout: 300 s)
TCP_PROBE_AFTER_S: Final = 60  # a silent connection is probed, and again each so many seconds
TCP_PROBES_MAX: Final = 4  # unanswered, and it counts as dead: after 300 s, as a stream
POOL_CONNECTIONS_MAX: Final = 64
POOL_IDLE_S: Final = 50.0  # shorter than the usual 60-75 s of servers, so that they rarely close first
STANDING_PAUSE_MIN_S: Final = 1.0  # before a standing stream that ended is opened again
STANDING_PAUSE_MAX_S: Final = 30.0  # the same after many that did not last
HTTP2_STREAMS_MAX: Final = 100  # on one connection, if the server takes as many (RFC 9113, 6.5.2: at least 100)
HTTP2_STREAM_WINDOW_BYTES: Final = 1 * MIB  # of an answer that its client does not take now, so much is kept
HTTP2_CONNECTION_WINDOW_BYTES: Final = 4 * MIB  # on their way to us on all streams; given back on arrival
HTTP2_FRAME_BYTES_MAX: Final = 64 * KIB
HTTP2_HEADER_LIST_BYTES_MAX: Final = HEADER_BYTES_MAX + 32 * HEADER_COUNT_MAX  # RFC 9113, 6.5.2: 32 more for each field
HTTP2_CONTROL_FRAMES_MAX: Final = 1000  # that carry no answer, in a burst (envoy and nghttp2 1000); each second ...
HTTP2_CONTROL_FRAMES_PER_S: Final = 100  # ... so many more, ...
HTTP2_CONTROL_FRAMES_PER_SENT: Final = 4  # ... and for each frame of ours with part of a request
HTTP2_SETTINGS_MAX: Final = 1000  # that a server changes on one connection
HTTP2_REQUESTS_MAX: Final = 100_000  # on one connection (nginx's keepalive_requests 1000); ids end at a billion
WEBSOCKET_REQUESTS_MAX: Final = 256  # of one client, unanswered; who has so many is not read from
WEBSOCKET_PING_S: Final = 20.0  # a peer that was silent for so long is asked whether it lives (python's websockets)
WEBSOCKET_PONG_S: Final = 20.0  # without an answer in this time, the connection counts as dead
LIST_PAGES_MAX: Final = 100
LIST_ITEMS_MAX: Final = 10_000

# --- servers that are commands (stdio) ----------------------------------------------------------------------
PROBE_S: Final = 2.0  # without an answer to server/discover in this time, it is taken for a legacy one
COMMAND_START_S: Final = 60.0  # to initialize: npx and uvx may have to download the server first
STDIN_IDLE_S: Final = 30.0  # one that takes no byte of its input for so long is replaced; as for clients
STDIN_CLOSED_S: Final = 2.0  # from closing its input to SIGTERM (the MCP python-sdk)
TERMINATE_S: Final = 2.0  # from SIGTERM to SIGKILL; both together are less than WORKER_STOP_S
STDERR_KEPT_BYTES: Final = 64 * KIB  # of what it wrote last
STDERR_LINES_PER_S: Final = 10  # that are logged, and shown by ctl logs
JUNK_LINES_MAX: Final = 10_000  # on its output, one after the other without a message, before it is given up
COMMAND_BYTES_MAX: Final = 32 * KIB  # a command with its arguments, and its environment; they are in one control packet
COMMAND_ARGUMENTS_MAX: Final = 256

# --- sessions of single clients at a server (isolation) ------------------------------------------------------
CLIENT_PROCESSES_MAX: Final = 16  # of one command, unless configured: each may take what the server itself takes
CLIENT_SESSIONS_MAX: Final = 256  # with a server that has a URL, unless configured
SESSION_LIMIT_MAX: Final = 1024  # as configured
SESSION_IDLE_S: Final = 1800.0  # without a call or a subscription, and it is ended; servers mostly do the same
LEASED_SESSIONS_MAX: Final = 7  # or processes, beside the one that all share, of a server whose questions name no call
SESSION_SPARE_S: Final = 60.0  # idle for so long, it is ended if all are taken and another client needs one

# --- calls --------------------------------------------------------------------------------------------------
IN_FLIGHT_PER_SERVER_MAX: Final = 64  # also the most that can be configured: as many connections has the pool
QUEUE_PER_SERVER_MAX: Final = 256
QUEUE_DEADLINE_S: Final = 1.0  # linkerd's fail-fast is 1-3 s
RESTART_WAIT_S: Final = 2.0  # a call waits this long for a worker that is being replaced
LIST_WAIT_S: Final = 1.0  # a list waits this long for a server that is not ready
REPLAY_SHARE: Final = 0.2  # of the calls in the period may be sent again after a crash (envoy and finagle: 20 %)
REPLAY_FLOOR: Final = 3  # so many may be in any case
REPLAY_PERIOD_S: Final = 10
RETRIES: Final = 2  # a call that kills its worker each time is tried three times in all
COMMAND_PROCESSES_MAX: Final = 100_000  # as configured
COMMAND_PROCESSORS_MAX: Final = 1024  # as configured; glibc's masks have as many
RETRIES_MAX: Final = 10  # as configured

# --- groups of replicas -------------------------------------------------------------------------------------
FALLBACKS_MAX: Final = 3  # servers that a call goes on to, one after the other
GROUPS_MAX: Final = 50  # each with replicas of its own, of `SERVERS_MAX` servers in all
REPLICAS_MAX: Final = 50  # of one command; each is a process of its own with a worker before it
REPLICA_WEIGHT_MAX: Final = 100.0
CANARY_PERCENT_MAX: Final = 90.0  # of a group's calls set apart for single replicas: the others are to notice theirs
DIFFERENCES_TOLD_MAX: Final = 100  # between the lists of a group's replicas, in status
LATENCY_MEMORY_S: Final = 10.0  # finagle's peak EWMA: what was measured fades with this time constant
HEDGE_SAMPLES: Final = 200  # answers of a tool that say how long it usually takes ...
HEDGE_SAMPLES_MIN: Final = 20  # ... of which so many are the least
HEDGE_KINDS_MAX: Final = 64  # tools of a group of which that is known
HEDGE_SHARE: Final = 0.1  # of a group's calls may be given to a second replica because they take long
HEDGE_FLOOR: Final = 1  # so many in `REPLAY_PERIOD_S` may be in any case
SLOW_START_S: Final = 10.0  # a replica that has come (back) gets its full share after this (haproxy and envoy: any)
FAIL_BACK_S: Final = 10.0  # the preferred replica must have been back for so long before it is used again
STICKY_LOAD_MAX: Final = 1.25  # of the fair share of calls in flight; above it a client's calls go elsewhere
STICKY_FLOOR: Final = 8  # so many in flight are no reason to send a client's calls elsewhere
DISCOVER_EVERY_S: Final = 30.0  # between look-ups of a name; getaddrinfo tells no TTL (nginx's valid=30s)
DISCOVER_EVERY_MIN_S: Final = 5.0  # also after a failure
DISCOVER_EVERY_MAX_S: Final = 3600.0
DISCOVERED_MAX: Final = 16  # replicas of one name, each of which is a process
DISCOVER_MISSES: Final = 2  # look-ups in a row without an address until it is gone: large sets are told in parts
LOOK_UP_S: Final = 10.0  # one look-up; glibc tries a dead resolver for 10 s and more
LOOK_UPS_MAX: Final = 4  # at a time, each of which is a thread, also while a resolver hangs
EJECTION_FAILURES: Final = 5  # in a row (envoy's consecutive 5xx)
EJECTION_BASE_S: Final = 5.0  # times how often in a row it happened (envoy 30 s, for whole clusters)
EJECTION_MAX_S: Final = 60.0
EJECTION_PARDON_S: Final = 60.0  # after so long without an ejection, its time begins to grow anew
EJECTION_PERIOD_S: Final = 10.0  # replicas are compared by what they did in it (envoy's interval: 10 s)
EJECTION_CALLS_MIN: Final = 20  # of a replica in that time; fewer say nothing
EJECTION_EXCESS: Final = 0.3  # so much more of its calls fail than of the others', in the median
EJECTION_SLOWNESS: Final = 5.0  # so many times as long as the others it takes for the same tools ...
EJECTION_SLOWER_S: Final = 0.05  # ... and so much longer for each call, below which nobody cares
EJECTION_KINDS_MAX: Final = 64  # tools of which it is known how long each replica takes
EJECTED_SHARE_MAX: Final = 0.5  # of a group's replicas
PANIC_SHARE: Final = 0.5  # with fewer replicas left that may be used, those that were ejected are used as well (envoy)
STALL_S: Final = 2.0  # a replica that has said nothing for so long while others answer has stalled ...
STALL_SHARE: Final = 0.5  # of what a call may take, if that is less: the calls must have time left for another
STALL_CALLS_MIN: Final = 3  # ... if at least so many calls wait for it; one may just take its time
RECALL_S: Final = 0.5  # a replica that has had a call for so long and not sent it gives it to one that would

# --- questions from servers to clients ----------------------------------------------------------------------
INTERACTION_S: Final = 600.0  # how long a client, which is a person mostly, may take for one answer
INTERACTIVE_CALLS_MAX: Final = 32  # per server: each keeps a connection of its pool, and others want some too
UNCLEAR_QUESTION_S: Final = 10.0  # one that may be about calls of several clients waits so long for that to be clear
UNCLEAR_FURTHER_S: Final = 1.0  # the same while another one waits already: one of them may be what the other waits for
FIRST_CALL_S: Final = 1.0  # the first calls of two clients' tools, which may ask, wait so long for one another
QUESTIONS_OPEN_MAX: Final = 8  # of one call at a time
QUESTIONS_PER_CALL_MAX: Final = 64
QUESTION_BYTES_MAX: Final = 4 * MIB  # all open questions of one call together; as large as a client's own body
ROUNDS_MAX: Final = 20  # of questions and answers until a call is over
GATHER_S: Final = 0.05  # questions that come together are put together to a client that has to ask for each set
REQUEST_STATE_BYTES_MAX: Final = 64 * KIB  # of a server's own; the client carries it there and back

# --- tasks --------------------------------------------------------------------------------------------------
TASK_ID_CHARACTERS_MAX: Final = 512  # of a server's own; a handle with it has to fit into a header
TASKS_LISTED_MAX: Final = 256  # of one session: the oldest that it was given are not listed any more
TASKS_PER_PAGE_MAX: Final = 32  # each is asked for at its server, which takes 64 calls at a time
TASK_LIST_WAIT_S: Final = 5.0  # a page waits no longer for what servers say of their tasks
KEPT_TASKS_MAX: Final = 256  # calls of one server that we keep as tasks, and what they have come to
KEPT_RUNNING_MAX: Final = 32  # of those, calls under way: each keeps a connection of the pool, and others want some too
KEPT_BYTES_MAX: Final = 64 * MIB  # of results that wait to be fetched from one worker
KEPT_S: Final = 2 * CALL_CEILING_S  # from the beginning of such a task: an hour to run, and as long to be fetched
KEPT_FETCHED_S: Final = 60.0  # a result that was fetched can be fetched again for so long: the answer may be lost
KEPT_POLL_S: Final = 1.0  # how often a client should ask

# --- management ---------------------------------------------------------------------------------------------
MANAGE_ARGUMENTS_BYTES_MAX: Final = 16 * KIB  # of a call of a management tool, and of a body on the admin socket
MANAGE_OUTSTANDING_MAX: Final = 16  # requests of one front that the root works on at a time
MANAGE_DEADLINE_S: Final = 45.0  # a front's patience with the root: longer than any operation takes
CHECK_DEADLINE_S: Final = 12.0  # an active check, of a server that has to be connected to and listed first
LOG_LINES_KEPT_MAX: Final = 200  # per server, in the root; each at most 1 KiB
TOOLS_REPORTED_MAX: Final = 200  # names of tools that the check of a server reports
HEADERS_PER_SERVER_MAX: Final = 32  # configured by the user, sent with every request to that server
ADMIN_CONNECTIONS_MAX: Final = 16  # on the admin socket, each served by one task of the root
ADMIN_IDLE_S: Final = 30.0  # a connection there on which no request comes, or no answer is taken

# --- what clients want to be told unasked --------------------------------------------------------------------
LISTENS_MAX: Final = 256  # streams of modern clients (`subscriptions/listen`), each of which has a connection
LISTENS_PER_CLIENT_MAX: Final = 16  # of the client on stdio; over HTTP each connection has one
SUBSCRIPTIONS_PER_CLIENT_MAX: Final = 256  # resources that one session, or one listen stream, hears about
SUBSCRIPTIONS_MAX: Final = 10_000  # resources that a front hears about for its clients, or a server is asked about
SUBSCRIPTION_WAIT_S: Final = 2.0  # for a server that has not said whether it tells us; then we assume that it will
SUBSCRIPTION_KEEP_S: Final = 300.0  # a session without a stream stays subscribed at its servers for so long
UPDATES_GATHER_S: Final = 0.1  # updates of one resource that come together are told once
SESSION_NOTES_MAX: Final = 1000  # sessions whose log level and subscriptions outlive a front
SESSION_NOTE_BYTES_MAX: Final = 16 * KIB  # of one of them: all URIs it has subscribed to, and which tasks it was given

# --- event streams that legacy clients lose and ask for again --------------------------------------------------
RESUME_S: Final = 60.0  # a client may come back for the rest of a stream for so long
KEPT_STREAM_BYTES_MAX: Final = 256 * KIB  # of one stream: its last messages; the answer to a call is mostly smaller
KEPT_STREAMS_BYTES_MAX: Final = 16 * MIB  # of all streams of a front
KEPT_STREAMS_MAX: Final = 4096

# --- links between our processes ----------------------------------------------------------------------------
LINK_VERSION: Final = 2
LINK_WINDOW_BYTES: Final = 8 * MIB  # unacknowledged payload per direction
LINK_NEWS_S: Final = 2.0  # a front whose link ended hears within this of the worker's end, or asks for a new worker
LINK_CREDIT_BYTES: Final = 2 * MIB  # acknowledged in portions of this
FRAME_BYTES_MAX: Final = ANSWER_BYTES_MAX + 64 * KIB
STREAM_BUFFER_HIGH_BYTES: Final = 1 * MIB  # above this the producer is paused
STREAM_BUFFER_LOW_BYTES: Final = 256 * KIB

# --- processes ----------------------------------------------------------------------------------------------
WORKER_STOP_S: Final = 5.0  # OTP: 5 s, then kill
DRAIN_S: Final = 25.0
STOP_S: Final = 30.0  # kubernetes' grace period
UPGRADE_S: Final = 30.0  # a new version that has not taken over by then is given up
UPGRADE_SETTLE_S: Final = 5.0  # the new version waits so long for servers to be connected before it takes over
DRAIN_IDLE_S: Final = 2.0  # after an upgrade, a client may still begin one more request on an idle connection
RESTART_INTENSITY: Final = 5
RESTART_PERIOD_S: Final = 30.0
RESTART_BACKOFF_MIN_S: Final = 0.1
RESTART_BACKOFF_MAX_S: Final = 30.0
RESTART_RESET_S: Final = 60.0  # up for so long, and the back-off starts again at nothing
PARK_RETRY_S: Final = 300.0
TREE_INTENSITY: Final = 3
TREE_PERIOD_S: Final = 60.0
HEARTBEAT_S: Final = 1.0
REST_S: Final = 20.0  # a worker with nothing to do beats so seldom; longer than the pause between health checks
SILENCE_S: Final = 5.0  # a worker that has not shown for so long that its loop runs is stuck (gunicorn 30 s)
ABORT_S: Final = 1.0  # from SIGABRT, which makes it write down its stacks, to SIGKILL
CRASH_REPORTS_MAX: Final = 32  # kept by the root, each at most 16 KiB and a little
MEMORY_LIMIT_BYTES: Final = 1024 * MIB  # of a backend worker: so much 64 answers of 16 MiB take, and nothing usual does
MEMORY_LIMIT_MIN_BYTES: Final = 64 * MIB  # one that does nothing has 30 MiB
MEMORY_CAP_SHARE: Final = 1.25  # of the limit, and
MEMORY_CAP_EXTRA_BYTES: Final = 64 * MIB  # this: what the kernel refuses to go beyond between two looks at the limit
BOOT_DEADLINE_S: Final = 10.0  # a worker that has not said it is ready by then is killed
