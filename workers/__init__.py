"""What runs in worker processes. `workers` and `supervisor` never import one another; both import `protocol`.

main            entry of every worker: boot order, role, orders of the root
reactor         the loop: ready sockets as callbacks, in batches
transport       the seam between logic and I/O;  pipes: the same for stdin and stdout;  tls: the same, encrypted
websocket       frames and handshakes of WebSocket, without I/O
dialing         opening sockets to servers
heart           shows the root that the loop runs, or rests
rehearsal       a worker's whole life, played in the zygote before it forks
link_end        one end of a link between a front and a backend worker
pages           the flight page: a worker's own, and those of its peers
control_end     a worker's end of its control socket
out_of_memory   leaving when memory was refused
logs            where log lines go
front/          the clients' side
backend/        the servers' side
"""
