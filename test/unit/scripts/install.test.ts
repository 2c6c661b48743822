import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { fitsLock, isInstalled } from '../../../scripts/install.mjs'
import { tempFolder } from './support/temp.ts'

const LOCK = {
  packages: {
    '': { version: '0.1.0' },
    'node_modules/hono': { version: '4.0.0' },
    'node_modules/other-platform': { version: '1.0.0', optional: true },
  },
}
const INSTALLED = { packages: { 'node_modules/hono': { version: '4.0.0' } } }

test('an installation fits the lock file, whatever is for other platforms', () => {
  expect(fitsLock(LOCK, INSTALLED)).toBe(true)
})

test.each([
  ['lacks a package', { packages: {} }],
  ['has another version', { packages: { 'node_modules/hono': { version: '4.0.1' } } }],
  ['has a package too many', { packages: { ...INSTALLED.packages, 'node_modules/left-over': { version: '1.0.0' } } }],
])('an installation that %s does not fit', (_, installed) => {
  expect(fitsLock(LOCK, installed)).toBe(false)
})

function checkout(): string {
  const root = tempFolder()
  mkdirSync(join(root, 'node_modules', '.bin'), { recursive: true })
  writeFileSync(join(root, 'package-lock.json'), JSON.stringify(LOCK))
  writeFileSync(join(root, 'node_modules', '.package-lock.json'), JSON.stringify(INSTALLED))
  writeFileSync(join(root, 'node_modules', '.bin', 'node'), '')
  chmodSync(join(root, 'node_modules', '.bin', 'node'), 0o755)
  return root
}

test('a fitting installation is remembered by the hash of the lock file', () => {
  const root = checkout()
  expect(isInstalled(root)).toBe(true)
  rmSync(join(root, 'node_modules', '.package-lock.json'))
  expect(isInstalled(root)).toBe(true)
})

test('a changed lock file asks for a new installation', () => {
  const root = checkout()
  expect(isInstalled(root)).toBe(true)
  writeFileSync(
    join(root, 'package-lock.json'),
    JSON.stringify({ packages: { 'node_modules/hono': { version: '5.0.0' } } }),
  )
  expect(isInstalled(root)).toBe(false)
})

test('without node_modules, or without the Node in it, nothing is installed', () => {
  const root = checkout()
  rmSync(join(root, 'node_modules', '.bin', 'node'))
  expect(isInstalled(root)).toBe(false)
  rmSync(join(root, 'node_modules'), { recursive: true })
  expect(isInstalled(root)).toBe(false)
  expect(existsSync(join(root, 'node_modules'))).toBe(false)
})

/** npm leaves out the packages of other platforms when it writes a lock file beside a node_modules; `npm ci` then refuses. */
test('the lock file of this repository knows every package of every platform', () => {
  const text = readFileSync(join(import.meta.dirname, '../../../package-lock.json'), 'utf8')
  const { packages } = JSON.parse(text) as {
    packages: Record<string, { optionalDependencies?: Record<string, string> }>
  }
  const missing = Object.entries(packages).flatMap(([path, entry]) =>
    Object.keys(entry.optionalDependencies ?? {})
      .filter((name) => !foldersAbove(path).some((folder) => `${folder}node_modules/${name}` in packages))
      .map((name) => `${name}, asked for by ${path}`),
  )
  expect(missing).toEqual([])
})

/** Where Node looks for what a package asks for, innermost first. */
function foldersAbove(path: string): string[] {
  const parts = path.split('/node_modules/')
  const inner = parts.map((_, index) => `${parts.slice(0, parts.length - index).join('/node_modules/')}/`)
  return path === '' ? [''] : [...inner, '']
}
