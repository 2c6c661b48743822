// The admin API, mounted at /admin/v1. Owns the list of its routes, the layers before all of them (guard.ts: who calls;
// permissions.ts: who may) and the form of its errors; there is no CORS: browsers reach it from its own origin alone.
//
//   POST   /organisations                                {slug, name?, id?}              safe to repeat by slug
//   GET    /organisations  /organisations/:org
//   POST   /organisations/:org/projects                  {slug, name?, id?}              safe to repeat by slug
//   GET    /organisations/:org/projects  …/projects/:project
//   POST   /organisations/:org/keys                      {project_id, name, models?, routes?, addresses?, expires_at?, end_user?,
//                                                         user_id?, team_id?}   answers `key`, once
//   GET    /organisations/:org/keys?name=&project_id=&user_id=&team_id=    …/keys/:key
//   PATCH  /organisations/:org/keys/:key                 {name?, models?, routes?, addresses?, expires_at?, end_user?, team_id?}
//   POST   /organisations/:org/keys/:key/rotate          {overlap_seconds}   answers the new `key`, once
//   DELETE /organisations/:org/keys/:key                 revokes; also POST …/revoke
//   POST   /organisations/:org/users                     {email, name?, id?, role?, projects?, issuer_id?, subject?}   by email
//   GET    /organisations/:org/users?kind=  …/users/:user
//   PATCH  /organisations/:org/users/:user               {name?, suspended?, issuer_id?, subject?}
//   PUT    /organisations/:org/users/:user/membership    {role, projects?}; DELETE
//   POST   /organisations/:org/service-accounts          {slug, name?, id?, role?, projects?, issuer_id?, subject?}; GET
//   POST   /organisations/:org/teams                     {slug, name?, id?}              safe to repeat by slug
//   GET    /organisations/:org/teams  …/teams/:team  …/teams/:team/members
//   PATCH  /organisations/:org/teams/:team               {name}; DELETE
//   PUT    /organisations/:org/teams/:team/members/:user ; DELETE
//   POST   /organisations/:org/issuers                   {issuer, audience, jwks_uri | jwks, algorithms, max_role, project_id, …}
//   GET    /organisations/:org/issuers  …/issuers/:issuer; PATCH, DELETE
//   PUT    /organisations/:org/limits                    {limits: [{meter, window?, time_zone?, max | max_usd, model?, hard?}],
//          expected_version?}; GET {version, limits}
//          also …/projects/:project/limits, …/teams/:team/…, …/users/:user/…, …/keys/:key/…, …/end-users/:end_user/…;
//          `*` for the id: one for each of them
//   PUT    /models/:name               {targets: [{provider, model, context_tokens, output_tokens_max?, service_tier?, weight?,
//                                       region?, image_tokens_max?}], policy?}
//   GET    /models  /models/:name      DELETE /models/:name
//   POST   /organisations/:org/markups                   {basis_points, provider?, model?, effective_from?}; GET
//   POST   /prices                     {provider, model, usd_per_million: {part: "0.05"}, context_tiers?, service_tier?,
//                                       effective_from?, effective_to?, source?, source_date?, supersede?}
//   POST   /prices/import              {entries: [a price each], source?, source_date?, dry_run?, supersede?}
//   POST   /prices/self-hosted         {model, gpu_hour_usd, gpus, input_tokens_per_second, output_tokens_per_second,
//                                       cached_input_tokens_per_second?, utilisation?, dry_run?}
//   GET    /prices?provider=&model=&service_tier=
//   PUT    /providers/:name            {kind, base_url?, secret?, allow_private?, preset?, options?, usage_dialect?, cutoff?}; GET,
//                                      GET list, DELETE
//   PUT    /providers/:name/keys/:key  {secret?, weight?, disabled?}; GET, GET list, DELETE
//   GET    /config                     the catalog as a document; also /config/schema, /config/versions  …/versions/:version
//   POST   /config/apply               {document, secrets?, dry_run?, expected_version?, prune?, note?}
//   POST   /config/rollback            {version, secrets?, dry_run?, expected_version?, note?}
//   GET    /config/diff?from=&to=
//   GET    /providers/health
//   GET    /audit?org_id=&actor=&action=&object_id=&from=&to=   also /audit/export
//   GET    /session                    who calls, and what they may
//   GET    /sessions?org=&user_id=     DELETE /sessions/:session         browsers that are signed in to the dashboard
//   POST   /sign-in-links              {org_id?, user_id?}               answers `url`, once
//          /organisations/:org/issuers/:issuer/sign-in-client            admin/sign-in-clients.ts
//          /organisations/:org/guard-hooks, …/tool-capabilities, …/answer-cache    admin/guards.ts
//          /organisations/:org/credit, …/billing         admin/credit.ts
//   GET    /organisations/:org/limit-events  …/limits/state  …/key-use
//   GET    /organisations/:org/statements    …/statements/:month      admin/statements.ts
//          /usage                                        admin/usage.ts
//          /ledger                                       admin/ledger.ts
//          /backends                                     fleet/admin.ts
//
// Lists take `limit` (1-200, default 50) and `cursor`, and answer {data, next_cursor?}.
import { Hono } from 'hono'
import { failureResponse } from '../errors.ts'
import { fleetAdminRoutes } from '../fleet/admin.ts'
import { auditRoutes } from './audit.ts'
import { configRoutes } from './config.ts'
import type { AdminEnv } from './context.ts'
import { creditRoutes } from './credit.ts'
import { failureOf } from './failures.ts'
import { guard } from './guard.ts'
import { guardRoutes } from './guards.ts'
import { issuerRoutes } from './issuers.ts'
import { keyUseRoutes } from './key-use.ts'
import { keyRoutes } from './keys.ts'
import { ledgerRoutes } from './ledger.ts'
import { limitEventRoutes } from './limit-events.ts'
import { limitStateRoutes } from './limit-state.ts'
import { limitRoutes } from './limits.ts'
import { markupRoutes } from './markups.ts'
import { modelRoutes } from './models.ts'
import { organisationRoutes } from './organisations.ts'
import { peopleRoutes } from './people.ts'
import { authorise } from './permissions.ts'
import { priceRoutes } from './prices.ts'
import { providerKeyRoutes } from './provider-keys.ts'
import { providerRoutes } from './providers.ts'
import { serviceAccountRoutes } from './service-accounts.ts'
import { sessionRoutes } from './session.ts'
import { signInClientRoutes } from './sign-in-clients.ts'
import { statementRoutes } from './statements.ts'
import { teamRoutes } from './teams.ts'
import { usageRoutes } from './usage.ts'

export const adminApp = new Hono<AdminEnv>()

adminApp.use(async (c, next) => {
  // Set by the app that mounts this one; set here where none does.
  if (c.get('requestId') === undefined) c.set('requestId', crypto.randomUUID())
  await next()
  c.header('x-request-id', c.get('requestId'))
})
adminApp.use(guard)
adminApp.use(authorise)

adminApp.route('/organisations', organisationRoutes)
adminApp.route('/organisations', keyRoutes)
adminApp.route('/organisations', peopleRoutes)
adminApp.route('/organisations', serviceAccountRoutes)
adminApp.route('/organisations', teamRoutes)
adminApp.route('/organisations', issuerRoutes)
adminApp.route('/organisations', signInClientRoutes)
adminApp.route('/organisations', guardRoutes)
adminApp.route('/organisations', limitRoutes)
adminApp.route('/organisations', limitEventRoutes)
adminApp.route('/organisations', limitStateRoutes)
adminApp.route('/organisations', statementRoutes)
adminApp.route('/organisations', keyUseRoutes)
adminApp.route('/organisations', creditRoutes)
adminApp.route('/organisations', markupRoutes)
adminApp.route('/', sessionRoutes)
adminApp.route('/models', modelRoutes)
adminApp.route('/prices', priceRoutes)
adminApp.route('/providers', providerRoutes)
adminApp.route('/providers', providerKeyRoutes)
adminApp.route('/config', configRoutes)
adminApp.route('/audit', auditRoutes)
adminApp.route('/usage', usageRoutes)
adminApp.route('/ledger', ledgerRoutes)
adminApp.route('/backends', fleetAdminRoutes)
adminApp.all('*', (c) =>
  failureResponse({ code: 'not_found', message: 'There is no such admin route.' }, c.get('requestId')),
)

adminApp.onError((error, c) => failureResponse(failureOf(error, c.get('requestId')), c.get('requestId')))
