# The backend of a chat: it logs people in, answers what their clients say, and kicks. server.mjs is the same in JavaScript.
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import quote

import httpx
import jwt
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from standardwebhooks.webhooks import Webhook

SWITCHBOARD_URL = os.environ.get("SWITCHBOARD_URL", "http://127.0.0.1:3000")
PUBLIC_URL = os.environ.get("PUBLIC_URL", SWITCHBOARD_URL)
API_KEY, SECRET = os.environ["SWITCHBOARD_API_KEY"], os.environ["SWITCHBOARD_JWT_SECRET"]
PEOPLE = ["alice", "bob", "carol"]
ROOM = "chat:lobby"

app = FastAPI()
webhook = Webhook(os.environ["WEBHOOK_SECRET"])


# Login: a token says who it is, which room its connections are in, and whose presence they see.
@app.post("/login")
async def login(request: Request):
    name = (await request.json()).get("name")
    if name not in PEOPLE:
        return JSONResponse({"error": f"one of {', '.join(PEOPLE)}"}, 401)
    claims = {"sub": name, "username": name, "rooms": [ROOM], "watch": [other for other in PEOPLE if other != name]}
    claims |= {"iat": datetime.now(timezone.utc), "exp": datetime.now(timezone.utc) + timedelta(minutes=15)}
    return {"url": PUBLIC_URL, "token": jwt.encode(claims, SECRET, "HS256")}


# One call ends a user's connections on every node; the answer comes when they are closed.
@app.post("/kick/{name}")
async def kick(name: str, request: Request):
    try:
        caller = jwt.decode(request.headers.get("authorization", "").removeprefix("Bearer "), SECRET, ["HS256"])
    except jwt.InvalidTokenError:
        return Response(status_code=401)
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {API_KEY}"}) as api:
        url = f"{SWITCHBOARD_URL}/v1/users/{quote(name, safe='')}/disconnect"
        answer = await api.post(url, json={"reason": f"Kicked by {caller['sub']}"}, timeout=10)
    return JSONResponse(answer.json(), answer.status_code)


# What clients say, in the order in which they say it.
@app.post("/switchboard")
async def said(request: Request):
    try:
        data = webhook.verify(await request.body(), dict(request.headers))["data"]
    except Exception:
        return Response(status_code=401)
    sender, args = data["connection"], data["args"]
    if data["event"] == "chat:say":
        if not args or not isinstance(args[0], str) or not args[0].strip():
            return {"ack": {"ok": False, "error": "Say something"}}
        message = {"from": sender["userId"], "text": args[0], "at": datetime.now(timezone.utc).isoformat()}
        return {"actions": [{"do": "emit", "room": ROOM, "event": "said", "data": message}], "ack": {"ok": True, "at": message["at"]}}
    if data["event"] == "chat:typing":
        typing = {"do": "emit", "room": ROOM, "event": "typing", "data": {"from": sender["userId"]}, "except": [sender["id"]], "volatile": True}
        return {"actions": [typing], "ack": {"ok": True}}
    return {"ack": {"ok": False, "error": "Unknown event"}}


app.mount("/", StaticFiles(directory=Path(__file__).parent / "page", html=True))

if __name__ == "__main__":
    uvicorn.run(app, host=os.environ.get("HOST", "127.0.0.1"), port=int(os.environ.get("PORT", "8000")), log_level="warning")
