// What users of the package get: a tarball that publint and "Are the types wrong?" find nothing in, a doc comment on every public name,
// and examples that compile against the published types.
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { checkPackage, createPackageFromTarballData } from '@arethetypeswrong/core'
import { publint } from 'publint'
import { formatMessage } from 'publint/utils'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { installBuiltSdk } from '../../support/built-sdk.ts'

const ROOT = join(import.meta.dirname, '..', '..', '..')
const run = promisify(execFile)
/**
 * The package is made of ES modules alone: `require()` of them works in every Node that it supports (22 and newer), and resolvers from
 * before `exports` (`moduleResolution: node10`) know no such package at all. That is attw's profile `esm-only`.
 */
const IGNORED_RESOLUTIONS = ['node10', 'node16-cjs']

let dir: string
let home: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'penstock-published-'))
  home = await installBuiltSdk(dir)
}, 60_000)
afterAll(() => rm(dir, { recursive: true, force: true }))

const packed = async (): Promise<Uint8Array<ArrayBuffer>> => {
  await run('npm', ['pack', '--offline', '--ignore-scripts', '--pack-destination', dir], { cwd: home })
  const name = (await readdir(dir)).find((file) => file.endsWith('.tgz'))
  return new Uint8Array(await readFile(join(dir, name ?? '')))
}

describe('the tarball', () => {
  it('has nothing that publint or attw would change', async () => {
    const tarball = await packed()
    const { messages, pkg } = await publint({ pack: { tarball: tarball.buffer }, level: 'suggestion', strict: true })
    expect(messages.map((message) => formatMessage(message, pkg))).toEqual([])
    const checked = await checkPackage(createPackageFromTarballData(tarball))
    if (checked.types === false) throw new Error('the package has no types')
    const problems = checked.problems.filter(
      (problem) => !('resolutionKind' in problem && IGNORED_RESOLUTIONS.includes(problem.resolutionKind)),
    )
    expect(problems).toEqual([])
    expect(Object.keys(checked.entrypoints)).toEqual(['.', './openai', './ai-sdk', './testing', './package.json'])
  }, 60_000)
})

type Declared = { file: string; name: string; doc: string }

const ENTRIES = ['index', 'openai', 'ai-sdk', 'testing']
const DOC = String.raw`(?<doc>/\*\*(?:[^*]|\*(?!/))*\*/\s*)?`
const declarations = () => Promise.all(ENTRIES.map((entry) => readFile(join(home, 'dist', `${entry}.d.ts`), 'utf8')))

/** Every name that an entry exports, with the comment in front of its declaration. */
async function publicNames(): Promise<Declared[]> {
  const found: Declared[] = []
  for (const [index, text] of (await declarations()).entries()) {
    found.push(...declaredIn(`${ENTRIES[index]}.d.ts`, text))
    for (const [, list, from] of text.matchAll(/export (?:type )?(?:\{([^}]*)\}|\*) from '\.\/([\w-]+)\.(?:ts|js)'/g)) {
      const names = list?.split(',').map((name) => name.replace('type ', '').trim())
      const all = declaredIn(`${from}.d.ts`, await readFile(join(home, 'dist', `${from}.d.ts`), 'utf8'))
      const wanted = names?.filter((name) => name !== '') ?? all.map(({ name }) => name)
      for (const name of wanted)
        found.push(all.find((one) => one.name === name) ?? { file: `${from}.d.ts`, name, doc: '' })
    }
  }
  return found
}

function declaredIn(file: string, text: string): Declared[] {
  const pattern = new RegExp(
    `${DOC}^export (?:declare )?(?:abstract )?(?:type|interface|class|function|const) (?<name>[\\w$]+)`,
    'gm',
  )
  return [...text.matchAll(pattern)].map(({ groups }) => ({ file, name: groups?.name ?? '', doc: groups?.doc ?? '' }))
}

/** Methods and properties of a class, with theirs. */
function membersOf(file: string, text: string): Declared[] {
  return [...text.matchAll(/^export declare class (\w+)[^{]*\{\n([\s\S]*?)^\}/gm)].flatMap(([, name, body = '']) =>
    [...body.matchAll(new RegExp(`${DOC}^ {4}(?:readonly |get )?(?<member>[a-z]\\w*)[(?:<]`, 'gm'))].map(
      ({ groups }) => ({
        file,
        name: `${name}.${groups?.member}`,
        doc: groups?.doc ?? '',
      }),
    ),
  )
}

describe('the documentation', () => {
  it('says of every public name what it is, with an example', async () => {
    const names = await publicNames()
    expect(names.length).toBeGreaterThan(50)
    expect(names.map(({ name }) => name)).toEqual(expect.arrayContaining(['Penstock', 'ChatRequest', 'UsageRecord']))
    const lacking = names.filter(({ doc }) => !/\/\*\*\s*\*?\s*\w/.test(doc) || !doc.includes('@example'))
    expect(lacking.map(({ file, name }) => `${file} ${name}`)).toEqual([])
  })

  it('says of everything that a client can do what it is, with an example', async () => {
    const members = membersOf('client.d.ts', await readFile(join(home, 'dist', 'client.d.ts'), 'utf8'))
    const isCall = ({ name }: Declared) => name !== 'Penstock.constructor'
    expect(members.filter(isCall).map(({ name }) => name)).toEqual(
      ['chat', 'embeddings', 'responses', 'messages', 'models', 'flushUsage', 'pendingUsage'].map(
        (name) => `Penstock.${name}`,
      ),
    )
    expect(members.filter((one) => isCall(one) && !one.doc.includes('@example'))).toEqual([])
  })

  it('has examples that compile against what is published', async () => {
    const examples = await allExamples()
    expect(examples.length).toBeGreaterThan(50)
    const functions = examples.map((code, index) => `export async function example${index}() {\n${code}\n}\n`)
    await writeFile(join(dir, 'examples.ts'), `${PRELUDE}\n${functions.join('\n')}`)
    await writeFile(join(dir, 'tsconfig.json'), JSON.stringify({ compilerOptions: STRICT, files: ['examples.ts'] }))
    await mkdir(join(dir, 'node_modules', '@penstock'), { recursive: true })
    for (const name of ['@ai-sdk', 'ai', 'openai'])
      await symlink(join(ROOT, 'node_modules', name), join(dir, 'node_modules', name)).catch(() => {})
    const said = await run(join(ROOT, 'node_modules', '.bin', 'tsc'), ['-p', dir, '--pretty', 'false']).then(
      () => '',
      ({ stdout }: { stdout: string }) => stdout,
    )
    const code = (await readFile(join(dir, 'examples.ts'), 'utf8')).split('\n')
    // The line that is wrong is worth more than its number.
    expect(
      said
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => `${line} | ${code[Number(/\((\d+),/.exec(line)?.[1] ?? 0) - 1] ?? ''}`),
    ).toEqual([])
  }, 60_000)
})

const STRICT = {
  strict: true,
  noEmit: true,
  exactOptionalPropertyTypes: true,
  target: 'es2023',
  module: 'esnext',
  moduleResolution: 'bundler',
  lib: ['es2023', 'dom', 'dom.iterable', 'dom.asynciterable'],
  types: [],
  skipLibCheck: true,
}

/** What the examples take for granted. Names that an example declares itself hide these. */
const PRELUDE = `
import OpenAI from 'openai'
import { generateText } from 'ai'
import * as everything from '@penstock/sdk'
import { Penstock, PenstockError, StreamInterruptedError, Breaker, answeredBy } from '@penstock/sdk'
import type { ${[
  'AfterContent Answered AttemptEvent AttemptRecord BreakerState CallOptions ChatChunk ChatCompletion ChatMessage ChatRequest',
  'ChatToolCall ChatUsage ClientOptions ContentPart CreateChat CreateMessage CreateResponse Dialect DirectProvider EmbeddingList',
  'EmbeddingRequest ErrorCode ErrorFields ErrorOrigin EventStream FinishReason GatewayOptions Hooks MessageEvent MessageObject',
  'MessagesRequest Model ModelList PartialAnswer ResponseEvent ResponseObject ResponsesRequest Restarted RoutingHints Secret Usage',
  'UsageEvent UsageOutcome UsageRecord UsageReport',
]
  .join(' ')
  .replaceAll(' ', ', ')} } from '@penstock/sdk'
import { penstockFetch, type PenstockFetch } from '@penstock/sdk/openai'
import { createPenstock, type PenstockProvider } from '@penstock/sdk/ai-sdk'
import { chatAnswer, chatPieces, scriptedFetch, type ScriptedFetch, type Seen, type Step } from '@penstock/sdk/testing'
declare const penstock: Penstock, options: ClientOptions, messages: ChatMessage[], apiKey: string, ownKey: string, key: string
declare const gateway: GatewayOptions, direct: DirectProvider[], completion: ChatCompletion, stream: EventStream<ChatChunk | Restarted>
declare const error: StreamInterruptedError
declare function show(what: unknown): void
declare function clear(): void
declare function store(records: readonly UsageRecord[]): Promise<void>
declare function keepDraft(text: string): void
declare function showBudgetPage(): void
`

async function allExamples(): Promise<string[]> {
  const examples: string[] = []
  for (const name of await readdir(join(home, 'dist'))) {
    if (!name.endsWith('.d.ts')) continue
    const text = await readFile(join(home, 'dist', name), 'utf8')
    for (const [, code = ''] of text.matchAll(/@example\n\s*\* ```ts\n([\s\S]*?)\n\s*\* ```/g))
      examples.push(code.replace(/^\s*\* ?/gm, ''))
  }
  return examples
}
