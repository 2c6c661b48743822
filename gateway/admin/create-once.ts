// Creating under a unique name. Owns that a repeated call, and one of several at once, meets the object of the first one.
import { QueryFailed, UNIQUE_VIOLATION } from '../db/port.ts'
import { invalid } from './context.ts'

export type Creation<Row> = {
  /** The field of the request that is unique, for the words of a refusal. */
  nameField: string
  /** The id the caller wants; absent: any. */
  askedId: string | undefined
  find(): Promise<Row | undefined>
  idOf(row: Row): string
  create(): Promise<Row>
}

/**
 * The object under the unique name, made where there is none.
 * @throws Refusal where the id asked for belongs to another name, or the name to another id.
 */
export async function createOnce<Row>(creation: Creation<Row>): Promise<{ row: Row; status: 200 | 201 }> {
  const { nameField, askedId, find, idOf, create } = creation
  const known = (row: Row) => {
    if (askedId !== undefined && idOf(row) !== askedId) throw invalid(nameField, 'is taken under another id')
    return { row, status: 200 as const }
  }
  const existing = await find()
  if (existing !== undefined) return known(existing)
  try {
    return { row: await create(), status: 201 }
  } catch (error) {
    if (!(error instanceof QueryFailed) || error.sqlState !== UNIQUE_VIOLATION) throw error
    // Somebody else was faster, or the id is taken.
    const winner = await find()
    if (winner === undefined) throw invalid('id', `is taken under another ${nameField}`)
    return known(winner)
  }
}
