// Loads every listed package with the code that will do it: n8n's for community nodes, the task runner's for modules.
'use strict';

const { createRequire } = require('node:module');

const PACKAGES = '/usr/local/lib/n8n-packages';
const N8N = '/usr/local/lib/n8n/node_modules';
const listed = Object.keys(require(`${PACKAGES}/package.json`).dependencies);
const isNode = (name) => /^(@[^/]+\/)?n8n-nodes-/.test(name);

function loadModules(names) {
	const runner = createRequire(`${N8N}/@n8n/task-runner/dist/js-task-runner/require-resolver.js`);
	const { createRequireResolver } = runner('./require-resolver.js');
	const resolve = createRequireResolver({ allowedBuiltInModules: new Set(), allowedExternalModules: new Set(names) });
	for (const name of names) resolve(name);
}

async function loadNodes(names) {
	// As n8n does it: packages require what they have n8n as a peer for.
	process.env.NODE_PATH = N8N;
	require('node:module')._initPaths();
	const { scanDirectoryForPackages } = createRequire(`${N8N}/n8n/package.json`)('n8n-core');
	const loaders = await scanDirectoryForPackages(`${PACKAGES}/node_modules`);
	for (const name of names) {
		const loader = loaders.find(({ packageName }) => packageName === name);
		if (!loader) throw new Error(`${name}: n8n does not take it for a community package of its version`);
		await loader.loadAll();
		if (!Object.keys(loader.known.nodes).length) throw new Error(`${name}: it has no node`);
	}
}

loadModules(listed.filter((name) => !isNode(name)));
loadNodes(listed.filter(isNode)).then(
	() => process.exit(0),
	(error) => {
		console.error(error);
		process.exit(1);
	},
);
