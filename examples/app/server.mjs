// The backend of a chat: it logs people in, answers what their clients say, and kicks. server.py is the same in Python.
import express from 'express';
import jwt from 'jsonwebtoken';
import { Webhook } from 'standardwebhooks';

const { PORT = '8000', SWITCHBOARD_URL = 'http://127.0.0.1:3000', PUBLIC_URL = SWITCHBOARD_URL } = process.env;
const { SWITCHBOARD_API_KEY, SWITCHBOARD_JWT_SECRET, WEBHOOK_SECRET } = process.env;
const PEOPLE = ['alice', 'bob', 'carol'];
const ROOM = 'chat:lobby';

const app = express();
app.use(express.static(new URL('page', import.meta.url).pathname));

// Login: a token says who it is, which room its connections are in, and whose presence they see.
app.post('/login', express.json(), (req, res) => {
  const { name } = req.body ?? {};
  if (!PEOPLE.includes(name)) return res.status(401).json({ error: `one of ${PEOPLE.join(', ')}` });
  const claims = { sub: name, username: name, rooms: [ROOM], watch: PEOPLE.filter((other) => other !== name) };
  res.json({ url: PUBLIC_URL, token: jwt.sign(claims, SWITCHBOARD_JWT_SECRET, { algorithm: 'HS256', expiresIn: '15m' }) });
});

// One call ends a user's connections on every node; the answer comes when they are closed.
app.post('/kick/:name', async (req, res) => {
  let caller;
  try {
    caller = jwt.verify(req.get('authorization')?.replace('Bearer ', ''), SWITCHBOARD_JWT_SECRET, { algorithms: ['HS256'] });
  } catch {
    return res.sendStatus(401);
  }
  const answer = await fetch(`${SWITCHBOARD_URL}/v1/users/${encodeURIComponent(req.params.name)}/disconnect`, {
    method: 'POST',
    headers: { authorization: `Bearer ${SWITCHBOARD_API_KEY}`, 'content-type': 'application/json' },
    body: JSON.stringify({ reason: `Kicked by ${caller.sub}` }),
  });
  res.status(answer.status).json(await answer.json());
});

// What clients say, in the order in which they say it.
const events = {
  'chat:say': (data) => {
    const [text] = data.args;
    if (typeof text !== 'string' || !text.trim()) return { ack: { ok: false, error: 'Say something' } };
    const message = { from: data.connection.userId, text, at: new Date().toISOString() };
    return { actions: [{ do: 'emit', room: ROOM, event: 'said', data: message }], ack: { ok: true, at: message.at } };
  },
  'chat:typing': (data) => {
    const { id, userId } = data.connection;
    return { actions: [{ do: 'emit', room: ROOM, event: 'typing', data: { from: userId }, except: [id], volatile: true }], ack: { ok: true } };
  },
};

const webhook = new Webhook(WEBHOOK_SECRET);
app.post('/switchboard', express.raw({ type: () => true, limit: '2mb' }), (req, res) => {
  let call;
  try {
    call = webhook.verify(req.body, req.headers);
  } catch {
    return res.sendStatus(401);
  }
  const handle = events[call.data.event] ?? (() => ({ ack: { ok: false, error: 'Unknown event' } }));
  res.json(handle(call.data));
});

app.listen(Number(PORT), process.env.HOST ?? '127.0.0.1', () => console.log(`the chat is at http://127.0.0.1:${PORT}`));
