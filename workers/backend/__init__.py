"""The backend worker: owns one server and speaks MCP to it over HTTP, WebSocket or pipes.

worker            puts everything together; states, reconnecting, drain
front_link        one front: its link, its calls in flight;  calls: one call's life
legs              which era serves whom;  era: the verdicts;  leg, modern, legacy: the two ways of speaking
listings          answers lists;  catalogue: one list over one leg
pool              connections;  exchange: one request and its answer on one;  fetch: the same for tasks
http2             a connection that carries many exchanges at once;  http2_stream: one of them;  http2_frames: its state
requests          bytes of requests;  answers: what a response holds;  faults: what to say when it holds nothing
breaker           when the server is not asked any more;  health: how it is checked while nobody calls it
endpoint          the server's address;  way: how a connection to it is made;  unreachable: why none is
access            everything that differs between HTTP, WebSocket and pipes;  channel: what all of them offer
messages          all calls side by side on one channel;  message_legs, message_faults: the eras and the errors on it
ordered           messages written one after the other
sse_channel       such a channel over HTTP+SSE;  sse_faults: why there is none;  http_legs: whether there is one
websocket_channel such a channel over WebSocket;  websocket_faults: why there is none
pipe              such a channel to a command;  pipe_faults: why it does not run
child             its process;  child_pipes: its ends;  complaints: what it writes to standard error;  starts: how often
talk              what the server asks the client in a call;  interactions: calls that wait for that
asking            whose a question is that came on no call's stream;  trail: how far a call's stream has come
kept_tasks        calls that nobody waits for, as tasks;  progress: how much of it a client is sent
client_sessions   what single clients have there, if they are kept apart;  client_session: one;  own_leg: the way in it
leased_sessions   sessions that calls lease for which it must be clear whom the server asks;  askers: which tools ask
brood             what all runs of a command have started
able_sessions     sessions with a legacy server, by what its clients can be asked
watches           which resources it is to tell about
streams           what is kept open for that, by get_stream and listen_stream;  standing: one request that stays open
"""
