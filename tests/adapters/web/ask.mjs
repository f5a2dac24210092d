// `node ask.mjs STATIC`: answers the JSON list of questions on its input with the modules of the page.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const folder = pathToFileURL(`${process.argv[2]}/`);
const load = (name) => import(new URL(name, folder).href);
const { parse } = await load("container.js");
const { plain } = await load("errors.js");
const { reference, reproduces } = await load("exact.js");
const { readArrays } = await load("npz.js");
const { readOpacity } = await load("opacity.js");
const { decode, RangeDecoder } = await load("range_coder.js");
const { Tables } = await load("tables.js");

const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
const tables = ({ frequencies, lengths, offsets }) =>
  new Tables(Uint32Array.from(frequencies), Int32Array.from(lengths), Int32Array.from(offsets), "tables");

const ANSWERS = {
  parse({ data, name }) {
    const { z, y, sections, ...fields } = parse(bytes(data), name);
    const hex = (part) => Buffer.from(part).toString("hex");
    return { ...fields, z: hex(z), y: y.map(hex), sections: sections.map(({ type, data }) => [type, hex(data)]) };
  },
  async opacity({ data, width, height, name }) {
    return [...(await readOpacity(bytes(data), width, height, name))];
  },
  decode({ streams, rows, table, name }) {
    return [...decode(streams.map(bytes), Uint8Array.from(rows), tables(table), name)];
  },
  entries({ words, frequencies, count }) {
    const decoder = new RangeDecoder(Uint32Array.from(words));
    const out = new Uint32Array(count);
    const row = tables({ frequencies, lengths: [frequencies.length], offsets: [0] });
    let done = 0;
    while (done < count && decoder.read(row, 0, out, done, done + 1)) done += 1;
    return { entries: [...out.subarray(0, done)], difference: String(BigInt(decoder.high) * 2n ** 32n + BigInt(decoder.low)) };
  },
  tables(table) {
    return tables(table).leastBits;
  },
  async golden({ exact, golden }) {
    const vectors = await readArrays(bytes(golden), "golden.npz");
    const count = [...vectors.keys()].filter((name) => name.startsWith("z")).length;
    return { count, same: await reproduces(vectors, count, reference(await readArrays(bytes(exact), "exact.npz"))) };
  },
};

const answers = [];
for (const { kind, ...question } of JSON.parse(readFileSync(0, "utf-8"))) {
  try {
    answers.push({ answer: await ANSWERS[kind](question) });
  } catch (error) {
    answers.push({ error: plain(error) });
  }
}
process.stdout.write(JSON.stringify(answers));
