// The dependencies of this checkout. Owns deciding whether node_modules fits package-lock.json, running `npm ci` where it
// does not, and handing over to the Node 24 that was installed. Plain JavaScript without imports from node_modules: it
// is what runs in a clean clone, on whatever Node (20 or newer) the machine has.
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { constants } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const SCRIPTS = dirname(fileURLToPath(import.meta.url))
const ROOT = dirname(SCRIPTS)
const NODE_MAJOR_MIN = 20
/** Holds the hash of the package-lock.json that node_modules was checked against. */
const STAMP = join('node_modules', '.penstock-lock')
/** Without a terminal npm is silent until it ends: a line this often shows that it lives. */
const HEARTBEAT_MS = 10_000
/** How often an orphan looks whether the npm that started it is still there. */
const PARENT_POLL_MS = 1_000
const FORWARDED = /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])

/**
 * Installs what is missing, then runs a TypeScript file of this folder with the installed Node; never returns.
 * @param {string} script file name in scripts/
 */
export async function runInstalled(script) {
  const major = Number.parseInt(process.versions.node, 10)
  if (major < NODE_MAJOR_MIN) fail(`Node ${process.versions.node} is too old; ${NODE_MAJOR_MIN} or newer is needed.`)
  if (!isInstalled(ROOT)) await install()
  handOver(join(SCRIPTS, script))
}

/**
 * Whether node_modules holds exactly what package-lock.json asks for, with its install scripts run.
 * @param {string} root folder of package-lock.json
 */
export function isInstalled(root) {
  if (!existsSync(nodeBinary(root))) return false
  const lockText = readFileSync(join(root, 'package-lock.json'), 'utf8')
  const digest = createHash('sha256').update(lockText).digest('hex')
  const stamp = join(root, STAMP)
  if (existsSync(stamp) && readFileSync(stamp, 'utf8').trim() === digest) return true
  const installed = join(root, 'node_modules', '.package-lock.json')
  if (!existsSync(installed)) return false
  if (!fitsLock(JSON.parse(lockText), JSON.parse(readFileSync(installed, 'utf8')))) return false
  writeFileSync(stamp, `${digest}\n`)
  return true
}

/**
 * Whether an installation (npm's own record of it) is what the lock file asks for. Optional packages may be absent:
 * they are for other platforms.
 * @typedef {{ version?: string, optional?: boolean, devOptional?: boolean }} Locked
 * @param {{ packages?: Record<string, Locked> }} lock
 * @param {{ packages?: Record<string, Locked> }} installed
 */
export function fitsLock(lock, installed) {
  const present = installed.packages ?? {}
  const wanted = Object.entries(lock.packages ?? {}).filter(([path]) => path !== '')
  for (const [path, entry] of wanted) {
    const found = present[path]
    if (found === undefined ? entry.optional !== true : found.version !== entry.version) return false
  }
  const known = new Set(wanted.map(([path]) => path))
  return Object.keys(present).every((path) => known.has(path))
}

/** @param {string} root */
function nodeBinary(root) {
  return join(root, 'node_modules', '.bin', process.platform === 'win32' ? 'node.cmd' : 'node')
}

async function install() {
  const startedMs = performance.now()
  const seconds = () => Math.round((performance.now() - startedMs) / 1000)
  console.error('Installing the locked dependencies (npm ci); the first time this takes a minute or so.')
  const heartbeat = process.stderr.isTTY
    ? undefined
    : setInterval(() => console.error(`  npm ci is at work, ${seconds()} s so far`), HEARTBEAT_MS)
  // Under `npm start` this is the very npm that runs us; else the one on PATH.
  const npmCli = process.env.npm_execpath
  const args = ['ci', '--include=dev', '--no-audit', '--no-fund']
  const child =
    npmCli !== undefined && /npm-cli\.[cm]?js$/.test(npmCli)
      ? spawn(process.execPath, [npmCli, ...args], { cwd: ROOT, stdio: ['ignore', 2, 2] })
      : spawn('npm', args, { cwd: ROOT, stdio: ['ignore', 2, 2] })
  for (const signal of FORWARDED) process.on(signal, () => child.kill(signal))
  const code = await new Promise((resolve) => {
    child.on('error', (error) => resolve(error.message))
    child.on('exit', (status, signal) => resolve(status ?? signal))
  })
  clearInterval(heartbeat)
  for (const signal of FORWARDED) process.removeAllListeners(signal)
  if (code === 'SIGINT' || code === 'SIGTERM') process.exit(130)
  if (code !== 0) {
    fail(`npm ci failed (${code}); its own message is above. Usual reasons:
  - no way to the package registry: look at the network, at HTTPS_PROXY, and at "npm config get registry"
  - package.json and package-lock.json disagree: git checkout package.json package-lock.json
  - no space or no permission to write in ${join(ROOT, 'node_modules')}`)
  }
  if (!isInstalled(ROOT)) {
    fail(`npm ci ended well, yet node_modules is not complete. Usually install scripts are switched off:
  "npm config get ignore-scripts" must say false; then run: npm rebuild`)
  }
  console.error(`Dependencies installed in ${seconds()} s.`)
}

/**
 * Becomes, as far as Node allows it, the installed Node running `path`: same terminal, arguments, signals, exit code.
 * @param {string} path
 */
function handOver(path) {
  const binary = nodeBinary(ROOT)
  const probe = spawnSync(binary, ['--version'], { encoding: 'utf8' })
  if (probe.status !== 0) {
    fail(`${binary} does not run (${probe.error?.message ?? probe.stderr.trim()}). Run: npm rebuild node`)
  }
  /** @type {NodeJS.ProcessEnv} */
  const env = { ...process.env, PATH: `${join(ROOT, 'node_modules', '.bin')}${delimiter}${process.env.PATH ?? ''}` }
  const proxied = [env.HTTPS_PROXY, env.https_proxy, env.HTTP_PROXY, env.http_proxy].some((value) => value)
  if (proxied && env.NODE_USE_ENV_PROXY === undefined) {
    // Downloads go through the machine's proxy; our own processes talk to each other on this host, never through it.
    env.NODE_USE_ENV_PROXY = '1'
    env.NO_PROXY = [env.NO_PROXY ?? env.no_proxy, '127.0.0.1', 'localhost'].filter(Boolean).join(',')
  }
  // The fourth channel carries nothing: its closing tells the child that this process was killed.
  const child = spawn(binary, [path, ...process.argv.slice(2)], {
    cwd: process.cwd(),
    env,
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
  })
  for (const signal of FORWARDED) process.on(signal, () => child.kill(signal))
  watchParent(() => child.kill('SIGTERM'))
  child.on('error', (error) => fail(`cannot start ${binary}: ${error.message}`))
  child.on('exit', (code, signal) => process.exit(code ?? 128 + (constants.signals[signal ?? 'SIGTERM'] ?? 15)))
}

/**
 * npm passes signals on, but a killed npm cannot. Only under npm: a launcher started from a shell may outlive it.
 * @param {() => void} onOrphaned
 */
function watchParent(onOrphaned) {
  if (process.env.npm_lifecycle_event === undefined || process.platform === 'win32') return
  const parent = process.ppid
  const timer = setInterval(() => {
    if (process.ppid === parent) return
    clearInterval(timer)
    onOrphaned()
  }, PARENT_POLL_MS)
  timer.unref()
}

/** @param {string} message @returns {never} */
function fail(message) {
  console.error(`\npenstock: ${message}`)
  process.exit(1)
}
