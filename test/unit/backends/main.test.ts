// The agent as a process: its lines, signals and exit codes, and that its engine never outlives it.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { FakeEngineSettings } from './support/fake-engine.ts'
import { type FakeGateway, startFakeGateway, until, writeFakeEngine } from './support/harness.ts'
import { writeTestModel } from './support/test-model.ts'

const mainPath = fileURLToPath(new URL('../../../backends/main.ts', import.meta.url))
const CANARY = 'canary-join-token-5417'

let folder: string
let gateway: FakeGateway
let child: ChildProcess | undefined
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'main-test-'))
  gateway = await startFakeGateway()
})
afterEach(async () => {
  child?.kill('SIGKILL')
  await gateway.close()
  rmSync(folder, { recursive: true, force: true })
})

/** Gone, or a zombie that nobody has waited for yet. */
function isGone(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.startsWith('Z') ?? true
  } catch {
    return true
  }
}

function start(engine: FakeEngineSettings = {}, model?: string) {
  const modelPath = model ?? join(folder, 'model.gguf')
  if (model === undefined) writeTestModel(modelPath)
  const options = { engine: writeFakeEngine(folder), model: modelPath, gateway: gateway.url, 'model-name': 'm' }
  const argv = Object.entries({ ...options, 'state-dir': join(folder, 'state') }).flatMap(([k, v]) => [`--${k}`, v])
  const started = spawn(process.execPath, ['--no-warnings', mainPath, ...argv], {
    env: { ...process.env, FAKE_ENGINE: JSON.stringify(engine), PENSTOCK_JOIN_TOKEN: CANARY },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  child = started
  const seen = { out: '', err: '' }
  started.stdout.on('data', (chunk: Buffer) => {
    seen.out += chunk
  })
  started.stderr.on('data', (chunk: Buffer) => {
    seen.err += chunk
  })
  const exit = new Promise<number | string | null>((resolve) =>
    started.once('exit', (code, signal) => resolve(code ?? signal)),
  )
  const event = async (name: string): Promise<Record<string, unknown>> => {
    let found: Record<string, unknown> | undefined
    await until(() => {
      const complete = seen.out.split('\n').slice(0, -1)
      found = complete.map((line) => JSON.parse(line)).find((line) => line.event === name)
      return found !== undefined
    })
    return found ?? {}
  }
  return { process: started, seen, exit, event }
}

test('it says listening, then ready; SIGTERM drains and exits 0 with the engine gone', async () => {
  const agent = start()
  expect(await agent.event('listening')).toMatchObject({ url: expect.stringMatching(/^http:\/\/127\.0\.0\.1:\d+$/) })
  const ready = await agent.event('ready')
  await until(() => gateway.joins.length === 1)
  agent.process.kill('SIGTERM')
  expect(await agent.exit).toBe(0)
  expect(isGone(Number(ready.pid))).toBe(true)
  expect(gateway.leaves).toHaveLength(1)
  expect(agent.seen.out + agent.seen.err).not.toContain(CANARY)
  for (const line of agent.seen.err.trim().split('\n')) expect(JSON.parse(line)).toHaveProperty('event')
})

test('kill -9 of the agent takes the engine with it', async () => {
  const agent = start()
  const ready = await agent.event('ready')
  agent.process.kill('SIGKILL')
  await agent.exit
  await until(() => isGone(Number(ready.pid)))
})

test('a model that the engine refuses ends the agent with exit code 2 and the engine’s message', async () => {
  const agent = start({ refuseModel: 'model.gguf: unknown tensor type 99 at byte 512' })
  expect(await agent.exit).toBe(2)
  expect(await agent.event('failed')).toMatchObject({ message: 'model.gguf: unknown tensor type 99 at byte 512' })
})

test('a file that is no model ends the agent with exit code 2 and names the file', async () => {
  const path = join(folder, 'noise.gguf')
  writeFileSync(path, 'GGUF but not really')
  const agent = start({}, path)
  expect(await agent.exit).toBe(2)
  expect((await agent.event('failed')).message).toContain('noise.gguf')
})

test('wrong options end it with exit code 2 and the option’s name', async () => {
  const failing = spawn(process.execPath, ['--no-warnings', mainPath, '--model', 'x'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let text = ''
  failing.stderr.on('data', (chunk: Buffer) => {
    text += chunk
  })
  const code = await new Promise((resolve) => failing.once('close', resolve))
  expect(code).toBe(2)
  expect(text).toContain('--engine is required')
})
