"""The pure part: bytes and values in, bytes and values out. No I/O, no clock, no randomness, no logging.

What we bind ourselves to      limits, versions, errors
Bytes of HTTP and streams      http1 (…_head, …_body), sse, lines
JSON-RPC and MCP messages      jsonrpc, meta, headers, param_headers, bridge, session_token
Names                          names
Between our own processes      link (calls), control (orders)
Words for people               log_lines
"""

__version__ = "0.1.0"
