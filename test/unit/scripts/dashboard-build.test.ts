// The build of the dashboard, of sources made for it: what the page names, what is built again, and what is refused.
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { buildDashboard } from '../../../scripts/dashboard-build.ts'

const PAGE = `<!doctype html>
<html lang="en">
  <head>
    <title>x</title>
    <script type="module" src="./main.tsx"></script>
  </head>
  <body></body>
</html>
`
const SOURCES: Record<string, string> = {
  'dashboard/index.html': PAGE,
  'dashboard/main.tsx': `import './styles/index.css'\nimport { shared } from './shared.ts'
document.title = shared\nvoid import('./pages/late.ts')\n`,
  'dashboard/shared.ts': `export const shared = 'shared between both'\n`,
  'dashboard/pages/late.ts': `import { shared } from '../shared.ts'\ndocument.title = shared + ' late'\n`,
  'dashboard/styles/index.css': 'body { margin: 0 }\n',
  'dashboard/static/icon.svg': '<svg/>',
}

let root: string
const write = async (path: string, text: string) => {
  await mkdir(dirname(join(root, path)), { recursive: true })
  await writeFile(join(root, path), text)
}
const build = () => buildDashboard({ root, cacheDir: join(root, 'cache') })

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'penstock-dashboard-'))
  for (const [path, text] of Object.entries(SOURCES)) await write(path, text)
})
afterEach(() => rm(root, { recursive: true, force: true }))

test('the page names script, style sheet and the pieces that are needed at once, by names that change with their bytes', async () => {
  const { dir, cached } = await build()
  expect(cached).toBe(false)
  const names = await readdir(dir)
  const page = await readFile(join(dir, 'index.html'), 'utf8')
  const named = [...page.matchAll(/(?:href|src)="\/dashboard\/([^"]+)"/g)].map(([, name]) => name ?? '')
  expect(named).toEqual([
    expect.stringMatching(/^main-[A-Z0-9]{8}\.css$/),
    expect.stringMatching(/^chunk-[A-Z0-9]{8}\.js$/),
    expect.stringMatching(/^main-[A-Z0-9]{8}\.js$/),
  ])
  for (const name of named) expect(names).toContain(name)
  expect(names.find((name) => name.startsWith('late-'))).toBeDefined()
  expect(page).not.toContain('main.tsx')
  expect(names).toContain('icon.svg')
  expect(await readFile(join(dir, named[2] ?? ''), 'utf8')).toContain('import("./late-')
})

test('what did not change is not built again, and what did is', async () => {
  const first = await build()
  expect(await build()).toEqual({ dir: first.dir, cached: true })
  await write('dashboard/dist/old.js', 'a build by hand')
  expect((await build()).cached).toBe(true)
  await write('dashboard/shared.ts', `export const shared = 'otherwise'\n`)
  const second = await build()
  expect([second.cached, second.dir === first.dir]).toEqual([false, false])
})

test.each<[string, string, string, string]>([
  ['a fault in the sources, by file and line', 'dashboard/shared.ts', 'export const = 1\n', 'dashboard/shared.ts:1: '],
  [
    'a style sheet that only a late page imports',
    'dashboard/pages/late.ts',
    `import './late.css'\n`,
    'import all style',
  ],
  [
    'an inline script',
    'dashboard/index.html',
    PAGE.replace('<title>', '<script>x()</script><title>'),
    'an inline script',
  ],
  ['an inline style', 'dashboard/index.html', PAGE.replace('<body>', '<body style="margin:0">'), 'an inline script'],
  ['a handler in markup', 'dashboard/index.html', PAGE.replace('<body>', '<body onload="x()">'), 'an inline script'],
  ['a page without its entry', 'dashboard/index.html', '<!doctype html>', 'does not have the line'],
])('%s is told, and nothing is kept', async (_, path, text, words) => {
  await write('dashboard/pages/late.css', 'i { color: red }\n')
  await write(path, text)
  await expect(build()).rejects.toThrow(words)
  expect(await readdir(join(root, 'cache', 'dashboards'))).toEqual([])
})
