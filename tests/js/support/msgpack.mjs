// MessagePack as PHP's extension writes it, for what no published package of JavaScript's sends.

/** The bytes of a value. A Buffer is a text of these bytes, as PHP has no other type for binary. */
export function packed(value) {
  const length = (count, [small, base], long) => {
    if (count < small) return Buffer.from([base + count]);
    const head = Buffer.from([long, 0, 0, 0, 0]);
    head.writeUInt32BE(count, 1);
    return head;
  };
  if (value === null) return Buffer.from([0xc0]);
  if (typeof value === 'boolean') return Buffer.from([value ? 0xc3 : 0xc2]);
  if (typeof value === 'number') return Buffer.from([0xd0, value]);
  if (typeof value === 'string') value = Buffer.from(value);
  if (Buffer.isBuffer(value)) return Buffer.concat([length(value.length, [32, 0xa0], 0xdb), value]);
  if (Array.isArray(value)) return Buffer.concat([length(value.length, [16, 0x90], 0xdd), ...value.map(packed)]);
  const fields = Object.entries(value);
  return Buffer.concat([length(fields.length, [16, 0x80], 0xdf), ...fields.flat().map(packed)]);
}
