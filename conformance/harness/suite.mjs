// Registers cases, runs them one after the other against one server and reports as `suite.py` does.

import { createRequire } from "node:module";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: { target: { type: "string" }, flavour: { type: "string" }, pid: { type: "string" } },
});

const at = options.target.lastIndexOf(":");

/** Where the server listens. */
export const server = { host: options.target.slice(0, at), port: Number(options.target.slice(at + 1)) };

/** Loads one of the pinned clients. */
export const client = createRequire(`${process.env.LONGTAIL_NODE_MODULES}/`);

/** How long a case may take, in milliseconds. */
const PATIENCE = 15_000;

const cases = [];

/** Registers a case; `covers` names the commands it exercises. */
export function test(name, covers, run) {
  cases.push({ name, covers, run });
}

let tubes = 0;

/** A tube name that no other case uses, nor an earlier run against the same server. */
export function tube() {
  tubes += 1;
  return `node-${process.pid}-${Date.now().toString(36)}-${tubes}`;
}

/** Runs all registered cases and ends the process. */
export async function run() {
  let failed = 0;
  for (const { name, run } of cases) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no result within ${PATIENCE} ms`)), PATIENCE);
    });
    try {
      await Promise.race([run(), late]);
      console.log(`ok ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAIL ${name}: ${String(error.message ?? error).replaceAll("\n", " ")}`);
    } finally {
      clearTimeout(timer);
    }
  }
  console.log(`${cases.length - failed} passed, ${failed} failed`);
  process.exit(failed === 0 ? 0 : 1);
}
