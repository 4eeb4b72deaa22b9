"use strict";
// A worker's stop in small, for test_62_worker_stops.py: n8n's Bull, its registry of services to be stopped, and the
// file under test. Each line that it prints waits for one of the test's.
// node -e FILE NAME OF A QUEUE, in a worker's container
const { createRequire } = require("node:module");
const { readFileSync } = require("node:fs");
const { createInterface } = require("node:readline");
const { setImmediate } = require("node:timers/promises");

const n8n = createRequire("/usr/local/lib/n8n/node_modules/n8n/package.json");
const Bull = n8n("bull");
const { Container } = n8n("@n8n/di");
const { ShutdownMetadata } = n8n("@n8n/decorators");
const { ScalingService } = n8n("n8n/dist/scaling/scaling.service.js");

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const turn = async (event) => {
  console.log(event);
  await lines.next();
};

async function main() {
  const queue = new Bull(process.argv.at(-1), {
    prefix: "bull",
    redis: {
      host: process.env.QUEUE_BULL_REDIS_HOST,
      username: process.env.QUEUE_BULL_REDIS_USERNAME,
      password: readFileSync(process.env.QUEUE_BULL_REDIS_PASSWORD_FILE, "utf8").trim(),
    },
  });
  const scaling = { queueByName: new Map([[queue.name, queue]]), stop: () => queue.pause(true, true) };
  Container.set(ScalingService, scaling);
  require(process.env.EXTERNAL_HOOK_FILES);

  const done = [];
  await queue.add({ number: 1 });
  await queue.add({ number: 2 });
  const first = new Promise((resolve) => {
    queue.process(1, async (job) => {
      if (job.data.number === 1) await turn("processing the first job");
      done.push(job.data.number);
      resolve();
    });
  });
  await first;
  // The first job's end, which asks for the next one, is on its way.
  await setImmediate();
  const groups = Object.values(Container.get(ShutdownMetadata).getHandlersByPriority()).reverse();
  for (const group of groups) {
    const mine = group.filter(({ serviceClass }) => ["ScalingService", "FinishFirst"].includes(serviceClass.name));
    const ends = mine.map(({ serviceClass, methodName }) => Container.get(serviceClass)[methodName]());
    if (mine.some(({ serviceClass }) => serviceClass === ScalingService)) await turn("paused");
    await Promise.all(ends);
  }
  await queue.obliterate({ force: true });
  console.log(`done ${done}`);
  process.exit(0);
}

main();
