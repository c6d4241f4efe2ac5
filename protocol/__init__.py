"""The pure part: bytes and values in, bytes and values out. No I/O, no clock, no randomness, no logging.

What we bind ourselves to      limits, versions, errors
Whose connection it is         forwarded, proxy_protocol
Bytes of HTTP and streams      http1 (…_head, …_body, …_request, …_response, …_write), http2_fields, http2_guard, sse,
                               lines
JSON-RPC and MCP messages      jsonrpc, meta, headers, param_headers, bridge, challenge
What servers ask clients       abilities, input_required, forms
Calls that become tasks        tasks
Signed, carried by clients     sealing, and on it: session_token, request_state, task_handle
Names of tools and resources   names, client_profiles, tool_rules, uris, apps
Addresses of servers           unix_url
Tools of our own               management, lazy_tools (ranking)
How servers do, and who is used  health, balancing, outliers, hedging
Who a client is to workers     clients
Between our own processes      link (calls), control (orders), flight (how far each call is), ledger, counts
Words for people               log_lines
"""

__version__ = "0.1.0"
