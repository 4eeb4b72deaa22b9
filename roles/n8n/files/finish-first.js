"use strict";
// Lets a worker end when the last job that it has taken is done: EXTERNAL_HOOK_FILES=/etc/n8n/finish-first.js
//
// n8n 2.41 counts a job as running when it has read its execution from the database. A worker that is stopped between
// taking a job and that closes the database, and the execution, which somebody was told is accepted, fails with
// "Connection terminated". Bull knows of each job from the moment that it was taken. n8n has paused the queue for this
// worker before it calls this hook, and closes the database after it; its own limit for a stop holds for the hook, too.

function loaded(end) {
  const path = Object.keys(require.cache).find((name) => name.endsWith(end));
  if (!path) throw new Error(`no module ${end} is loaded`);
  return require.cache[path].exports;
}

async function finish() {
  try {
    const { Container } = loaded("/@n8n/di/dist/di.js");
    const { ScalingService } = loaded("/n8n/dist/scaling/scaling.service.js");
    const queues = [...Container.get(ScalingService).queueByName.values()];
    await Promise.all(queues.map((queue) => queue.whenCurrentJobsFinished()));
  } catch (error) {
    // Thrown, it would end the worker as if it had crashed.
    console.error(`finish-first.js: ${error.message}; a job that was just being taken may fail`);
  }
}

module.exports = { n8n: { stop: [finish] } };
