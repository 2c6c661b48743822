// Pages of documentation as what a reader does with them. Owns finding fenced blocks and directives (HTML comments that begin with
// `run:`), and deciding what becomes of each block; docs/develop.md explains both to whoever writes a page. Pure.

/** What a page says has to be one of these; whoever wants another reason has to argue for it here. */
export const REASONS = [
  'needs a Cloudflare account',
  'needs a GPU',
  "needs a vendor's key",
  /** Followed by the command that runs it. */
  'takes minutes:',
] as const

/** What a reader does with a block. */
export type Use =
  /** In the page's shell; `stays`: in a terminal that it keeps until Ctrl-C. */
  | { kind: 'shell'; stays: boolean }
  /** By Node, from standard input. */
  | { kind: 'module' }
  /** Saved under this name, for a later block that names it. */
  | { kind: 'file'; name: string }
  /** What the block before prints; these lines of it, counted from 1, are a model's own words. */
  | { kind: 'output'; freeLines: readonly number[] }
  /** Parsed or compiled, not run. */
  | { kind: 'checked'; by: 'cli' | 'tsc' }
  | { kind: 'excused'; reason: string; instead: string }
  /** Not for a machine. */
  | { kind: 'picture' }

export type Block = { page: string; line: number; language: string; text: string; use: Use }
/** Between the blocks: a key that is pressed, or a page that begins on a machine where nothing runs. */
type Act = { page: string; line: number; act: 'ctrl-c' | 'nothing runs' }
export type Item = Block | Act

export class PageError extends Error {
  override name = 'PageError'
  constructor(page: string, line: number, message: string) {
    super(`${page}:${line} ${message}`)
  }
}

export const isBlock = (item: Item): item is Block => 'use' in item

const FENCE = /^(?<indent>\s*)(?<mark>`{3,}|~{3,})(?<language>[^\s`]*)\s*$/
const DIRECTIVE = /^\s*<!--\s*run:\s*(?<words>.*?)\s*-->\s*$/
/** What would be a command if it stood in a block that is run. */
const COMMAND_LIKE =
  /^\s*(?:\$|npm|npx|node|curl|penstock|git|cmake|docker|sudo|pip|psql|pg_dump|tar|wrangler|export|admin)\s+\S/
/** `# penstock.toml` or `// app.mjs` as the first line. */
const FILE_NAME = /^(?:#|\/\/)\s*(?<name>[\w./-]+\.\w+)\s*$/

/** Blocks and directives of a page, in their order. @throws PageError where one is not accounted for */
export function readPage(page: string, text: string): Item[] {
  const items: Item[] = []
  const lines = text.split('\n')
  let directive: { words: string; line: number } | undefined
  let before: { use: Use; isAdjacent: boolean } | undefined
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at] ?? ''
    const told = DIRECTIVE.exec(line)?.groups
    if (told !== undefined) {
      const words = told.words ?? ''
      const act = words === 'Ctrl-C' ? 'ctrl-c' : words === 'nothing runs yet' ? 'nothing runs' : undefined
      if (act !== undefined) items.push({ page, line: at + 1, act })
      else if (directive !== undefined) throw new PageError(page, at + 1, 'two directives for one block')
      else directive = { words, line: at + 1 }
      continue
    }
    const fence = FENCE.exec(line)?.groups
    if (fence === undefined) {
      if (line.trim() === '') continue
      if (directive !== undefined) throw new PageError(page, directive.line, 'a directive without a block behind it')
      if (before !== undefined) before.isAdjacent = false
      continue
    }
    const { indent = '', mark = '', language = '' } = fence
    const end = lines.findIndex((other, index) => index > at && other.trim() === mark)
    if (end === -1) throw new PageError(page, at + 1, 'the block has no end')
    const body = lines.slice(at + 1, end).map((each) => (each.startsWith(indent) ? each.slice(indent.length) : each))
    const draft = { page, line: at + 1, language, text: body.join('\n') }
    const use = useOf(draft, directive?.words, before?.isAdjacent === true ? before.use : undefined)
    items.push({ ...draft, use })
    before = { use, isAdjacent: true }
    directive = undefined
    at = end
  }
  if (directive !== undefined) throw new PageError(page, directive.line, 'a directive without a block behind it')
  requireFilesUsed(items.filter(isBlock))
  return items
}

type Draft = Omit<Block, 'use'>

function useOf(block: Draft, words: string | undefined, previous: Use | undefined): Use {
  const { page, line, language, text } = block
  const fail = (message: string): never => {
    throw new PageError(page, line, message)
  }
  if (language === '' || language === 'text') {
    const ran = previous?.kind === 'shell' || previous?.kind === 'module'
    if (language === 'text' && ran) return { kind: 'output', freeLines: freeLines(words, fail) }
    const command = text.split('\n').find((each) => COMMAND_LIKE.test(each))
    if (command !== undefined) fail(`a command that nobody runs: ${command.trim()}`)
    return { kind: 'picture' }
  }
  const excuse = excuseOf(words, fail)
  if (excuse !== undefined) return excuse
  const saved = /^saved as (?<name>\S+)$/.exec(words ?? '')?.groups ?? FILE_NAME.exec(text.split('\n')[0] ?? '')?.groups
  const plain = (use: Use): Use =>
    words === undefined || saved !== undefined ? use : fail(`unknown directive: ${words}`)
  switch (language) {
    case 'sh':
      if (page === 'docs/cli.md') return plain({ kind: 'checked', by: 'cli' })
      if (words === 'stays') return { kind: 'shell', stays: true }
      return plain({ kind: 'shell', stays: false })
    case 'js':
    case 'ts':
      return plain(saved?.name === undefined ? { kind: 'module' } : { kind: 'file', name: saved.name })
    case 'json':
    case 'toml':
    case 'ini':
      if (saved?.name !== undefined) return { kind: 'file', name: saved.name }
      return fail('nobody reads this block: say in its first line, or in a directive, as what it is saved')
    case 'tsx':
      return plain({ kind: 'checked', by: 'tsc' })
    default:
      return fail(`blocks of ${JSON.stringify(language)} are neither run nor checked`)
  }
}

/** `no, REASON`: not run. `NAME=VALUE, REASON`: these assignments in its place. */
function excuseOf(words: string | undefined, fail: (message: string) => never): Use | undefined {
  const found = /^(?<how>no|[A-Z_]+=\S+(?: [A-Z_]+=\S+)*), (?<reason>.+)$/.exec(words ?? '')?.groups
  if (found === undefined) return undefined
  const { how = 'no', reason = '' } = found
  const isKnown = REASONS.some((known) => (known.endsWith(':') ? reason.startsWith(`${known} `) : reason === known))
  if (!isKnown) fail(`no reason to leave a block out: ${reason}`)
  return { kind: 'excused', reason, instead: how === 'no' ? '' : `export ${how}` }
}

function freeLines(words: string | undefined, fail: (message: string) => never): number[] {
  if (words === undefined) return []
  const found = /^lines? (?<lines>\d+(?:, \d+)*) var(?:y|ies)$/.exec(words)?.groups
  return found === undefined
    ? fail(`unknown directive of an output: ${words}`)
    : (found.lines ?? '').split(', ').map(Number)
}

/** A file that no later block names is a block that nobody runs. */
function requireFilesUsed(blocks: readonly Block[]): void {
  for (const [index, { page, line, use }] of blocks.entries()) {
    if (use.kind !== 'file') continue
    const base = use.name.split('/').at(-1) ?? use.name
    const later = blocks.slice(index + 1).filter((other) => other.use.kind === 'shell')
    if (!later.some(({ text }) => text.includes(base)))
      throw new PageError(page, line, `no later block uses ${use.name}`)
  }
}
