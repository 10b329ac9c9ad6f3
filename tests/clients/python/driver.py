"""python-socketio as a driver: python driver.py sync|async. See ../driver.mjs for what it reads and prints."""

import asyncio
import base64
import json
import sys
import threading

import socketio

clients = {}
one_line = threading.Lock()

if sys.argv[1] == "async":
    Client = socketio.AsyncClient
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    def run(call, *args, **options):
        asyncio.run_coroutine_threadsafe(call(*args, **options), loop)
else:
    Client = socketio.Client

    def run(call, *args, **options):
        threading.Thread(target=quietly, args=[call, args, options], daemon=True).start()


def quietly(call, args, options):
    try:
        call(*args, **options)
    except socketio.exceptions.ConnectionError:
        pass  # connect_error has told it


def binary(value):
    return base64.b64decode(value["$base64"]) if isinstance(value, dict) and "$base64" in value else value


def say(client, name, *args):
    line = json.dumps({"client": client, "name": name, "args": args}, default=lambda it: {"$base64": base64.b64encode(it).decode()})
    with one_line:
        print(line, flush=True)


def open_(client, url, transports, auth):
    sio = clients[client] = Client(reconnection_delay=0.2, reconnection_delay_max=0.5, randomization_factor=0.1)

    def any_event(event, *args):
        say(client, event, *args)
        return args

    sio.on("connect", lambda: say(client, "connect"))
    sio.on("connect_error", lambda error: say(client, "connect_error", error if isinstance(error, dict) else {"message": str(error)}))
    sio.on("disconnect", lambda reason: say(client, "disconnect", reason))
    sio.on("*", any_event)
    # The default, a second, is short on a busy machine.
    run(sio.connect, url, transports=transports, auth=auth, wait_timeout=10)


def ask(client, event, args):
    run(clients[client].emit, event, tuple(binary(arg) for arg in args), callback=lambda *answer: say(client, "ack", *answer))


def close(client):
    run(clients[client].disconnect)


commands = {"open": open_, "ask": ask, "close": close}
for line in sys.stdin:
    command = json.loads(line)
    commands[command.pop("do")](**command)
