/** Writes a page for each chart beside its machine: `node dist/tools/charts/main.js FOLDER`. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { requestMachine } from '../../statecharts/request.js';
import { serverMachine } from '../../statecharts/server.js';
import { pageOf } from './mermaid.js';

const [folder] = process.argv.slice(2);
if (folder === undefined) throw new Error('usage: main.js FOLDER');
for (const machine of [requestMachine, serverMachine]) {
  writeFileSync(join(folder, `${machine.id}.md`), pageOf(machine, `${machine.id}.ts`));
}
