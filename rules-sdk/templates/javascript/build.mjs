// Makes a component of rule.js: node build.mjs WORLD OUT
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { componentize } from '@bytecodealliance/componentize-js';

const [worldName, out] = process.argv.slice(2);
const { component } = await componentize(await readFile('rule.js', 'utf8'), {
  // A relative folder is not found.
  witPath: resolve('.bugler/sdk/wit'),
  worldName,
  // A rule has no WASI: what would import it is left out.
  disableFeatures: ['stdio', 'random', 'clocks', 'http', 'fetch-event'],
});
await mkdir(dirname(out), { recursive: true });
await writeFile(out, component);
