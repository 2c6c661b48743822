import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { LockHeld, takeLock } from '../../../scripts/lock.ts'
import { processIdentity } from '../../../scripts/processes.ts'
import { tempFolder } from './support/temp.ts'

const lockPath = () => join(tempFolder(), 'lock')

/** A process that lives until the end of the test. */
function sleeper(): number {
  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' })
  onTestFinished(() => void child.kill('SIGKILL'))
  return child.pid ?? 0
}

test('a lock has one holder, and a second try names it', async () => {
  const path = lockPath()
  const lock = await takeLock(path)
  const refusal = await takeLock(path).catch((error: unknown) => error)
  expect(refusal).toBeInstanceOf(LockHeld)
  expect((refusal as LockHeld).pid).toBe(process.pid)
  lock.release()
  expect(existsSync(path)).toBe(false)
  ;(await takeLock(path)).release()
})

test('giving back leaves nothing behind', async () => {
  const path = lockPath()
  const lock = await takeLock(path)
  lock.release()
  lock.release()
  expect(readdirSync(dirname(path))).toEqual([])
})

test('a waiter gets the lock when the holder gives it back', async () => {
  const path = lockPath()
  const first = await takeLock(path)
  const second = takeLock(path, { waitMs: 10_000 })
  first.release()
  ;(await second).release()
})

test('the lock of a process that is gone is taken over', async () => {
  const path = lockPath()
  const gone = spawnSync(process.execPath, ['-e', 'console.log(process.pid)'], { encoding: 'utf8' })
  writeFileSync(path, JSON.stringify({ pid: Number(gone.stdout), identity: '1' }))
  ;(await takeLock(path)).release()
})

test('the lock of an earlier process with the same id is taken over', async () => {
  const path = lockPath()
  writeFileSync(path, JSON.stringify({ pid: sleeper(), identity: 'the start time of another life' }))
  ;(await takeLock(path)).release()
})

test('the lock of another live process is respected', async () => {
  const path = lockPath()
  const pid = sleeper()
  const content = JSON.stringify({ pid, identity: processIdentity(pid) })
  writeFileSync(path, content)
  await expect(takeLock(path)).rejects.toThrow(`held by process ${pid}`)
  expect(readFileSync(path, 'utf8')).toBe(content)
})

test('a damaged lock file holds nothing', async () => {
  const path = lockPath()
  writeFileSync(path, '{"pid":')
  ;(await takeLock(path)).release()
})

test('the mark of a recovery that died does not block the lock for ever', async () => {
  const path = lockPath()
  writeFileSync(path, 'damaged')
  mkdirSync(`${path}.recovery`)
  utimesSync(`${path}.recovery`, 1, 1)
  ;(await takeLock(path)).release()
})

test('of many that find a dead lock at once, one gets it', async () => {
  const path = lockPath()
  writeFileSync(path, JSON.stringify({ pid: 2_000_000_000, identity: '1' }))
  const tries = await Promise.allSettled(Array.from({ length: 8 }, () => takeLock(path)))
  expect(tries.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
})

test('a lock that is not ours any more is not removed', async () => {
  const path = lockPath()
  const lock = await takeLock(path)
  writeFileSync(path, 'of somebody else')
  lock.release()
  expect(readFileSync(path, 'utf8')).toBe('of somebody else')
})
