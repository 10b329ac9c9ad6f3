"""What an application's process does that has no server: emits through python-socketio's RedisManager.

    emit.py sync|async REDIS_URL

Each line of its input is JSON, [method, [arguments…], {named arguments}]; {"$base64": "…"} in it is bytes. After the line "ready" each is
answered by the line "done".
"""

import asyncio
import base64
import json
import sys

import socketio


def binary(fields):
    return base64.b64decode(fields['$base64']) if set(fields) == {'$base64'} else fields


def calls():
    for line in sys.stdin:
        method, args, named = json.loads(line, object_hook=binary)
        # A list of arguments is one argument; a tuple is several.
        yield method, [tuple(arg['tuple']) if isinstance(arg, dict) and 'tuple' in arg else arg for arg in args], named


async def asynchronous(url):
    manager = socketio.AsyncRedisManager(url, write_only=True)
    for method, args, named in calls():
        await getattr(manager, method)(*args, **named)
        print('done', flush=True)


def synchronous(url):
    manager = socketio.RedisManager(url, write_only=True)
    for method, args, named in calls():
        getattr(manager, method)(*args, **named)
        print('done', flush=True)


kind, url = sys.argv[1:]
print('ready', flush=True)
asyncio.run(asynchronous(url)) if kind == 'async' else synchronous(url)
