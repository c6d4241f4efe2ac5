"""The front worker: speaks MCP to clients.

worker            puts everything together
doors             the listening sockets;  certificate: what TLS shows there;  gate: Host and Origin allow-lists
handshakes        what is told of those that failed
proxy_preface     what a load balancer says before a client's first byte
http_connection   one connection: requests in, answers out, deadlines
http_router       which endpoint a request is for
http_edge         HTTP request → message of the right era;  batch: 2025-03-26 arrays;  sse_edge: the same for HTTP+SSE
conversation      one client whose messages come one by one: on stdio, or over websocket
endpoint          what each method does;  endpoints: that of all servers, and one for each
sessions          legacy sessions;  kept_streams: what their clients can still get of a stream they have lost
catalogue         the merged list of tools, or of prompts;  merging: what merged lists share
reads             prompts, resources and completion;  resources: whose resource it is
subscriptions     who wants to be told what
questions         what servers ask legacy clients;  rounds: what modern clients carry from one request to the next
tasks             what servers answer later: task_handles, task_replies;  task_news: what is told of it;
                  task_list;  task_looks: asks how one is
management        the proxy's own tools;  lazy_tools: those that find the others;  health_pages: /healthz, /readyz
server_link       one server: its link, calls in flight, queue, lists
served            what a public name stands for: a server_link, or a group
group             replicas behind one name;  replica: one of them;  replica_lists: what they offer
choice            which replica gets a call;  homes: which one has the session of a client
hedging           gives a read-only call that takes long to a second replica
fallbacks         which tool of another server takes a call that its server cannot serve
fair_queue        calls that wait, client by client in turn;  retry_budget: how many may be sent again
calls             a call, and the place its answer goes
"""
