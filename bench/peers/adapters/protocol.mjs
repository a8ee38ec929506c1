// What the adapters for Node.js share: the command line, the clock, and the lines on stdout.
// See bench/contender.py for the protocol, protocol.py for the same in Python.

import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";

const STOP_MS_MAX = 4_000;

/** Jobs per call of a bulk API. */
export const BULK = 1000;

/** `require`, from where environments.py puts the packages. */
export const installed = createRequire(new URL("../../../.bench/node/", import.meta.url));

const now = () => process.hrtime.bigint();
const say = (report) => process.stdout.write(JSON.stringify(report) + "\n");

/** What the handlers of a worker process did; they call `job` or `pickup`, nothing else. */
class Ran {
  #count = 0;
  #first = 0n;
  #delays = [];

  constructor(expected) {
    this.expected = expected;
    this.stopping = new Promise((resolve) => process.on("SIGTERM", resolve));
    this.stopping.then(() => setTimeout(() => this.finish(), STOP_MS_MAX));
  }

  ready() {
    say({ ready: true });
  }

  // A no-op starts and ends in the same instant: the clock is read for two of them only.
  job() {
    if (this.#count === 0) this.#first = now();
    this.#count += 1;
    if (this.#count === this.expected)
      say({ ran: this.#count, first: Number(this.#first), last: Number(now()) });
  }

  pickup(t) {
    this.#delays.push(Number(now() - BigInt(t)) / 1000);
    this.job();
  }

  /** Say the last line and end the process, whatever still runs in it. */
  finish() {
    const last = this.#delays.length ? JSON.stringify({ delays_us: this.#delays }) + "\n" : "";
    process.stdout.write(last, () => process.exit(0));
  }
}

/**
 * Do what the command line asks for.
 *
 * setup(url); producer(url) resolves to {bulk(jobs), noop(), pickup(t), close()};
 * work(url, ran, small) resolves once the worker has stopped.
 */
export async function main({ setup, producer, work }) {
  const [command, url, ...numbers] = process.argv.slice(2).filter((word) => word !== "--small");
  const [jobs, everyMs] = numbers.map(Number);
  if (command === "setup") await setup(url);
  else if (command === "work") {
    const ran = new Ran(jobs);
    await work(url, ran, process.argv.includes("--small"));
    ran.finish();
  } else await produce(await producer(url), command, jobs, everyMs);
}

async function produce(connected, command, jobs, everyMs) {
  const begun = performance.now();
  if (command === "bulk") await connected.bulk(jobs);
  else if (command === "single") for (let n = 0; n < jobs; n++) await connected.noop();
  else if (command === "trickle") await trickle(connected, jobs, everyMs);
  else throw new Error(`unknown command ${command}`);
  const seconds = (performance.now() - begun) / 1000;
  await connected.close();
  if (command !== "trickle") say({ seconds });
}

// The schedule is fixed: a slow call delays no later one.
async function trickle(connected, jobs, everyMs) {
  const begun = performance.now();
  for (let n = 0; n < jobs; n++) {
    const due = begun + (n + (Math.random() - 0.5) * 0.4) * everyMs;
    await sleep(Math.max(0, due - performance.now()));
    await connected.pickup(String(now()));
  }
}

/** `jobs` in calls of `BULK` each. */
export function batches(jobs) {
  const full = Array(Math.floor(jobs / BULK)).fill(BULK);
  return jobs % BULK ? [...full, jobs % BULK] : full;
}
