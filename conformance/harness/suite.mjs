// Registers cases, runs them one after the other against one server and reports as `suite.py` does.

import { createRequire } from "node:module";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    target: { type: "string" },
    flavour: { type: "string" },
    pid: { type: "string" },
    websocket: { type: "string" },
    beside: { type: "string" },
    start: { type: "string" },
  },
});

const at = options.target.lastIndexOf(":");

/** Where the server listens. */
export const server = {
  host: options.target.slice(0, at),
  port: Number(options.target.slice(at + 1)),
  /** `host:port` of the suite's second listener. */
  beside: options.beside,
};

/** Where it speaks WebSocket, as `host:port`. */
export const websocket = options.websocket;

/** Loads one of the pinned clients. */
export const client = createRequire(`${process.env.LONGTAIL_NODE_MODULES}/`);

/** How long a case may take, in milliseconds. */
const PATIENCE = 40_000;

const cases = [];

/**
 * Registers a case; `covers` names the commands it exercises. `differs` says, by flavour, what another server does
 * instead: there the case has to fail, and counts as skipped.
 */
export function test(name, covers, run, differs = {}) {
  cases.push({ name, covers, run, differs: differs[options.flavour] });
}

let names = 0;

/** A name that no other case uses, nor an earlier run against the same server. */
export function unique() {
  names += 1;
  return `node-${process.pid}-${Date.now().toString(36)}-${names}`;
}

/** For protocols whose names are those of tubes. */
export const tube = unique;

/** Runs all registered cases and ends the process. */
export async function run() {
  const totals = { ok: 0, FAIL: 0, skip: 0 };
  for (const { name, run, differs } of cases) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no result within ${PATIENCE} ms`)), PATIENCE);
    });
    try {
      await Promise.race([run(), late]);
      if (differs) report("FAIL", `${name}: ${options.flavour} is said to differ here and does not: ${differs}`);
      else report("ok", name);
    } catch (error) {
      if (differs) report("skip", `${name}: ${options.flavour} differs: ${differs}`);
      else report("FAIL", `${name}: ${String(error.message ?? error).replaceAll("\n", " ")}`);
    } finally {
      clearTimeout(timer);
    }
  }
  console.log(`${totals.ok} passed, ${totals.FAIL} failed, ${totals.skip} skipped`);
  process.exit(totals.FAIL === 0 ? 0 : 1);

  function report(word, text) {
    totals[word] += 1;
    console.log(`${word} ${text}`);
  }
}
