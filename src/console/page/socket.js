// A client of Socket.IO for one namespace, over a WebSocket: Engine.IO 4 and Socket.IO 5, as far as the playground needs them.
//
// A text frame is a packet of Engine.IO: its type, a digit, and what is in it. A message's content is a packet of Socket.IO: its type,
// the number of binary frames behind it, the namespace, the number of an acknowledgement, and JSON.

const [OPEN, CLOSE, PING, PONG, MESSAGE] = '01234';
const [CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR, BINARY_EVENT, BINARY_ACK] = '0123456';
const PACKET = /^(\d)(?:(\d+)-)?(?:(\/[^,]*),)?(\d+)?([^]*)$/;

/** Binary as the API has it: {"$base64": "…"}. */
const inBase64 = (buffer) => ({ $base64: btoa(String.fromCharCode(...new Uint8Array(buffer))) });

/**
 * `heard` is called with what happens: ("connected"), ("refused", {message}), ("event", name, args), ("ended", byServer) once the
 * connection is over: after a DISCONNECT packet of the server's, which the stock client does not come back after, or otherwise.
 */
export class Client {
  #socket;
  #namespace;
  #heard;
  #acks = new Map();
  #next = 0;
  #waiting = null;
  #over = false;

  constructor(url, { namespace = '/', auth = {}, heard }) {
    [this.#namespace, this.#heard] = [namespace, heard];
    this.#socket = new WebSocket(`${url}?EIO=4&transport=websocket`);
    this.#socket.binaryType = 'arraybuffer';
    this.#socket.onmessage = ({ data }) => (typeof data === 'string' ? this.#frame(data, auth) : this.#binary(data));
    this.#socket.onclose = () => this.#end(false);
  }

  /** Sends an event; resolves to the arguments of its acknowledgement. */
  emit(event, ...args) {
    const id = this.#next++;
    this.#send(EVENT, id, [event, ...args]);
    return new Promise((resolve) => this.#acks.set(String(id), resolve));
  }

  close() {
    this.#send(DISCONNECT);
    this.#end(false);
  }

  #send(type, id = '', content) {
    if (this.#socket.readyState !== WebSocket.OPEN) return;
    const namespace = this.#namespace === '/' ? '' : `${this.#namespace},`;
    this.#socket.send(MESSAGE + type + namespace + id + (content === undefined ? '' : JSON.stringify(content)));
  }

  #frame(text, auth) {
    if (text[0] === OPEN) this.#send(CONNECT, '', auth);
    else if (text[0] === PING) this.#socket.send(PONG);
    else if (text[0] === CLOSE) this.#end(false);
    else if (text[0] === MESSAGE) this.#packet(text.slice(1));
  }

  #packet(text) {
    const [, type, attachments = '0', namespace = '/', id, rest] = PACKET.exec(text);
    if (namespace !== this.#namespace) return;
    const packet = { type, id, rest, frames: [], missing: Number(attachments) };
    if (packet.missing) this.#waiting = packet;
    else this.#take(packet);
  }

  #binary(frame) {
    const packet = this.#waiting;
    if (!packet) return;
    packet.frames.push(frame);
    if (packet.frames.length < packet.missing) return;
    this.#waiting = null;
    this.#take(packet);
  }

  #take({ type, id, rest, frames }) {
    const filled = (key, value) => (value?._placeholder ? inBase64(frames[value.num]) : value);
    const content = rest ? JSON.parse(rest, filled) : undefined;
    if (type === CONNECT) this.#heard('connected');
    else if (type === CONNECT_ERROR) this.#refused(content);
    else if (type === DISCONNECT) this.#end(true);
    else if (type === EVENT || type === BINARY_EVENT) this.#event(content, id);
    else if (type === ACK || type === BINARY_ACK) {
      this.#acks.get(id)?.(content);
      this.#acks.delete(id);
    }
  }

  /** An event whose sender waits for an answer is answered that it has come. */
  #event([name, ...args], id) {
    if (id !== undefined) this.#send(ACK, id, [{ received: true }]);
    this.#heard('event', name, args);
  }

  #refused(error) {
    this.#over = true;
    this.#socket.close();
    this.#heard('refused', error);
  }

  #end(byServer) {
    if (this.#over) return;
    this.#over = true;
    this.#socket.close();
    this.#heard('ended', byServer);
  }
}
