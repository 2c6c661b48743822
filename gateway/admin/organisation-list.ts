// Lists of what an organisation has, page by page. Owns the frame of such a list: whose it is, that there is such an
// organisation, and the page; which rows belong in it is each route's.
import { connect } from '../db/connect.ts'
import type { Database } from '../db/port.ts'
import type { AdminContext } from './context.ts'
import { idParam, readQuery } from './input.ts'
import { requireOrganisation } from './organisations.ts'
import { PageQuery, pageOf } from './paging.ts'

export type OrganisationList<Row, T> = {
  /** One row more than the page has, in the order of the list. */
  rows(database: Database, orgId: string, page: PageQuery): Promise<Row[]>
  /** What names a row, as in `pageOf`. */
  position(row: Row): string[]
  show(row: Row): T
}

/** @throws Refusal 404 where there is no such organisation */
export async function listOfOrganisation<Row, T>(c: AdminContext, list: OrganisationList<Row, T>): Promise<Response> {
  const orgId = idParam(c, 'org', 'organisation')
  const page = readQuery(c, PageQuery)
  const database = connect(c.env)
  await requireOrganisation(database, orgId)
  return c.json(pageOf(await list.rows(database, orgId, page), page.limit, list.position, list.show))
}
