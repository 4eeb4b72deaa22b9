"use strict";
// Lets a worker end when the last job that it has taken is done: EXTERNAL_HOOK_FILES=/etc/n8n/finish-first.js
//
// n8n 2.41 counts a job as running when it has read its execution from the database. A worker that is stopped between
// taking a job and that closes the runner's connection and the database, and the execution, which somebody was told is
// accepted, fails with "Connection terminated". Bull knows of each job from the moment that it was taken.
// At a stop n8n calls its services by descending priority: at 200 it stops taking jobs and waits for those that it counts,
// from 100 on it closes what they need. Its own limit for a stop holds here, too.
const BETWEEN = 150;

function loaded(end) {
  const path = Object.keys(require.cache).find((name) => name.endsWith(end));
  if (!path) throw new Error(`no module ${end} is loaded`);
  return require.cache[path].exports;
}

class FinishFirst {
  async finish() {
    const { Container } = loaded("/@n8n/di/dist/di.js");
    const { ScalingService } = loaded("/n8n/dist/scaling/scaling.service.js");
    const queues = [...Container.get(ScalingService).queueByName.values()];
    await Promise.all(queues.map((queue) => queue.whenCurrentJobsFinished()));
  }
}

try {
  const { Container } = loaded("/@n8n/di/dist/di.js");
  const { ShutdownMetadata } = loaded("/@n8n/decorators/dist/shutdown/shutdown-metadata.js");
  Container.set(FinishFirst, new FinishFirst());
  Container.get(ShutdownMetadata).register(BETWEEN, { serviceClass: FinishFirst, methodName: "finish" });
} catch (error) {
  // Thrown, it would keep the worker from starting.
  console.error(`finish-first.js: ${error.message}; when this worker stops, a job that it is just taking may fail`);
}

// What the file is loaded for has happened; there is no hook to call.
module.exports = {};
