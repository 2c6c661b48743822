// Organisations and their projects in the admin API. Owns their HTTP form; migrations/0001_tenancy.sql their meaning.
import { and, desc, eq } from 'drizzle-orm'
import { Hono } from 'hono'
import { connect } from '../db/connect.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { organisations, projects } from '../db/schema/tenancy.ts'
import { audited } from './audit.ts'
import { type AdminEnv, notFound } from './context.ts'
import { createOnce } from './create-once.ts'
import { idParam, NewNamed, readInput, readQuery } from './input.ts'
import { olderThan, PageQuery, pageOf } from './paging.ts'
import { boundTo } from './permissions.ts'

type Organisation = typeof organisations.$inferSelect
type Project = typeof projects.$inferSelect

/** @throws Refusal 404 */
export async function requireOrganisation(database: Database, orgId: string): Promise<Organisation> {
  const [row] = await query(database, (db) => db.select().from(organisations).where(eq(organisations.orgId, orgId)))
  if (row === undefined) throw notFound('organisation')
  return row
}

export async function findProject(database: Database, orgId: string, projectId: string): Promise<Project | undefined> {
  const [row] = await query(database, (db) =>
    db
      .select()
      .from(projects)
      .where(and(eq(projects.orgId, orgId), eq(projects.projectId, projectId))),
  )
  return row
}

async function organisationBySlug(database: Database, slug: string): Promise<Organisation | undefined> {
  const [row] = await query(database, (db) => db.select().from(organisations).where(eq(organisations.slug, slug)))
  return row
}

async function projectBySlug(database: Database, orgId: string, slug: string): Promise<Project | undefined> {
  const [row] = await query(database, (db) =>
    db
      .select()
      .from(projects)
      .where(and(eq(projects.orgId, orgId), eq(projects.slug, slug))),
  )
  return row
}

export const organisationRoutes = new Hono<AdminEnv>()
  .post('/', async (c) => {
    const input = await readInput(c, NewNamed)
    const database = connect(c.env)
    const { row, status } = await createOnce({
      nameField: 'slug',
      askedId: input.id,
      find: () => organisationBySlug(database, input.slug),
      idOf: (found) => found.orgId,
      create: async () => {
        const made: Organisation = {
          orgId: input.id ?? crypto.randomUUID(),
          slug: input.slug,
          name: input.name ?? input.slug,
          createdAt: new Date().toISOString(),
          billingMode: 'postpaid',
          overdraftNanoUsd: 0n,
        }
        const { orgId, slug, name } = made
        await database.batch([
          toStatement(builder.insert(organisations).values(made)),
          audited(c, { action: 'organisation.create', orgId, objectId: orgId, details: { slug, name } }),
        ])
        return made
      },
    })
    return c.json(organisationView(row), status)
  })
  .get('/', async (c) => {
    const { limit, cursor } = readQuery(c, PageQuery)
    const actor = c.get('actor')
    // A member sees its own; the operator sees all.
    const own = actor.kind === 'operator' ? undefined : eq(organisations.orgId, actor.orgId)
    const rows = await query(connect(c.env), (db) =>
      db
        .select()
        .from(organisations)
        .where(and(own, olderThan(cursor, organisations.createdAt, organisations.orgId)))
        .orderBy(desc(organisations.createdAt), desc(organisations.orgId))
        .limit(limit + 1),
    )
    return c.json(pageOf(rows, limit, (row) => [row.createdAt, row.orgId], organisationView))
  })
  .get('/:org', async (c) =>
    c.json(organisationView(await requireOrganisation(connect(c.env), idParam(c, 'org', 'organisation')))),
  )
  .post('/:org/projects', async (c) => {
    const orgId = idParam(c, 'org', 'organisation')
    const input = await readInput(c, NewNamed)
    const database = connect(c.env)
    await requireOrganisation(database, orgId)
    const { row, status } = await createOnce({
      nameField: 'slug',
      askedId: input.id,
      find: () => projectBySlug(database, orgId, input.slug),
      idOf: (found) => found.projectId,
      create: async () => {
        const made: Project = {
          orgId,
          projectId: input.id ?? crypto.randomUUID(),
          slug: input.slug,
          name: input.name ?? input.slug,
          createdAt: new Date().toISOString(),
        }
        const { projectId, slug, name } = made
        await database.batch([
          toStatement(builder.insert(projects).values(made)),
          audited(c, { action: 'project.create', orgId, objectId: projectId, details: { slug, name } }),
        ])
        return made
      },
    })
    return c.json(projectView(row), status)
  })
  .get('/:org/projects', async (c) => {
    const orgId = idParam(c, 'org', 'organisation')
    const { limit, cursor } = readQuery(c, PageQuery)
    const database = connect(c.env)
    await requireOrganisation(database, orgId)
    const bound = boundTo(c.get('actor'), projects.projectId)
    const rows = await query(database, (db) =>
      db
        .select()
        .from(projects)
        .where(and(eq(projects.orgId, orgId), bound, olderThan(cursor, projects.createdAt, projects.projectId)))
        .orderBy(desc(projects.createdAt), desc(projects.projectId))
        .limit(limit + 1),
    )
    return c.json(pageOf(rows, limit, (row) => [row.createdAt, row.projectId], projectView))
  })
  .get('/:org/projects/:project', async (c) => {
    const row = await findProject(connect(c.env), idParam(c, 'org', 'project'), idParam(c, 'project', 'project'))
    if (row === undefined) throw notFound('project')
    return c.json(projectView(row))
  })

function organisationView(row: Organisation) {
  return { id: row.orgId, slug: row.slug, name: row.name, created_at: row.createdAt }
}

function projectView(row: Project) {
  return { id: row.projectId, org_id: row.orgId, slug: row.slug, name: row.name, created_at: row.createdAt }
}
