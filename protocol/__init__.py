"""The pure part: bytes and values in, bytes and values out. No I/O, no clock, no randomness, no logging.

What we bind ourselves to      limits, versions, errors
Bytes of HTTP and streams      http1 (…_head, …_body), sse, lines
JSON-RPC and MCP messages      jsonrpc, meta, headers, param_headers, bridge, session_token
Names of tools                 names, client_profiles, tool_rules
Tools of our own               management, lazy_tools (ranking)
Between our own processes      link (calls), control (orders)
Words for people               log_lines
"""

__version__ = "0.1.0"
