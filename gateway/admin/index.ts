// The admin API, mounted at /admin/v1. Owns the list of its routes, the guard before all of them and the form of its
// errors; there is no CORS: browsers reach it from its own origin alone.
//
//   POST   /organisations                                {slug, name?, id?}              safe to repeat by slug
//   GET    /organisations  /organisations/:org
//   POST   /organisations/:org/projects                  {slug, name?, id?}              safe to repeat by slug
//   GET    /organisations/:org/projects  …/projects/:project
//   POST   /organisations/:org/keys                      {project_id, name, models?, expires_at?}   answers `key`, once
//   GET    /organisations/:org/keys?name=&project_id=    …/keys/:key
//   PATCH  /organisations/:org/keys/:key                 {models?, expires_at?}
//   DELETE /organisations/:org/keys/:key                 revokes; also POST …/revoke
//   PUT    /organisations/:org/limits                    {limits: [{meter, window?, max | max_usd}]}; GET
//          also …/projects/:project/limits and …/keys/:key/limits
//   PUT    /models/:name               {targets: [{provider, model, context_tokens, output_tokens_max?}]}
//   GET    /models  /models/:name      DELETE /models/:name
//   POST   /prices                     {provider, model, usd_per_million: {part: "0.05"}, effective_from?}
//   GET    /prices?provider=&model=
//   PUT    /providers/:name                              {kind, base_url, secret?, allow_private?}; GET, GET list
//   GET    /audit?org_id=
//          /usage                                        admin/usage.ts
//          /ledger                                       admin/ledger.ts
//          /backends                                     fleet/admin.ts
//
// Lists take `limit` (1-200, default 50) and `cursor`, and answer {data, next_cursor?}.
import { Hono } from 'hono'
import { DatabaseUnavailable, QueryFailed } from '../db/port.ts'
import { failureResponse } from '../errors.ts'
import { fleetAdminRoutes } from '../fleet/admin.ts'
import { errorText, log } from '../observe/log.ts'
import { auditRoutes } from './audit.ts'
import { type AdminEnv, Refusal } from './context.ts'
import { guard } from './guard.ts'
import { keyRoutes } from './keys.ts'
import { ledgerRoutes } from './ledger.ts'
import { limitRoutes } from './limits.ts'
import { modelRoutes } from './models.ts'
import { organisationRoutes } from './organisations.ts'
import { priceRoutes } from './prices.ts'
import { providerRoutes } from './providers.ts'
import { usageRoutes } from './usage.ts'

/** SQLSTATE class of values that a type cannot hold. */
const DATA_EXCEPTION = /^22/

export const adminApp = new Hono<AdminEnv>()

adminApp.use(async (c, next) => {
  // Set by the app that mounts this one; set here where none does.
  if (c.get('requestId') === undefined) c.set('requestId', crypto.randomUUID())
  await next()
  c.header('x-request-id', c.get('requestId'))
})
adminApp.use(guard)

adminApp.route('/organisations', organisationRoutes)
adminApp.route('/organisations', keyRoutes)
adminApp.route('/organisations', limitRoutes)
adminApp.route('/models', modelRoutes)
adminApp.route('/prices', priceRoutes)
adminApp.route('/providers', providerRoutes)
adminApp.route('/audit', auditRoutes)
adminApp.route('/usage', usageRoutes)
adminApp.route('/ledger', ledgerRoutes)
adminApp.route('/backends', fleetAdminRoutes)
adminApp.all('*', (c) =>
  failureResponse({ code: 'not_found', message: 'There is no such admin route.' }, c.get('requestId')),
)

adminApp.onError((error, c) => {
  const requestId = c.get('requestId')
  if (error instanceof Refusal) return failureResponse(error.failure, requestId)
  if (error instanceof DatabaseUnavailable) {
    log('warn', 'admin_database_unavailable', { requestId, reason: error.message })
    const message = 'The database cannot be reached; if this was a change, it may have been made: repeat the call.'
    return failureResponse({ code: 'unavailable', message, retryAfterMs: 2_000 }, requestId)
  }
  // NUL in a text, a date beyond the calendar: values that passed as JSON and that no column can hold.
  if (error instanceof QueryFailed && DATA_EXCEPTION.test(error.sqlState)) {
    const message = `The request holds a value that cannot be stored or compared (${error.sqlState}).`
    return failureResponse({ code: 'invalid_request', message }, requestId)
  }
  log('error', 'admin_failed', { requestId, reason: errorText(error) })
  const message = 'Something went wrong on our side; the request id finds it in the logs.'
  return failureResponse({ code: 'internal', message }, requestId)
})
