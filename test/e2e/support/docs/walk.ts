// One page from its first block to its last, as a reader walks it. Owns the terminals that it opens and what counts as failed; every
// failure names page and line, and shows what was printed.
import { appendFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Machine } from './machine.ts'
import { isShown, linesOf } from './output.ts'
import { type Block, type Item, isBlock, PageError } from './pages.ts'
import type { Terminal } from './terminal.ts'

/** Far above what the slowest one takes here. */
const BLOCK_MS_MAX = 60_000
/** A first one compiles the engine, or waits for somebody who does. */
const START_MS_MAX = 300_000
/** Until a reader has turned to the next terminal; who has joined has reported by then. */
const READER_MS = 2_000
/** `… # exit code 6`: what a page says a command ends with. */
const EXIT_CODE = /^(?<command>.*\S)\s+#.*\bexit code (?<code>\d+)\b.*$/
const STARTS_SYSTEM = /^(?:npm start|(?:npx )?penstock up)\b/m
const COMPILES = /^(?:npm start|npm run build:engine|(?:npx )?penstock up)\b/m

/** What a block takes as given: its page says so, or links to where it stands. */
export type Prelude = { for: 'shell' | 'module'; when: RegExp; text: string }

/** @throws PageError */
export async function walk(items: readonly Item[], machine: Machine, preludes: readonly Prelude[]): Promise<void> {
  const staying: Terminal[] = []
  let terminal = machine.open()
  const opened = [terminal]
  const another = () => {
    terminal = machine.open()
    opened.push(terminal)
  }
  try {
    for (const [at, item] of items.entries()) {
      if (!isBlock(item)) {
        if (item.act === 'nothing runs') await machine.stopSystem()
        else await pressCtrlC(item, machine, staying.pop())
        continue
      }
      const next = items[at + 1]
      const shown = next !== undefined && isBlock(next) && next.use.kind === 'output' ? next : undefined
      const { use } = item
      if (use.kind === 'file') await writeFile(join(machine.checkout, use.name), `${await machine.here(item.text)}\n`)
      const typed = typedFor(item, preludes)
      if (typed === undefined) continue
      const text = await machine.here(typed)
      const isStay = use.kind === 'shell' && use.stays
      if (use.kind !== 'excused' && !isStay) await machineFor(items, at, machine)
      const given = givenTo(item, 'shell', preludes)
      if (given !== '') await terminal.run(await machine.here(given), 1, BLOCK_MS_MAX)
      if (isStay) {
        if (shown === undefined) throw new PageError(item.page, item.line, 'nothing says when it is ready')
        const isSystem = STARTS_SYSTEM.test(text)
        if (isSystem) machine.adopt(terminal)
        staying.push(terminal)
        const ran = await terminal.run(text, item.line + 1, START_MS_MAX, (output) => isReady(shown, output))
        if (ran.ended || !isReady(shown, ran.output)) {
          if (isSystem) await machine.stopSystem()
          throw failure(item, 'does not print what it should', ran.output, shown)
        }
        await sleep(READER_MS)
        another()
        continue
      }
      const mostMs = COMPILES.test(text) ? START_MS_MAX : BLOCK_MS_MAX
      const ran = await terminal.run(text, item.line + 1, mostMs)
      const log = process.env.PENSTOCK_DOCS_LOG
      if (log !== undefined) await appendFile(log, `── ${item.page}:${item.line}\n${item.text}\n──\n${ran.output}\n`)
      if (!ran.ended) throw failure(item, `has not ended after ${mostMs / 1000} s`, ran.output)
      if (ran.failedLine !== undefined) throw failure({ ...item, line: ran.failedLine }, 'failed', ran.output)
      if (shown?.use.kind === 'output' && !isShown(shown.text, ran.output, shown.use))
        throw failure(shown, 'is not what was printed', ran.output, shown)
    }
    for (const each of staying.reverse()) if (!machine.isSystem(each)) await pressCtrlC(items[0], machine, each)
  } finally {
    for (const each of opened) if (!machine.isSystem(each)) each.close()
  }
}

/** Undefined: nothing is to be typed. */
function typedFor(block: Block, preludes: readonly Prelude[]): string | undefined {
  const { use, text, language } = block
  switch (use.kind) {
    case 'shell':
      return text.split('\n').map(withExitCode).join('\n')
    case 'module':
      return [
        `npx node --input-type=module${language === 'ts' ? '-typescript' : ''} <<'END OF BLOCK'`,
        givenTo(block, 'module', preludes) + text,
        'END OF BLOCK',
      ].join('\n')
    case 'excused':
      return use.instead === '' ? undefined : use.instead
    case 'file':
    case 'output':
    case 'checked':
    case 'picture':
      return undefined
    default:
      return use satisfies never
  }
}

const givenTo = ({ text }: Block, to: Prelude['for'], preludes: readonly Prelude[]): string =>
  preludes
    .filter((each) => each.for === to && each.when.test(text))
    .map((each) => `${each.text}\n`)
    .join('')

function withExitCode(line: string): string {
  const found = EXIT_CODE.exec(line)?.groups
  if (found === undefined) return line
  return `{ ${found.command}; } && ended=0 || ended=$?; [ $ended = ${found.code} ] || { echo "exit code $ended"; false; }`
}

/** Before the first command of a page, unless it starts the system itself. */
async function machineFor(items: readonly Item[], at: number, machine: Machine): Promise<void> {
  const stopped = items.slice(0, at).some((item) => !isBlock(item))
  if (!stopped) await machine.ensureStarted()
}

const isReady = (shown: Block, output: string): boolean =>
  isShown(shown.text, output, { ...(shown.use.kind === 'output' && shown.use), anywhere: true })

async function pressCtrlC(item: Item | undefined, machine: Machine, terminal: Terminal | undefined): Promise<void> {
  const { page = '', line = 0 } = item ?? {}
  if (terminal === undefined) {
    await machine.stopSystem()
    return
  }
  if (machine.isSystem(terminal)) return machine.stopSystem()
  if (!(await terminal.interrupt())) throw new PageError(page, line, 'what runs did not end on Ctrl-C')
}

function failure(
  { page, line }: { page: string; line: number },
  what: string,
  output: string,
  shown?: Block,
): PageError {
  const printed = linesOf(output).join('\n')
  const expected = shown === undefined ? '' : `\n── the page says:\n${shown.text}`
  return new PageError(page, line, `${what}${expected}\n── printed:\n${printed}`)
}
