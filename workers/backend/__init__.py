"""The backend worker: owns one server and speaks MCP to it over Streamable HTTP.

worker            puts everything together; states, reconnecting, drain
front_link        one front: its link, its calls in flight;  calls: one call's life
legs              which era serves whom;  era: the verdicts;  leg, modern, legacy: the two ways of speaking
listings          answers lists;  catalogue: one list over one leg
pool              connections;  exchange: one request and its answer on one;  fetch: the same for tasks
requests          bytes of requests;  answers: what a response holds;  faults: what to say when it holds nothing
breaker           when the server is not asked any more;  health: how it is checked while nobody calls it
endpoint          the server's address
"""
