// The borders and habits of this repository as functions over its files. Owns the rules; tidy.test.ts runs them over the
// checkout and over planted violations. Pure: files in, findings out.
import { posix } from 'node:path'

export type SourceFile = { path: string; text: string }
export type Finding = { path: string; line: number; message: string }
export type Rule = { name: string; check: (files: readonly SourceFile[]) => Finding[] }

/** A file of one concern fits on a few screens; tests may list more cases. */
const LINES_MAX = 500
/** Comments are wrapped at 120 by hand; what is a little longer is still seen whole. */
const COLUMNS_MAX = 140

const isCode = (path: string) => /\.(tsx?|mjs|cc|h|cu|cuh)$/.test(path)
const isScript = (path: string) => /\.(tsx?|mjs)$/.test(path) && !path.endsWith('.d.ts')
const isTest = (path: string) => /\.test\.ts$|_test\.cc$/.test(path)
const folderOf = (path: string) => path.split('/')[0] ?? ''

/** What each folder may import besides itself. Folders that are not listed may import everything. */
const MAY_IMPORT: Record<string, readonly string[]> = {
  protocol: [],
  gateway: ['protocol'],
  backends: ['protocol'],
  migrations: [],
  sdk: ['protocol'],
  // It installs and starts what the launcher is made of.
  cli: ['sdk', 'protocol', 'scripts'],
  dashboard: ['sdk', 'protocol'],
}

const importDirections: Rule = {
  name: 'imports go in the allowed directions',
  check: (files) =>
    eachLine(files, isScript, (line, path) => {
      const target = /(?:from|import|import\()\s*['"](\.{1,2}\/[^'"]+)['"]/.exec(line)?.[1]
      if (target === undefined) return undefined
      const [own, other] = [folderOf(path), folderOf(posix.join(posix.dirname(path), target))]
      const allowed = MAY_IMPORT[own]
      if (allowed === undefined || own === other || allowed.includes(other)) return undefined
      return `${own} must not import from ${other}`
    }),
}

/** The scheduler runs on any laptop without weights: it knows the types of a batch, nothing that computes. */
const SCHED_INCLUDES =
  /^\s*#include\s+["<](?!sched\/|model\/(batch|sampler|runner)\.h)([\w-]+\/[\w./-]+|cuda[\w.]*)[">]/
const DEVICE_INCLUDES = /^\s*#include\s+[<"](cuda|cublas|cutlass|nccl|nvtx)/

const engineBorders: Rule = {
  name: 'device code stays in ops/ and kv/, and the scheduler computes nothing',
  check: (files) =>
    eachLine(
      files,
      (path) => path.startsWith('native-engine/src/'),
      (line, path) => {
        if (path.startsWith('native-engine/src/sched/') && SCHED_INCLUDES.test(line)) {
          return 'sched/ includes what it must not know'
        }
        const mayTouchDevice = /^native-engine\/src\/(ops|kv)\//.test(path)
        return DEVICE_INCLUDES.test(line) && !mayTouchDevice ? 'device headers belong to ops/ and kv/' : undefined
      },
    ),
}

const IMPURE =
  /\b(Date\.now\(|Math\.random\(|new Date\(\)|performance\.now\(|randomUUID\(|getRandomValues\(|process\.env\b)/
const IMPURE_CPP = /\b((steady|system|high_resolution)_clock::now|std::rand\b|random_device)/

/** A file says so in its header; protocol/ and the scheduler are pure as a whole. */
function isPure({ path, text }: SourceFile): boolean {
  if (isTest(path)) return false
  return /^(protocol|native-engine\/src\/sched)\//.test(path) || /○|\bPure\b/.test(headerOf(text))
}

const pureFiles: Rule = {
  name: 'pure files use no clock, randomness or environment',
  check: (files) =>
    files.filter(isPure).flatMap((file) =>
      eachLine([file], isCode, (line, path) => {
        const found = (isScript(path) ? IMPURE : IMPURE_CPP).exec(withoutComment(line))
        return found === null ? undefined : `${found[1]} in a pure file; make it an argument`
      }),
    ),
}

const fileSize: Rule = {
  name: `no file of code has more than ${LINES_MAX} lines`,
  check: (files) =>
    files
      .filter(({ path }) => isCode(path) || path.endsWith('.sql'))
      .map(({ path, text }) => ({ path, line: text.split('\n').length - 1 }))
      .filter(({ line }) => line > LINES_MAX)
      .map(({ path, line }) => ({ path, line, message: `${line} lines: it holds more than one concern` })),
}

/** The header of an implementation is that of its .h file; a test says what it is about in its names. */
const headers: Rule = {
  name: 'each file begins with what it owns',
  check: (files) => {
    const paths = new Set(files.map(({ path }) => path))
    return files
      .filter(({ path }) => (isCode(path) || path.endsWith('.sql')) && !isTest(path))
      .filter(({ path }) => !(path.endsWith('.cc') && paths.has(path.replace(/\.cc$/, '.h'))))
      .filter(({ text }) => headerOf(text).length === 0)
      .map(({ path }) => ({ path, line: 1, message: 'begins without a header comment' }))
  },
}

const lineLength: Rule = {
  name: `no line of code is longer than ${COLUMNS_MAX} characters`,
  check: (files) =>
    eachLine(
      files,
      (path) => isCode(path) || path.endsWith('.sql'),
      (line) => {
        // Text that cannot be broken (an address, a template) is no reason to break a habit for.
        const isText = /['"`].{60,}['"`]/.test(line)
        return [...line].length > COLUMNS_MAX && !isText ? `${[...line].length} characters` : undefined
      },
    ),
}

const MACHINE_PATH = /(^|[\s'"`(=:])\/(work|home|root|Users|mnt|private)\/[\w.-]+/
const REGISTRY = /https?:\/\/(?!registry\.npmjs\.org\b)[\w.:-]*(registry|artifactory|nexus|pypi|mirror)[\w.:/-]*/i

const noMachines: Rule = {
  name: 'no path or registry of one machine',
  check: (files) =>
    eachLine(
      files,
      () => true,
      (line) => {
        const found = MACHINE_PATH.exec(line) ?? REGISTRY.exec(line)
        return found === null ? undefined : `names ${found[0].trim()}`
      },
    ),
}

const noAny: Rule = {
  name: 'no any',
  check: (files) =>
    eachLine(files, isScript, (line) =>
      /(:\s*|\bas\s+|<|Array<|,\s*)any\b(\[\])?\s*[;,>)=|&{\]]/.test(withoutText(withoutComment(line))) ||
      /\bas any\b|:\s*any$/.test(withoutText(withoutComment(line)))
        ? 'any switches the types off; use unknown and a schema'
        : undefined,
    ),
}

const noPromises: Rule = {
  name: 'no notes about work to be done',
  check: (files) =>
    eachLine(files, isCode, (line) => {
      const found = /\b(TODO|FIXME|XXX|HACK)\b|\bfor now\b/.exec(line)
      return found === null ? undefined : `${found[0]}: an issue is the place for it`
    }),
}

const noSilencedTests: Rule = {
  name: 'no test is switched off or singled out',
  check: (files) =>
    eachLine(files, isTest, (line) => {
      const found =
        /\b(test|it|describe|suite)\.(only|skip|todo)\b|\bGTEST_SKIP\(\)(?! << )|TEST\w*\(\w+, DISABLED_/.exec(line)
      return found === null ? undefined : found[0]
    }),
}

const VENDORS = /\b(anthropic|gemini|bedrock|vertex|azure|mistral|cohere|groq|openrouter|fireworks|xai)\b/i

const vendors: Rule = {
  name: "a vendor's name stands in its provider alone",
  check: (files) =>
    eachLine(
      files,
      (path) => /^(gateway|protocol)\//.test(path) && !/^gateway\/providers\/|^protocol\/dialects\//.test(path),
      (line) => {
        const found = VENDORS.exec(line)
        return found === null ? undefined : `names ${found[0]}`
      },
    ),
}

/** Where amounts are computed or kept. */
const MONEY_FOLDERS = /^gateway\/(policy|account|meter|ledger|admin|db\/schema)\/|^protocol\/units\.ts$/
/** Carry an amount from one of those to another, without arithmetic: hold and charge, limits, a provider's own bill. */
const MONEY_CARRIERS = new Set([
  'gateway/lifecycle.ts',
  'gateway/attempts/end.ts',
  'gateway/errors.ts',
  'gateway/auth/key-record.ts',
  'gateway/stream/tally.ts',
  'gateway/providers/event.ts',
  'gateway/providers/openai-decoder.ts',
])

const money: Rule = {
  name: 'money stays where it is counted',
  check: (files) =>
    eachLine(
      files,
      (path) => /^(gateway|protocol|backends|native-engine\/src)\//.test(path) && !MONEY_FOLDERS.test(path),
      (line, path) => {
        const code = withoutComment(line)
        if (!/nano_?usd/i.test(code)) return undefined
        if (!MONEY_CARRIERS.has(path)) return 'handles money'
        return /nano_?usd\w*\s*[-+*/]=?\s|[-+*/]\s+\w*nano_?usd/i.test(withoutText(code)) ? 'computes money' : undefined
      },
    ),
}

/** Loaded by name, not by import: process entries, configuration, and what a worker loads. */
const ENTRIES =
  /^(gateway\/index|backends\/main|scripts\/(start|test)|vitest\.config|test\/.*\.(test|d))\.(ts|mjs)$|\.mjs$/

const deadFiles: Rule = {
  name: 'every file is used',
  check: (files) => {
    const scripts = files.filter(({ path }) => isScript(path))
    // A command that a person runs is named in package.json or in the documents.
    const users = files.filter(({ path }) => isScript(path) || path === 'package.json' || path.endsWith('.md'))
    return scripts
      .filter(({ path }) => !ENTRIES.test(path))
      .filter(({ path }) => {
        const name = posix.basename(path)
        return !users.some((other) => other.path !== path && other.text.includes(name))
      })
      .map(({ path }) => ({ path, line: 1, message: 'nothing imports or starts it' }))
  },
}

const deadExports: Rule = {
  name: 'every exported value is used somewhere else',
  check: (files) => {
    const scripts = files.filter(({ path }) => isScript(path))
    const users = new Map<string, Set<string>>()
    for (const { path, text } of scripts) {
      for (const word of new Set(text.match(/[A-Za-z_$][\w$]*/g) ?? [])) {
        const paths = users.get(word) ?? new Set()
        users.set(word, paths.add(path))
      }
    }
    return eachLine(
      scripts.filter(({ path }) => !ENTRIES.test(path)),
      isScript,
      (line, path) => {
        const name = /^export (?:async )?(?:const|function\*?|class) ([\w$]+)/.exec(line)?.[1]
        if (name === undefined) return undefined
        const others = [...(users.get(name) ?? [])].filter((user) => user !== path)
        return others.length === 0 ? `${name} is used nowhere else` : undefined
      },
    )
  },
}

/** Loaded by the first request for them, with all that they make. */
const LOADED_LATE = /^gateway\/(admin|dashboard)\/|^gateway\/ledger\/(statement|postgres-record)\.ts$/

const lateSchemas: Rule = {
  name: 'schemas that every start reads are made when they are used',
  check: (files) =>
    eachLine(
      files,
      (path) => /^(gateway|protocol)\/.*\.ts$/.test(path) && !LOADED_LATE.test(path),
      (line) =>
        /^(export )?const \w+(: [^=]+)? = (z\b|boundedArray\()/.test(line)
          ? 'make it with late() of protocol/late.ts'
          : undefined,
    ),
}

export const RULES: readonly Rule[] = [
  importDirections,
  engineBorders,
  pureFiles,
  fileSize,
  headers,
  lineLength,
  noMachines,
  noAny,
  noPromises,
  noSilencedTests,
  vendors,
  money,
  deadFiles,
  deadExports,
  lateSchemas,
]

/** Calls `find` for each line of the chosen files; what it returns is a finding. */
function eachLine(
  files: readonly SourceFile[],
  choose: (path: string) => boolean,
  find: (line: string, path: string) => string | undefined,
): Finding[] {
  const findings: Finding[] = []
  for (const { path, text } of files) {
    if (!choose(path)) continue
    for (const [index, line] of text.split('\n').entries()) {
      const message = find(line, path)
      if (message !== undefined) findings.push({ path, line: index + 1, message })
    }
  }
  return findings
}

/** The comment that a file begins with, after a `#!` line. */
function headerOf(text: string): string {
  const body = text.replace(/^#!.*\n/, '')
  return /^(?:(?:\/\/|--).*\n)+|^\/\*[\s\S]*?\*\//.exec(body)?.[0] ?? ''
}

function withoutComment(line: string): string {
  return /^\s*(\*|\/\*|\/\/)/.test(line) ? '' : line.replace(/(^|\s)\/\/.*$/, '')
}

function withoutText(line: string): string {
  return line.replace(/'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`/g, "''")
}
