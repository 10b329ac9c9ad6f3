// A collector of OpenTelemetry's: takes traces by OTLP over HTTP, in protobuf, and keeps the spans.

import http from 'node:http';

/** A message of protobuf as a list of `[field, value]`: bytes, or a BigInt. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    for (let value = 0n, shift = 0n; ; shift += 7n) {
      const byte = bytes[at++];
      if (byte === undefined) throw new Error('cut off');
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  const take = (length) => {
    if (at + length > bytes.length) throw new Error('cut off');
    return bytes.subarray(at, (at += length));
  };
  while (at < bytes.length) {
    const tag = Number(varint());
    const read = { 0: varint, 1: () => take(8).readBigUInt64LE(), 2: () => take(Number(varint())), 5: () => BigInt(take(4).readUInt32LE()) }[tag & 7];
    if (!read) throw new Error(`no wire type of OTLP's: ${tag & 7}`);
    yield [tag >> 3, read()];
  }
}

const all = (bytes, wanted) => [...fields(bytes)].filter(([field]) => field === wanted).map(([, value]) => value);
const last = (bytes, wanted) => all(bytes, wanted).at(-1);
const text = (bytes) => bytes?.toString('utf8') ?? '';

/** Attributes by their names. */
function attributes(list) {
  const value = (any) => {
    const [[field, said]] = fields(any);
    return { 1: () => text(said), 2: () => said === 1n, 3: () => Number(said) }[field]();
  };
  return Object.fromEntries(list.map((one) => [text(last(one, 1)), value(last(one, 2))]));
}

/** The spans of an `ExportTraceServiceRequest`, each with its resource's attributes. */
function spansOf(request) {
  return all(request, 1).flatMap((group) => {
    const resource = attributes(all(last(group, 1), 1));
    return all(group, 2).flatMap((scope) => all(scope, 2)).map((span) => ({
      resource,
      trace: last(span, 1).toString('hex'),
      id: last(span, 2).toString('hex'),
      parent: last(span, 4)?.toString('hex') ?? '',
      name: text(last(span, 5)),
      kind: ['', 'internal', 'server', 'client', 'producer', 'consumer'][Number(last(span, 6) ?? 0n)],
      took: last(span, 8) - last(span, 7),
      attributes: attributes(all(span, 9)),
      failed: last(last(span, 15) ?? Buffer.alloc(0), 3) === 2n,
    }));
  });
}

export class Collector {
  constructor() {
    this.spans = [];
    /** Every request: `{path, headers, body}`. */
    this.requests = [];
    /** How a request is answered. Takes it by default. */
    this.answer = (response) => response.writeHead(200, { 'content-type': 'application/x-protobuf' }).end();
    this.server = http.createServer(async (request, response) => {
      const parts = [];
      for await (const part of request) parts.push(part);
      const body = Buffer.concat(parts);
      this.requests.push({ path: `${request.method} ${request.url}`, headers: request.headers, body });
      this.spans.push(...spansOf(body));
      this.answer(response);
    });
  }

  static async start() {
    const collector = new Collector();
    await new Promise((resolve, reject) => collector.server.on('error', reject).listen(0, '127.0.0.1', resolve));
    collector.url = `http://127.0.0.1:${collector.server.address().port}`;
    return collector;
  }

  /** The spans of a trace, by name. */
  of = (trace) => Object.fromEntries(this.spans.filter((span) => span.trace === trace).map((span) => [span.name, span]));

  async stop() {
    const closed = new Promise((resolve) => this.server.close(resolve));
    this.server.closeAllConnections();
    await closed;
  }
}

export const startCollector = () => Collector.start();
