import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { type Config, ConfigError, helpText, readConfig } from '../../../backends/config.ts'
import { createSocketDirectory } from '../../../backends/engine/socket-path.ts'
import { createLog } from '../../../backends/log.ts'

const REQUIRED = ['--engine', 'e', '--model', 'm', '--model-name', 'n', '--gateway', 'http://g/', '--state-dir', 's']
const read = (argv: string[], env: NodeJS.ProcessEnv = {}): Config => {
  const config = readConfig(argv, env)
  if (config === 'help') throw new Error('help was not asked for')
  return config
}

test('the required options are enough', () => {
  expect(read(REQUIRED)).toMatchObject({
    gatewayUrl: 'http://g',
    listenHost: '127.0.0.1',
    listenPort: 0,
    modelName: 'n',
  })
})

test('every option can come from the environment, and the command line wins', () => {
  const env = {
    PENSTOCK_AGENT_THREADS: '3',
    PENSTOCK_AGENT_LISTEN: '[::1]:7801',
    PENSTOCK_JOIN_TOKEN: ' token\n',
    PENSTOCK_AGENT_MODEL_NAME: 'from-env',
  }
  expect(read(REQUIRED, env)).toMatchObject({
    threads: 3,
    listenHost: '::1',
    listenPort: 7801,
    joinToken: 'token',
    modelName: 'n',
  })
})

test('what is missing, unknown or out of bounds is named', () => {
  expect(() => read([])).toThrow('--engine is required')
  expect(() => read([...REQUIRED, '--threads', '0'])).toThrow(/--threads/)
  expect(() => read([...REQUIRED, '--listen', 'nowhere'])).toThrow(/--listen: must be HOST:PORT/)
  expect(() => read([...REQUIRED, '--listen', 'a:99999'])).toThrow(/99999/)
  expect(() => read([...REQUIRED, '--gateway', 'ftp://x'])).toThrow(/--gateway/)
  expect(() => read([...REQUIRED, '--frobnicate'])).toThrow(ConfigError)
  expect(() => read([...REQUIRED, '--join-token-file', '/nonexistent/token'])).toThrow(/--join-token-file/)
})

test('engines are roles, and addresses for other hosts count up with them', () => {
  expect(read(REQUIRED).engines).toEqual(['both'])
  const argv = ['--engines', 'prefill, decode,decode', '--kv-listen', '0.0.0.0:7900', '--kv-public', '10.0.0.1:80']
  expect(read([...REQUIRED, ...argv])).toMatchObject({
    engines: ['prefill', 'decode', 'decode'],
    kvListen: { host: '0.0.0.0', port: 7900 },
    kvPublic: { host: '10.0.0.1', port: 80 },
  })
  expect(() => read([...REQUIRED, '--engines', 'prefil'])).toThrow(
    /--engines: each must be one of both, prefill, decode/,
  )
  expect(() => read([...REQUIRED, ...argv, '--kv-listen', '0.0.0.0:65534'])).toThrow('--kv-listen: port 65536')
  expect(() => read([...REQUIRED, '--kv-public', '10.0.0.1:80'])).toThrow('give both')
})

test('who multiplies on a GPU is for a GPU', () => {
  const argv = ['--device', 'cuda', '--gemm', 'auto']
  expect(read([...REQUIRED, ...argv])).toMatchObject({ device: 'cuda', gemm: 'auto' })
  expect(read([...REQUIRED, '--device', 'cuda:1'], { PENSTOCK_AGENT_GEMM: 'cublaslt' }).gemm).toBe('cublaslt')
  expect(() => read([...REQUIRED, '--device', 'cuda', '--gemm', 'cublas'])).toThrow(/--gemm/)
  expect(() => read([...REQUIRED, '--gemm', 'auto'])).toThrow('--gemm is for --device cuda')
  expect(() => read([...REQUIRED, '--device', 'cpu', '--gemm', 'own'])).toThrow('--gemm is for --device cuda')
})

test('help names every option and its environment variable', () => {
  expect(readConfig(['--help'], {})).toBe('help')
  for (const flag of ['--engine', '--listen', '--queue', 'PENSTOCK_AGENT_KV_MIB']) expect(helpText()).toContain(flag)
})

test('the socket path fits the kernel’s limit even where the state folder is deep, and stale sockets are removed', () => {
  const folder = mkdtempSync(join(tmpdir(), 'socket-test-'))
  const deep = join(folder, 'x'.repeat(100))
  const far = createSocketDirectory(deep)
  expect(Buffer.byteLength(far.next())).toBeLessThanOrEqual(107)
  far.remove()
  const stale = join(folder, 'engine-sockets-abc123')
  mkdirSync(stale)
  writeFileSync(join(stale, 'engine-1.sock'), '')
  const near = createSocketDirectory(folder)
  expect(near.next()).not.toBe(near.next())
  near.remove()
  expect(existsSync(stale)).toBe(false)
  rmSync(folder, { recursive: true })
})

test('a log line that repeats is written a bounded number of times and the rest is counted', () => {
  const lines: string[] = []
  let nowMs = 0
  const log = createLog(
    (line) => lines.push(line),
    () => nowMs,
  )
  for (let i = 0; i < 1000; i++) log('warn', 'same')
  expect(lines.length).toBeLessThan(50)
  nowMs = 5000
  log('warn', 'same')
  expect(JSON.parse(lines.at(-1) ?? '')).toMatchObject({ event: 'same', suppressed: 1000 - (lines.length - 1) })
})
