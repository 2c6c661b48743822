// The catalog's history as documents. Owns the rows of config_versions: the next number, what a row holds, and how far back
// they go.
import { desc, eq, lte } from 'drizzle-orm'
import { parseStored } from '../db/json.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import type { Database, Statement } from '../db/port.ts'
import { configVersions } from '../db/schema/catalog.ts'
import { ConfigDocument, documentOf, type NormalConfig, normalise } from '../policy/config-document.ts'

type VersionRow = typeof configVersions.$inferSelect
/** A document of a thousand models has some 300 KB; this many versions are a year of two a day. */
const VERSIONS_KEPT = 730

export type NewVersion = { state: NormalConfig; actor: string; note: string | undefined }

export const versionView = ({ version, checksum, appliedAt, actor, note }: Omit<VersionRow, 'document'>) => ({
  version,
  checksum,
  applied_at: appliedAt,
  actor,
  ...(note === null ? {} : { note }),
})

/** The document of a row. */
export const versionDocument = (row: VersionRow): ConfigDocument =>
  parseStored(row.document, ConfigDocument, 'config_versions.document')

export async function lastVersion(database: Database): Promise<VersionRow | undefined> {
  const [row] = await query(database, (db) =>
    db.select().from(configVersions).orderBy(desc(configVersions.version)).limit(1),
  )
  return row
}

export async function versionByNumber(database: Database, version: number): Promise<VersionRow | undefined> {
  const [row] = await query(database, (db) =>
    db.select().from(configVersions).where(eq(configVersions.version, version)),
  )
  return row
}

/** What stood after a version; `undefined` for a row whose form this build no longer reads. */
export function stateOf(row: VersionRow): NormalConfig | undefined {
  try {
    const state = normalise(versionDocument(row))
    return state.ok ? state.value : undefined
  } catch {
    return undefined
  }
}

/**
 * The rows of new versions, one after the other, numbered from `first` on.
 * @throws by the database, as a unique violation, where a number is taken: somebody else was faster.
 */
export async function versionStatements(first: number, versions: NewVersion[], nowIso: string): Promise<Statement[]> {
  const rows = await Promise.all(
    versions.map(async ({ state, actor, note }, index): Promise<VersionRow> => {
      const document = JSON.stringify(documentOf(state))
      const checksum = await sha256Hex(document)
      return { version: first + index, document, checksum, appliedAt: nowIso, actor, note: note ?? null }
    }),
  )
  const oldest = first + versions.length - 1 - VERSIONS_KEPT
  return [
    toStatement(builder.insert(configVersions).values(rows)),
    ...(oldest < 1 ? [] : [toStatement(builder.delete(configVersions).where(lte(configVersions.version, oldest)))]),
  ]
}

async function sha256Hex(text: string): Promise<string> {
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text))
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('')
}
