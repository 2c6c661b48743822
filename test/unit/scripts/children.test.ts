import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { expect, onTestFinished, test } from 'vitest'
import { Children, type ChildSpec, describeExit } from '../../../scripts/children.ts'
import { LogFile } from '../../../scripts/log-file.ts'
import { processIdentity, signalProcess } from '../../../scripts/processes.ts'
import { supervise } from '../../../scripts/supervisor.ts'
import { tempFolder } from './support/temp.ts'

const LIVE = 'setInterval(() => {}, 1000)'

function family(): { children: Children; dir: string; lines: string[] } {
  const dir = tempFolder()
  const lines: string[] = []
  const children = new Children(dir, dir, (name, line) => lines.push(`${name}: ${line}`))
  onTestFinished(async () => {
    children.killAll()
    await children.close()
  })
  return { children, dir, lines }
}

const node = (script: string, more: Partial<ChildSpec> = {}): ChildSpec => ({
  name: 'part',
  command: process.execPath,
  args: ['-e', script],
  env: process.env,
  stopGraceMs: 5_000,
  ...more,
})

/** Resolves when no process of this id runs any more; the test's own timeout is the bound. */
async function gone(pid: number): Promise<void> {
  while (processIdentity(pid) !== undefined) await new Promise((resolve) => setTimeout(resolve, 10))
}

test('a child is stopped by being asked, and its lines are in its log', async () => {
  const { children, dir, lines } = family()
  const script = `process.on('SIGTERM', () => { console.log('bye'); process.exit(3) }); console.log('up'); ${LIVE}`
  const up = Promise.withResolvers<void>()
  const running = children.start(node(script, { onLine: (line) => line === 'up' && up.resolve() }))
  await up.promise
  await running.stop()
  expect(await running.exited).toEqual({ code: 3, signal: undefined })
  expect(lines).toEqual(['part: up', 'part: bye'])
  expect(readFileSync(join(dir, 'part.log'), 'utf8')).toBe('up\nbye\n')
  expect(statSync(join(dir, 'part.log')).mode & 0o777).toBe(0o600)
})

test('a child that ignores the request is killed after its grace', async () => {
  const { children } = family()
  const up = Promise.withResolvers<void>()
  const script = `process.on('SIGTERM', () => {}); console.log('up'); ${LIVE}`
  const running = children.start(node(script, { stopGraceMs: 50, onLine: () => up.resolve() }))
  await up.promise
  await running.stop()
  expect(await running.exited).toEqual({ code: undefined, signal: 'SIGKILL' })
})

test('what a killed child had started goes with it', async () => {
  const { children } = family()
  const pid = Promise.withResolvers<number>()
  const script = `console.log(require('child_process').spawn(process.execPath, ['-e', '${LIVE}']).pid); ${LIVE}`
  const running = children.start(node(script, { onLine: (line) => pid.resolve(Number(line)) }))
  const grandchild = await pid.promise
  signalProcess(running.pid, 'SIGKILL')
  await running.exited
  await gone(grandchild)
})

test('a command that cannot be started ends with the reason in its lines', async () => {
  const { children } = family()
  const running = children.start(node('', { command: '/no/such/program' }))
  const exit = await running.exited
  expect(describeExit('part', exit, running.recent())).toContain('cannot start /no/such/program')
})

test('the next start ends what was left running, and only that', async () => {
  const dir = tempFolder()
  const left = spawn(process.execPath, ['-e', LIVE], { detached: true, stdio: 'ignore' })
  const other = spawn(process.execPath, ['-e', LIVE], { stdio: 'ignore' })
  onTestFinished(() => void other.kill('SIGKILL'))
  const [pid = 0, otherPid = 0] = [left.pid, other.pid]
  const record = [
    { name: 'agent', pid, identity: processIdentity(pid), signal: 'SIGTERM' },
    { name: 'reused', pid: otherPid, identity: 'of an earlier process', signal: 'SIGTERM' },
  ]
  writeFileSync(join(dir, 'children.json'), JSON.stringify(record))
  expect(await Children.endLeftOvers(dir)).toEqual(['agent'])
  expect(processIdentity(pid)).toBeUndefined()
  expect(processIdentity(otherPid)).toBeDefined()
  expect(await Children.endLeftOvers(dir)).toEqual([])
})

test('a launcher that is killed takes its children with it', async () => {
  const dir = tempFolder()
  const script = `
    const { Children } = await import(${JSON.stringify(join(import.meta.dirname, '../../../scripts/children.ts'))})
    const children = new Children(${JSON.stringify(dir)}, ${JSON.stringify(dir)}, () => {})
    const child = children.start({ name: 'part', command: process.execPath, args: ['-e', '${LIVE}'],
      env: process.env, stopGraceMs: 1000 })
    console.log(child.pid)
    ${LIVE}`
  const launcher = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  onTestFinished(() => void launcher.kill('SIGKILL'))
  const [line] = await once(createInterface(launcher.stdout), 'line')
  const pid = Number(line)
  expect(processIdentity(pid)).toBeDefined()
  launcher.kill('SIGKILL')
  await gone(pid)
})

test('a guardian that is killed is replaced, and knows the children of the one before', async () => {
  const dir = tempFolder()
  const script = `
    const { Children } = await import(${JSON.stringify(join(import.meta.dirname, '../../../scripts/children.ts'))})
    const children = new Children(${JSON.stringify(dir)}, ${JSON.stringify(dir)}, () => {})
    const child = children.start({ name: 'part', command: process.execPath, args: ['-e', '${LIVE}'],
      env: process.env, stopGraceMs: 1000 })
    const first = children.guardianPid()
    process.kill(first, 'SIGKILL')
    const timer = setInterval(() => {
      if (children.guardianPid() === first) return
      clearInterval(timer)
      console.log(child.pid)
    }, 10)
    ${LIVE}`
  const launcher = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  onTestFinished(() => void launcher.kill('SIGKILL'))
  const [line] = await once(createInterface(launcher.stdout), 'line')
  launcher.kill('SIGKILL')
  await gone(Number(line))
})

test('a part that dies is restarted, with its last words told', async () => {
  const { children } = family()
  const told: string[] = []
  const again = Promise.withResolvers<void>()
  const part = await supervise({
    name: 'The part',
    start: async () => {
      const up = Promise.withResolvers<void>()
      const running = children.start(node(`console.log('up'); ${LIVE}`, { onLine: () => up.resolve() }))
      await up.promise
      return running
    },
    onDown: (text) => told.push(text),
    onRestarted: () => again.resolve(),
    firstDelayMs: 1,
  })
  const first = part.current().pid
  signalProcess(first, 'SIGKILL')
  await again.promise
  expect(part.current().pid).not.toBe(first)
  expect(told).toEqual(['The part was killed by SIGKILL; its last lines:\n    up'])
  await part.stop()
  expect(told).toHaveLength(1)
})

test('a part that is restarted by order ends in order, and nobody is told that it died', async () => {
  const { children } = family()
  const told: string[] = []
  const part = await supervise({
    name: 'The part',
    start: async () => {
      const up = Promise.withResolvers<void>()
      const running = children.start(node(`console.log('up'); ${LIVE}`, { onLine: () => up.resolve() }))
      await up.promise
      return running
    },
    onDown: (text) => told.push(text),
    onRestarted: () => told.push('again'),
  })
  const first = part.current().pid
  await Promise.all([part.restart(), part.restart()])
  expect(part.current().pid).not.toBe(first)
  expect(told).toEqual(['again'])
  await part.stop()
})

test('a part whose place another process takes goes on by itself, and the next one is watched', async () => {
  const { children } = family()
  const told: string[] = []
  const again: PromiseWithResolvers<void>[] = []
  const part = await supervise({
    name: 'The part',
    start: async () => {
      const up = Promise.withResolvers<void>()
      const running = children.start(node(`console.log('up'); ${LIVE}`, { onLine: () => up.resolve() }))
      await up.promise
      return running
    },
    onDown: (text) => told.push(text.slice(0, 28)),
    onRestarted: () => again.shift()?.resolve(),
    firstDelayMs: 1,
  })
  const first = part.current()
  await part.replace()
  const second = part.current()
  expect(second.pid).not.toBe(first.pid)
  expect(processIdentity(first.pid)).toBeDefined()
  // Its end is nobody's concern, in order or not.
  signalProcess(first.pid, 'SIGKILL')
  await first.exited
  expect(part.current()).toBe(second)
  const restarted = Promise.withResolvers<void>()
  again.push(restarted)
  signalProcess(second.pid, 'SIGKILL')
  await restarted.promise
  expect(told).toEqual(['The part was killed by SIGKI'])
  await part.stop()
})

test('a part that cannot be restarted is tried again', async () => {
  const { children } = family()
  const told: string[] = []
  const again = Promise.withResolvers<void>()
  let starts = 0
  const part = await supervise({
    name: 'The part',
    start: async () => {
      starts++
      if (starts === 2) throw new Error('not yet')
      return children.start(node(starts === 1 ? '' : LIVE))
    },
    onDown: (text) => told.push(text),
    onRestarted: () => again.resolve(),
    firstDelayMs: 1,
  })
  await again.promise
  expect(told).toEqual(['The part ended with code 0 without a word', 'The part could not be restarted: not yet'])
  await part.stop()
})

test('a log file has a bound, and keeps what came just before', () => {
  const path = join(tempFolder(), 'a.log')
  const log = new LogFile(path, 1000)
  for (let line = 0; line < 100; line++) log.write(`line ${line} ${'x'.repeat(50)}`)
  log.close()
  expect(statSync(path).size + statSync(`${path}.1`).size).toBeLessThan(2500)
  expect(readFileSync(path, 'utf8')).toContain('line 99 ')
  expect(log.recent()).toHaveLength(20)
  log.write('after the end')
  expect(log.recent().at(-1)).toBe('after the end')
})
