// msgpack as docs/protocol.md needs it: maps with string keys, arrays, str, bin, int, float, bool, nil.

export function encode(value) {
  const parts = [];
  write(value, parts);
  return Buffer.concat(parts);
}

function write(value, out) {
  if (value === null || value === undefined) out.push(Buffer.from([0xc0]));
  else if (value === false) out.push(Buffer.from([0xc2]));
  else if (value === true) out.push(Buffer.from([0xc3]));
  else if (typeof value === "number") out.push(number(value));
  else if (typeof value === "string") {
    const text = Buffer.from(value, "utf8");
    out.push(head(0xdb, text.length), text);
  } else if (Buffer.isBuffer(value)) out.push(head(0xc6, value.length), value);
  else if (Array.isArray(value)) {
    out.push(head(0xdd, value.length));
    for (const item of value) write(item, out);
  } else {
    const entries = Object.entries(value);
    out.push(head(0xdf, entries.length));
    for (const [key, item] of entries) {
      write(key, out);
      write(item, out);
    }
  }
}

function head(type, length) {
  const bytes = Buffer.alloc(5);
  bytes[0] = type;
  bytes.writeUInt32BE(length, 1);
  return bytes;
}

function number(value) {
  const bytes = Buffer.alloc(9);
  if (Number.isInteger(value)) {
    bytes[0] = 0xd3;
    bytes.writeBigInt64BE(BigInt(value), 1);
  } else {
    bytes[0] = 0xcb;
    bytes.writeDoubleBE(value, 1);
  }
  return bytes;
}

export function decode(buffer) {
  let at = 0;
  const take = (length) => buffer.subarray(at, (at += length));
  const uint = (length) => Number(`0x${take(length).toString("hex")}`);
  const int = (length) => Number(BigInt.asIntN(length * 8, BigInt(`0x${take(length).toString("hex")}`)));
  const list = (length) => Array.from({ length }, read);
  const map = (length) => Object.fromEntries(Array.from({ length }, () => [read(), read()]));
  const text = (length) => take(length).toString("utf8");
  function read() {
    const type = uint(1);
    if (type < 0x80) return type;
    if (type < 0x90) return map(type & 15);
    if (type < 0xa0) return list(type & 15);
    if (type < 0xc0) return text(type & 31);
    if (type >= 0xe0) return type - 256;
    switch (type) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: case 0xc5: case 0xc6: return Buffer.from(take(uint(2 ** (type - 0xc4))));
      case 0xca: return take(4).readFloatBE();
      case 0xcb: return take(8).readDoubleBE();
      case 0xcc: case 0xcd: case 0xce: case 0xcf: return uint(2 ** (type - 0xcc));
      case 0xd0: case 0xd1: case 0xd2: case 0xd3: return int(2 ** (type - 0xd0));
      case 0xd9: case 0xda: case 0xdb: return text(uint(2 ** (type - 0xd9)));
      case 0xdc: case 0xdd: return list(uint(2 ** (type - 0xdb)));
      case 0xde: case 0xdf: return map(uint(2 ** (type - 0xdd)));
      default: throw new Error(`unexpected msgpack type ${type}`);
    }
  }
  return read();
}
