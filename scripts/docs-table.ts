// Measured tables in docs/benchmarks.md. Owns where in the page a table goes: between two marks that name it.
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

const DOCS = join(import.meta.dirname, '..', 'docs', 'benchmarks.md')

/** Replaces what stands between the marks of `name`. @throws Error where the page has none */
export async function writeDocsTable(name: string, text: string): Promise<void> {
  const [begin, end] = [`<!-- ${name}: begin -->`, `<!-- ${name}: end -->`]
  const page = await readFile(DOCS, 'utf8')
  const [from, to] = [page.indexOf(begin), page.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`docs/benchmarks.md has no place for it (${begin} … ${end})`)
  await writeFile(DOCS, `${page.slice(0, from + begin.length)}\n${text}${page.slice(to)}`)
}
