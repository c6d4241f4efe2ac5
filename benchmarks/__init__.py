"""Measurements of the whole proxy from outside: `python -m benchmarks load`, and the others that `--help` lists.

The map of this package; README.md says what each number means.

__main__        the command line
load            the order of a run: cases, subjects, rounds
options         what a run may be asked to measure
subjects        what is measured, and how each subject is started
backend         the fast MCP server behind every subject: its loop
backend_answers …and what it answers
websocket_backend …and how it does so over WebSocket
command_backend …and as a command
sdk_relay       the relay made of the official SDK that the proxy is compared with
messages        what the load says, and what a good answer is
wire            HTTP as a client needs it: sockets, whole responses, event streams
clients         MCP clients over HTTP, opened up to their first call
generator       the closed loop over HTTP connections
line_generator  the closed loop over the pipes of a stdio front
rounds          what one round of load has measured
placement       which processors the ends and what is between them work on
processes       starting children and leaving none behind
cpu             CPU time of processes, by the part they play
memory          how much memory a large answer takes on its way: the copies made of it
results         medians and ratios over rounds
targets         the promised numbers, checked
report          tables and JSON
progress        what is said while it runs

failover        kills processes under load; failover_report: its figures
balance         the policies for groups of replicas
overload        ten times the load that a server takes
recovery        starting, resting, stopping
soak            faults at random for long; soak_plan: which; soak_report: what is left behind
leak            clients that come and go, processes that are killed, and what is left of them; visits: the clients
stand           servers, proxy and load, set up for faults
steady          the load: calls at a steady pace, each written down
faults          killing one process and watching its replacement
timeline        what the calls around a fault say about it
footprint       memory and descriptors of processes
plot            SVG
"""
