// Drives all fifteen tools with an official TypeScript client and checks the answers.
//
// In: the URL of a running server (argument 1) and which client (argument 2): v1 = @modelcontextprotocol/sdk,
// v2 = @modelcontextprotocol/client (protocol 2026-07-28). Out: "ok" and exit code 0, or what was wrong.
// CHARGEHAND_TEST_NODE_MODULES names the node_modules with both packages; CHARGEHAND_TEST_TASK,
// CHARGEHAND_TEST_LONG_TASK and CHARGEHAND_TEST_ASKING_TASK are the descriptions of a task that ends, of one that does not
// end by itself, and of one whose worker asks for a permission.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const [url, which] = process.argv.slice(2);
const load = createRequire(join(process.env.CHARGEHAND_TEST_NODE_MODULES, 'here.js'));
const short = process.env.CHARGEHAND_TEST_TASK ?? 'Say the answer.';
const long = process.env.CHARGEHAND_TEST_LONG_TASK ?? 'HANG for ever.';
const asking = process.env.CHARGEHAND_TEST_ASKING_TASK ?? 'ASK first.';
const agent_id = `typescript-${which}-${process.pid}`;

const TOOLS = ['add_task_observer', 'answer_task_request', 'archive_task_conversation', 'get_task_files', 'get_task_history',
  'get_task_status', 'health', 'list_task_observers', 'list_tasks', 'opencode_execute_task', 'ping', 'read_task_file',
  'remove_task_observer', 'send_task_control', 'send_task_message'];

async function connect() {
  const info = { name: 'drive', version: '1' };
  if (which === 'v1') {
    const { Client } = load('@modelcontextprotocol/sdk/client/index.js');
    const { StreamableHTTPClientTransport } = load('@modelcontextprotocol/sdk/client/streamableHttp.js');
    const client = new Client(info);
    await client.connect(new StreamableHTTPClientTransport(new URL(`${url}/mcp`)));
    return client;
  }
  const { Client, StreamableHTTPClientTransport } = load('@modelcontextprotocol/client');
  const client = new Client(info, { versionNegotiation: { mode: 'auto' } });
  await client.connect(new StreamableHTTPClientTransport(new URL(`${url}/mcp`)));
  return client;
}

const client = await connect();

// A tool's answer. The client itself checks structuredContent against the tool's output schema.
async function ok(name, args) {
  const result = await client.callTool({ name, arguments: args });
  assert(!result.isError, `${name} refused: ${result.content[0].text}`);
  const body = JSON.parse(result.content[0].text);
  assert.deepEqual(result.structuredContent, body, `${name}: text and structured content differ`);
  return body;
}

async function refused(name, args) {
  const result = await client.callTool({ name, arguments: args });
  assert(result.isError, `${name} did not refuse`);
  return JSON.parse(result.content[0].text);
}

async function until(task_id, phases) {
  for (let i = 0; i < 60; i++) {
    // The first look does not wait: the phase may be there already, and a wait would be for the one after it.
    const status = await ok('get_task_status', { task_id, wait_seconds: i === 0 ? 0 : 2 });
    if (phases.includes(status.phase)) return status;
  }
  throw new Error(`task ${task_id} did not become ${phases}`);
}

const { tools } = await client.listTools();
assert.deepEqual(tools.map((tool) => tool.name).sort(), TOOLS);
for (const tool of tools) assert(tool.outputSchema && tool.annotations && tool.description.length > 40, tool.name);

assert.equal((await ok('ping')).status, 'ok');
assert.equal((await ok('health')).status, 'healthy');

const accepted = await ok('opencode_execute_task',
  { agent_id, task_description: short, labels: ['official'], idempotency_key: agent_id });
const again = await ok('opencode_execute_task',
  { agent_id, task_description: short, labels: ['official'], idempotency_key: agent_id });
assert.equal(again.task_id, accepted.task_id);
assert.equal(again.existing, true);
const { task_id } = accepted;
const done = await until(task_id, ['completed', 'failed', 'timeout', 'cancelled']);
assert.equal(done.status, 'completed', done.error);
assert.equal(done.exit_code, 0);
assert(done.output.length > 0);

// This server has no rooms, and says so.
const observer_id = '@ann:example.org';
for (const [name, args] of [['add_task_observer', { task_id, observer_id }], ['list_task_observers', { task_id }],
  ['remove_task_observer', { task_id, observer_id }], ['archive_task_conversation', { task_id }]]) {
  assert.match((await refused(name, args)).error, /homeserver/, name);
}

const history = await ok('get_task_history', { task_id, include_artifacts: true, events_limit: -1 });
assert.equal(history.events.length, history.events_returned);
assert(history.events.some((event) => event.type === 'task_completed'));
assert(history.artifacts.some((artifact) => artifact.name === 'execution_output'));

const { files } = await ok('get_task_files', { task_id, path: '/' });
for (const file_path of files.slice(0, 1)) {
  const file = await ok('read_task_file', { task_id, file_path });
  assert.equal(file.file_path, file_path);
}
assert.equal((await refused('read_task_file', { task_id, file_path: '../../etc/passwd' })).code, 'FILE');
assert.equal((await ok('list_tasks', { agent_id, label: 'official' })).tasks[0].task_id, task_id);

const hanging = (await ok('opencode_execute_task', { agent_id, task_description: long })).task_id;
await until(hanging, ['running']);
const sent = await ok('send_task_message', { task_id: hanging, message: `${long} (go on)`, message_type: 'guidance' });
assert.match(sent.delivery, /^(sent|kept)$/);
assert.equal((await ok('send_task_control', { task_id: hanging, control: 'pause' })).status, 'paused');
assert.equal((await ok('send_task_control', { task_id: hanging, control: 'resume' })).status, 'running');
const cancelled = await ok('send_task_control', { task_id: hanging, control: 'cancel', reason: 'enough' });
assert.equal(cancelled.status, 'cancelled');
assert.equal((await until(hanging, ['cancelled'])).phase, 'cancelled');

const asked = (await ok('opencode_execute_task', { agent_id, task_description: asking, attended: true, max_steps: 50,
  permissions: { allow: ['read'], ask: ['bash:git push*'], deny: ['webfetch'] } })).task_id;
const [request] = (await until(asked, ['input_required'])).requests;
assert.equal(request.kind, 'permission');
assert.deepEqual(request.answers, ['allow', 'allow_always', 'deny']);
const { request_id } = request;
const unfit = await refused('answer_task_request',
  { task_id: asked, request_id, answer: 'choices', choices: [['yes']] });
assert.equal(unfit.code, 'BAD_ANSWER');
assert.equal((await ok('answer_task_request', { task_id: asked, request_id, answer: 'deny', message: 'No.' })).answer, 'deny');
await until(asked, ['completed']);

const wrong = await refused('get_task_status', { task_id, wait_seconds: 90 });
assert.equal(wrong.fields[0].field, 'wait_seconds');
await client.close();
console.log('ok');
