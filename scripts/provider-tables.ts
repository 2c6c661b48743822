// npm run docs:providers: writes the tables of docs/providers.md and docs/api.md anew from what the contract suite checks of each
// provider and each route. Owns the files; the tables are test/contract/tables.ts and api-tables.ts.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { withFieldTables } from '../test/contract/api-tables.ts'
import { withTables } from '../test/contract/tables.ts'
import { PROVIDERS } from '../test/contract/vendors/all.ts'

const DOCS = join(import.meta.dirname, '../docs')

function rewrite(name: string, tables: (text: string) => string): void {
  const path = join(DOCS, name)
  writeFileSync(path, tables(readFileSync(path, 'utf8')))
}

rewrite('providers.md', (text) => withTables(text, PROVIDERS))
rewrite('api.md', withFieldTables)
