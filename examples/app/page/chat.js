// The page: the stock Socket.IO client, and nothing else.
const $ = (id) => document.getElementById(id);
const line = (list, text) => $(list).appendChild(Object.assign(document.createElement('li'), { textContent: text }));
const post = (path, body, token) => fetch(path, {
  method: 'POST',
  headers: { 'content-type': 'application/json', ...(token && { authorization: `Bearer ${token}` }) },
  body: JSON.stringify(body),
}).then((answer) => answer.json());

$('login').addEventListener('submit', async (event) => {
  event.preventDefault();
  const name = new FormData(event.target).get('name');
  const { url, token } = await post('/login', { name });
  await new Promise((loaded, failed) => {
    document.head.append(Object.assign(document.createElement('script'), { src: `${url}/socket.io/socket.io.js`, onload: loaded, onerror: failed }));
  });
  $('login').hidden = true;
  $('chat').hidden = false;

  // The function is asked for a token at each connect, so a reconnect comes with a fresh one. A balancer keeps polls on one node by its cookie.
  const auth = (use) => post('/login', { name }).then(({ token: fresh }) => use({ token: fresh }));
  const socket = window.io(url, { auth, withCredentials: true });
  socket.on('ready', ({ username }) => { $('status').textContent = `You are ${username}.`; });
  socket.on('tokenExpiring', async () => socket.emitWithAck('refreshToken', (await post('/login', { name })).token));
  socket.on('forceDisconnect', ({ reason }) => { $('status').textContent = reason; });
  socket.on('said', ({ from, text }) => { line('messages', `${from}: ${text}`); $('typing').textContent = ''; });
  socket.on('typing', ({ from }) => { $('typing').textContent = `${from} is typing…`; });
  socket.on('presence', ({ userId, online }) => {
    const friend = $(`friend-${userId}`) ?? Object.assign(line('friends', `${userId} `), { id: `friend-${userId}` });
    friend.className = online ? 'online' : '';
    if (!friend.querySelector('button')) {
      const kick = friend.appendChild(Object.assign(document.createElement('button'), { textContent: 'Kick' }));
      kick.addEventListener('click', () => post(`/kick/${userId}`, {}, token));
    }
  });

  $('say').addEventListener('submit', async (said) => {
    said.preventDefault();
    const input = said.target.elements.text;
    const { ok, error } = await socket.emitWithAck('chat:say', input.value);
    $('status').textContent = ok ? '' : error;
    if (ok) input.value = '';
  });
  $('say').addEventListener('input', () => socket.volatile.emit('chat:typing'));
});
