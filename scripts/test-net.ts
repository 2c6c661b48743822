// `npm run test:net`: the system over several hosts, each a network namespace with a line of its own that delays, loses and is
// cut. Owns what is needed for it and the hub that the tests run in; hosts are test/net/network.ts. Needs Linux, root, `ip` and
// a compiler; without them it says so and fails, since nothing was shown.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { findProgram } from './commands.ts'

const ROOT = join(import.meta.dirname, '..')

const missing = [
  ...(process.platform === 'linux' && process.getuid?.() === 0 ? [] : ['root on Linux']),
  ...(findProgram('ip') === undefined ? ['ip (iproute2)'] : []),
  ...(findProgram('c++') === undefined ? ['c++'] : []),
  ...(existsSync('/dev/net/tun') ? [] : ['/dev/net/tun']),
]
if (missing.length > 0) {
  console.error(`npm run test:net needs ${missing.join(', ')}.`)
  process.exit(1)
}

const hub = `penstock-${process.pid}`
const dir = await mkdtemp(join(tmpdir(), 'penstock-net-'))
const link = join(dir, 'link')
try {
  execFileSync('c++', ['-std=c++20', '-O1', '-o', link, join(ROOT, 'test', 'net', 'link.cc')], { stdio: 'inherit' })
  execFileSync('ip', ['netns', 'add', hub])
  execFileSync('ip', ['-n', hub, 'link', 'set', 'lo', 'up'])
  execFileSync('ip', ['netns', 'exec', hub, 'sh', '-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward'])
  const vitest = [join(ROOT, 'node_modules', '.bin', 'vitest'), 'run', '--project', 'net', ...process.argv.slice(2)]
  const { status } = spawnSync('ip', ['netns', 'exec', hub, ...vitest], {
    cwd: ROOT,
    stdio: 'inherit',
    env: { ...process.env, PENSTOCK_NET_HUB: hub, PENSTOCK_NET_LINK: link },
  })
  process.exitCode = status ?? 1
} finally {
  const left = await readdir('/run/netns')
  for (const name of left) {
    if (name === hub || name.startsWith(`${hub}-`)) spawnSync('ip', ['netns', 'del', name], { stdio: 'inherit' })
  }
  await rm(dir, { recursive: true, force: true })
}
