// Tables in docs/ that a script writes. Owns where in a page a table goes: between two marks that name it.
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

const DOCS_DIR = join(import.meta.dirname, '..', 'docs')

/** Replaces what stands between the marks of `name`. @throws Error where the page has none */
export async function writeDocsTable(name: string, text: string, page = 'benchmarks.md'): Promise<void> {
  const path = join(DOCS_DIR, page)
  const [begin, end] = [`<!-- ${name}: begin -->`, `<!-- ${name}: end -->`]
  const before = await readFile(path, 'utf8')
  const [from, to] = [before.indexOf(begin), before.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`docs/${page} has no place for it (${begin} … ${end})`)
  await writeFile(path, `${before.slice(0, from + begin.length)}\n${text}${before.slice(to)}`)
}
