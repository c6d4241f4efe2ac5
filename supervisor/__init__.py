"""The root: the process that only starts, watches, restarts and stops. It parses no byte from a client or a server.

    __main__, cli, config      arguments → settings → run; exit codes
    listen, secret, log_file   what the root holds for the workers: sockets, the session key, the log
    unix_socket                sockets that are files: how one takes the place of one that is stale
    certificate                whether clients can be shown the certificate that is configured
    server_options             which of the limits given on the command line are whose
    spec, restart, tree        PURE: what is supervised, when it is restarted, in which order it starts and stops
    plan                       PURE: settings → child specifications and boot orders
    root, orders, news         does what the tree decides; tells workers; tells people
    roster, changes            which servers there are, and how that changes at run time
    operations, status         what the management doors can ask for, and the shapes of the answers
    metrics, tallies           the same as numbers for a Prometheus; what workers have counted
    exposition                 PURE: how such numbers are written
    admin, ctl                 two of the doors: a small REST API, and the command line behind it
    admin_socket, admin_port   where that API is: a Unix socket, and a port with a token
    groups, command            PURE: what replicas of one server, and servers that are commands, are
    discovery, lookups         replicas that are found by looking names up; what became of that
    fallbacks                  PURE: which tools take over from those of another server
    egress                     which proxy stands before a server, whom its worker trusts
    lives, channel, memory     the processes that are there, their control sockets, what outlives a front
    ended_file, allowance      what outlives the root; PURE: how much of its time a worker may take
    heartbeats, memory_watch   look at the workers each second: who stands still, or all did; who has too much memory
    pulse, wake                PURE: who counts as standing still, how long nobody ran
    journal, outage            PURE: what crashed, when the fault is likely our own
    herald, notify             keep a service manager informed; its protocol
    activation                 take over sockets that a service manager has opened
    upgrade, handover          when a new version replaces this one; what the two tell each other
    successor, predecessor     the other version, as the old one and as the new one sees it
    inheritance                what a new version is given when it starts
    zygote_process, zygote     start the zygote; its program: forks, reaps, and leaves no orphan
    newborn                    what a process does that has just been forked: be a worker, or a spare
    linux, machine             what the kernel offers for keeping hold of processes; what a simulator replaces
    logs, wording              the only place where the root's logging is configured; what it says

Rule 1: only the zygote forks workers, and only from its main thread, because a death signal is tied to the thread.
Rule 2: what the tree decides is a value; only root.py acts. So every decision can be tested without a process.
Rule 3: a process is killed through its pidfd, or by the parent that has not yet reaped it. Never by a bare number.
Rule 4: whatever dies, nothing that it started outlives it.
"""

from typing import Final

DISTRIBUTION: Final = "mcp-bulkhead"
"""Tells this package from the other one of its name on PyPI (mcp_bulkhead.py looks for it)."""
