// The documentation, walked: every command of every page is run on one real system, in the order in which the index leads through the
// pages, and what a page shows is what is printed. What becomes of a block is decided in support/docs/pages.ts; one that nothing is
// decided for fails here.
import { execFile } from 'node:child_process'
import { existsSync, globSync, readFileSync } from 'node:fs'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, normalize } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { commands } from '../../cli/commands.ts'
import { parse } from '../../cli/parse.ts'
import { findProgram } from '../../scripts/commands.ts'
import { Machine } from './support/docs/machine.ts'
import { isShown } from './support/docs/output.ts'
import { type Block, type Item, isBlock, readPage } from './support/docs/pages.ts'
import { type Prelude, walk } from './support/docs/walk.ts'

const ROOT = join(import.meta.dirname, '..', '..')
const INDEX = 'docs/README.md'
/** Each is a command that nobody tries: a page that needs one more has to argue for it here. */
const EXCUSED_MAX = 8
const PAGE_MS_MAX = 360_000
/** Readers have these; a machine for tests may not. */
const PROGRAMS = ['bash', 'curl', 'git', 'jq', 'tar']
const SDK = /@penstock\/sdk/
/** What the SDK's page leaves to its reader. */
const SDK_GIVEN = `
const [apiKey, ownKey, model] = [process.env.PENSTOCK_KEY ?? '', 'sk-own', 'smollm2-135m-instruct']
const messages = [{ role: 'user' as const, content: 'Name three rivers.' }]
const options = { gateway: { baseUrl: 'http://127.0.0.1:8787', apiKey } }`

const texts = new Map(
  globSync(['README.md', 'docs/**/*.md', 'sdk/README.md', 'dashboard/README.md'], { cwd: ROOT })
    .sort()
    .map((page) => [page, readFileSync(join(ROOT, page), 'utf8')]),
)
const textOf = (page: string): string => texts.get(page) ?? ''
const readable = new Map<string, Item[]>()
for (const [page, text] of texts) {
  try {
    readable.set(page, readPage(page, text))
  } catch {
    // Told by the test of this page.
  }
}
const blocksOf = (page: string): Block[] => (readable.get(page) ?? []).filter(isBlock)
const isRun = ({ use }: Block): boolean => use.kind === 'shell' || use.kind === 'module'

describe('every block is run, checked, or excused by a reason that counts', () => {
  it.each([...texts.keys()])('%s', (page) => {
    expect(() => readPage(page, textOf(page))).not.toThrow()
  })

  it('and few are excused', () => {
    const excused = [...texts.keys()].flatMap(blocksOf).filter(({ use }) => use.kind === 'excused')
    expect(excused.length).toBeLessThanOrEqual(EXCUSED_MAX)
  })

  it('a page that hides something from the test is found', () => {
    const fence = (language: string, ...lines: string[]) => ['```'.concat(language), ...lines, '```', ''].join('\n')
    for (const page of [
      fence('bash', 'npm start'),
      fence('', 'npm start'),
      fence('text', 'npx penstock doctor'),
      `${fence('sh', 'true')}Then:\n\n${fence('text', 'curl -s http://127.0.0.1:8787/health')}`,
      `<!-- run: no, too slow -->\n${fence('sh', 'npm start')}`,
      `<!-- run: no, takes minutes: -->\n${fence('sh', 'npm start')}`,
      `<!-- run: never -->\n${fence('sh', 'npm start')}`,
      `<!-- run: stays -->\n\nSome words.\n\n${fence('sh', 'npm start')}`,
      fence('toml', 'format = 1'),
      fence('toml', '# penstock.toml', 'format = 1'),
      fence('py', 'import openai'),
      '```sh\nnpm start\n',
    ])
      expect(() => readPage('docs/page.md', page), page).toThrow(/docs\/page\.md:\d+ /)
  })

  it('an output is the same where nothing but values differ', () => {
    const shown = '✓ Gateway: http://127.0.0.1:8787\n…\nkey  sk-…  $0.02'
    expect(isShown(shown, '✓  Gateway: http://127.0.0.1:9\nmore\nkey sk-ab $0.5\n')).toBe(true)
    for (const other of [
      '✗ Gateway: http://127.0.0.1:9\nkey sk-a $1',
      '✓ Gateway: http://127.0.0.1:9',
      `${shown}\nmore`,
    ])
      expect(isShown(shown, other)).toBe(false)
  })
})

describe('what pages name is there', () => {
  const scripts = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')).scripts as Record<string, string>

  it.each([...texts.keys()])('links, scripts and commands of %s', (page) => {
    const wrong: string[] = []
    for (const [, target = ''] of textOf(page).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue
      const [path = '', anchor] = target.split('#')
      const file = path === '' ? page : normalize(join(dirname(page), path))
      if (!existsSync(join(ROOT, file))) wrong.push(`${target}: no such file`)
      else if (anchor !== undefined && !anchorsOf(readFileSync(join(ROOT, file), 'utf8')).has(anchor))
        wrong.push(`${target}: no such heading`)
    }
    for (const [, code = ''] of withoutBlocks(textOf(page)).matchAll(/`([^`\n]+)`/g)) {
      const script = /^npm run (?:-s )?([\w:]+)/.exec(code)?.[1]
      if (script !== undefined && scripts[script] === undefined) wrong.push(`${code}: no such script`)
      const words = /^(?:npx )?penstock (.+)$/.exec(code)?.[1]
      if (words !== undefined && !isCommand(words.replace(/ ?\[[^\]]*\]/g, ''))) wrong.push(`${code}: no such command`)
    }
    expect(wrong).toEqual([])
  })

  it('the examples of docs/cli.md are complete command lines', () => {
    const lines = blocksOf('docs/cli.md').flatMap(({ text }) => text.split('\n'))
    expect(lines.length).toBeGreaterThan(50)
    for (const line of lines) {
      const at = line.indexOf('penstock ')
      expect(at, line).toBeGreaterThanOrEqual(0)
      expect(isCommand(line.slice(at + 'penstock '.length)), line).toBe(true)
    }
  })

  it('npx finds what the pages call by it', async () => {
    const npx = (...words: string[]) => promisify(execFile)('npx', words, { cwd: ROOT })
    expect((await npx('penstock', 'keys', 'create', '--help')).stdout).toContain('--if-absent')
    expect((await npx('node', '--version')).stdout).toMatch(/^v24\./)
  })
})

describe('components that pages show', () => {
  it('are compiled with the dashboard', async () => {
    const shown = [...texts.keys()].flatMap(blocksOf).filter(({ language }) => language === 'tsx')
    expect(shown.length).toBeGreaterThan(0)
    const dir = await mkdtemp(join(tmpdir(), 'penstock-docs-tsx-'))
    try {
      await mkdir(join(dir, 'pages'))
      for (const [index, { text }] of shown.entries()) await writeFile(join(dir, 'pages', `page${index}.tsx`), text)
      const dashboard = join(ROOT, 'dashboard')
      const compilerOptions = {
        rootDirs: [dashboard, dir],
        typeRoots: [join(ROOT, 'node_modules', '@types')],
        paths: {
          '*': [join(ROOT, 'node_modules', '*')],
        },
      }
      const project = {
        extends: join(dashboard, 'tsconfig.json'),
        compilerOptions,
        include: ['pages', join(dashboard, 'styles.d.ts')],
      }
      await writeFile(join(dir, 'tsconfig.json'), JSON.stringify(project))
      const tsc = promisify(execFile)(join(ROOT, 'node_modules', '.bin', 'tsc'), ['-p', dir])
      await tsc.catch(({ stdout }: { stdout: string }) => expect(stdout).toBe(''))
    } finally {
      await rm(dir, { recursive: true, force: true })
    }
  })
})

describe('a reader who types everything', () => {
  let machine: Machine
  beforeAll(async () => {
    machine = await Machine.make()
  })
  afterAll(() => machine?.discard())

  // In the order of the index, then what the tasks rest on.
  const linked = [...textOf(INDEX).matchAll(/\]\((tasks\/[\w-]+\.md)\)/g)].map(([, path]) => `docs/${path}`)
  const order = [...new Set(['README.md', ...linked, ...texts.keys()])].filter((page) => blocksOf(page).some(isRun))
  const preludes: Prelude[] = [
    { for: 'shell', when: /\badmin (?:GET|PUT|POST|PATCH|DELETE) /, text: definitionOf('docs/use.md', 'admin()') },
    { for: 'shell', when: SDK, text: 'export PENSTOCK_KEY=$(npx penstock keys create sdk --quiet)' },
    { for: 'module', when: SDK, text: SDK_GIVEN },
  ]

  it.for(order)('%s', { timeout: PAGE_MS_MAX }, async (page, { skip }) => {
    const missing = PROGRAMS.filter((name) => uses(page, name) && findProgram(name) === undefined)
    if (missing.length > 0) {
      console.log(`${page} is not walked: this machine has no ${missing.join(' and no ')}.`)
      skip()
    }
    await walk(readable.get(page) ?? [], machine, preludes)
  })
})

const uses = (page: string, program: string): boolean =>
  program === 'bash' || blocksOf(page).some((block) => isRun(block) && new RegExp(`\\b${program}\\b`).test(block.text))

/** The block of a page that other pages rest on. */
function definitionOf(page: string, words: string): string {
  const found = blocksOf(page).find((block) => isRun(block) && block.text.includes(words))
  return found?.text ?? `echo "${page} defines no ${words}"; exit 1`
}

/** Whole, or named without what it works on; or all commands of a noun. */
function isCommand(line: string): boolean {
  const words = wordsOf(line)
  if (commands.some(({ path }) => `${path.join(' ')} `.startsWith(`${words.join(' ')} `))) return true
  try {
    return parse(words, commands) !== undefined
  } catch {
    return false
  }
}

/** As a shell would cut them, up to a pipe, a redirection, a comment or a closing bracket. */
function wordsOf(line: string): string[] {
  const words: string[] = []
  for (const [, double, single, bare] of line.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)) {
    if (bare !== undefined && /^[|>;#]/.test(bare)) break
    words.push(double ?? single ?? (bare ?? '').replace(/\)$/, ''))
  }
  return words
}

const withoutBlocks = (text: string): string => text.replace(/^\s*```[\s\S]*?^\s*```\s*$/gm, '')

/** As GitHub makes them of headings. */
function anchorsOf(text: string): Set<string> {
  const headings = [...withoutBlocks(text).matchAll(/^#+ (.+)$/gm)].map(([, title = '']) => title)
  return new Set(
    headings.map((title) =>
      title
        .toLowerCase()
        .replace(/[^\p{L}\p{N}\s_-]/gu, '')
        .replace(/\s/g, '-'),
    ),
  )
}
