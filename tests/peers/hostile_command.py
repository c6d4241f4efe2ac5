"""A legacy server on its standard pipes that misbehaves as its arguments say: `python hostile_command.py banner`.

It answers `initialize`, `ping`, `tools/list`; its tools do what their names say. Only the standard library, so that it
starts at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

Json = dict[str, Any]
TOOLS = [
    "echo", "exit", "die", "silent", "progress", "log", "flood", "notice", "ask", "huge", "daemon", "environment",
    "split", "multiply", "late", "release", "flaky", "hog", "complain", "where", "twice", "wrong", "batch", "question",
    "touch", "remember",
]  # fmt: skip
META = "io.modelcontextprotocol/"

late: list[tuple[object, object]] = []
questions: dict[object, object] = {}
"""By the id of a question: the call that asked it."""
remembered: list[str] = []
listens: dict[object, list[str]] = {}
"""By the id of a listen request: the resources it is about."""


def say(text: str | bytes) -> None:
    data = text.encode() if isinstance(text, str) else text
    sys.stdout.buffer.write(data + b"\n")
    sys.stdout.buffer.flush()


def send(**members: Any) -> None:
    say(json.dumps({"jsonrpc": "2.0", **members}))


def complain(text: str) -> None:
    os.write(2, text.encode() + b"\n")


def daemonize() -> int:
    """Leave a process behind that has left our session and keeps our output open; return its pid."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        pid = os.fork()
        if pid:
            os.write(writer, str(pid).encode())
            os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
        os._exit(0)
    os.wait()
    return int(os.read(reader, 20))


def multiply(generations: int) -> None:
    """Twice as many processes with each generation; every other one leaves our session."""
    for number in range(generations):
        if os.fork() == 0 and number % 2:
            os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def call(request_id: object, name: str, arguments: Json, meta: Json) -> None:
    text = str(arguments.get("text", ""))
    match name:
        case "exit":
            os._exit(int(arguments.get("status", 3)))
        case "multiply":
            multiply(int(arguments["generations"]))
        case "die":
            os.kill(os.getpid(), int(arguments.get("signal", signal.SIGKILL)))
        case "silent":
            return
        case "progress":
            for step in (1, 2, 3):
                params = {"progressToken": meta.get("progressToken"), "progress": step}
                send(method="notifications/progress", params=params)
        case "log":
            send(method="notifications/message", params={"level": "info", "data": text})
        case "flood":
            while True:
                os.write(2, b"x" * 65536)
        case "complain":
            for number in range(int(arguments.get("lines", 1))):
                complain(f"{text}{number}")
        case "notice":
            send(method="notifications/tools/list_changed")
        case "ask":
            send(id="s1", method="ping")
            send(id="s2", method="sampling/createMessage", params={})
            text = json.dumps([json.loads(sys.stdin.readline()) for _ in range(2)])
        case "question":  # answers with the answer to it, or when it is withdrawn
            questions[f"q-{text}"] = request_id
            send(id=f"q-{text}", method=arguments["method"], params=arguments.get("params", {}))
            if arguments.get("withdraw"):
                send(method="notifications/cancelled", params={"requestId": f"q-{text}"})
                send(id=request_id, result=result("withdrawn"))
            return
        case "remember":
            remembered.append(text)
            text = f"{os.getpid()}: {' '.join(remembered)}"
        case "touch":
            for listen_id, uris in listens.items():
                if text in uris:
                    about: Json = {"_meta": {META + "subscriptionId": listen_id}} if listen_id is not None else {}
                    send(method="notifications/resources/updated", params={"uri": text, **about})
        case "late":  # its events and answer come with the call of "release"
            late.append((request_id, meta.get("progressToken")))
            return
        case "release":
            for waiting, token in late:
                send(method="notifications/progress", params={"progressToken": token, "progress": 1})
                send(id=waiting, result=result("late"))
        case "flaky":  # takes the process down, but for the second time that it is given this file
            with open(text, "a", encoding="utf-8") as file:
                file.write("called\n")
                if file.tell() <= len("called\n"):
                    os._exit(3)
        case "hog":
            text = str(len(bytearray(int(arguments["size"]))))
        case "huge":
            say(b"x" * (int(arguments["size"])))
        case "daemon":
            text = str(daemonize())
        case "environment":
            text = json.dumps(dict(os.environ))
        case "where":
            text = os.getcwd()
        case "split":
            answer = json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result("in pieces")}).encode()
            for at in range(len(answer)):
                sys.stdout.buffer.write(answer[at : at + 1])
                sys.stdout.buffer.flush()
            say(b"\r")
            return
        case "twice":
            send(id=request_id, result=result("first"))
            text = "second"
        case "wrong":
            for wrong in ("nobody", 7, None):
                send(id=wrong, result=result("wrong"))
            say(b'{"jsonrpc":"2.0","id":"b')
            say(b"\xff\x00 not a message")
        case "batch":
            say(json.dumps([{"jsonrpc": "2.0", "id": request_id, "result": result("in a batch")}]))
            return
    send(id=request_id, result=result(text))


def result(text: str) -> Json:
    kind = {"resultType": "complete"} if "modern" in sys.argv else {}
    return kind | {"content": [{"type": "text", "text": text}]}


def listen(request_id: object, wanted: Json) -> None:
    listens[request_id] = wanted.get("resourceSubscriptions", [])
    complain(f"listening {listens[request_id]}")
    params = {"notifications": wanted, "_meta": {META + "subscriptionId": request_id}}
    send(method="notifications/subscriptions/acknowledged", params=params)


def discovered() -> Json:
    return {
        "resultType": "complete",
        "supportedVersions": ["2026-07-28"],
        "capabilities": {"tools": {}, "resources": {"subscribe": True}},
        "ttlMs": 0,
        "cacheScope": "private",
    }


def main() -> None:
    habits = sys.argv[1:]
    if "log" in habits:  # the next argument is a file that gets a line for each start
        with open(habits[habits.index("log") + 1], "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
    if "banner" in habits:
        say("*** Welcome to the server ***")
        say(b"\x1b[31m\xff\xfe{not json")
    if "gone" in habits:
        complain("Error: no such database")
        sys.exit(4)
    if "stubborn" in habits:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "deaf" in habits:
        time.sleep(600)
    if "closes" in habits:
        os.close(1)
        time.sleep(600)
    if "junk" in habits:
        while True:
            say("junk")
    for line in sys.stdin:
        message = json.loads(line)
        method, request_id = message.get("method"), message.get("id")
        match method:
            case None if request_id in questions:
                send(id=questions.pop(request_id), result=result(json.dumps(message)))
            case "server/discover" if "modern" in habits:
                send(id=request_id, result=discovered())
            case "subscriptions/listen":
                listen(request_id, message["params"]["notifications"])
            case "server/discover" if "fragile" in habits:
                os._exit(1)
            case "server/discover" if "old" in habits:
                continue  # says nothing to what it does not know
            case "initialize":
                complain(f"client can {json.dumps(message['params']['capabilities'])}")
                version = message["params"]["protocolVersion"]
                capabilities: Json = {"tools": {"listChanged": True}, "logging": {}}
                capabilities |= {"resources": {"subscribe": True}} if "tells" in habits else {}
                info = {"name": "hostile", "version": "1"}
                send(
                    id=request_id, result={"protocolVersion": version, "capabilities": capabilities, "serverInfo": info}
                )
            case "tools/list":
                tools = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
                tools[TOOLS.index("flaky")]["annotations"] = {"readOnlyHint": True}
                send(id=request_id, result={"tools": tools})
            case "ping":
                send(id=request_id, result={})
            case "tools/call":
                params = message["params"]
                call(request_id, params["name"], params.get("arguments") or {}, params.get("_meta") or {})
            case "resources/subscribe":
                listens.setdefault(None, []).append(message["params"]["uri"])
                send(id=request_id, result={})
            case "notifications/cancelled":
                listens.pop(message["params"]["requestId"], None)
                complain(f"cancelled {message['params']['requestId']}")
            case _ if request_id is not None:
                send(id=request_id, error={"code": -32601, "message": "unknown method"})
            case _:
                pass
        if "shuts" in habits and method == "tools/list":
            os.close(0)
            time.sleep(600)
        if "deafened" in habits and method == "tools/list":
            time.sleep(600)
    if "stubborn" in habits:
        time.sleep(600)


if __name__ == "__main__":
    main()
