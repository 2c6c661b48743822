// A month of an organisation, made up in SQL: usage rows of attempts and requests, and the ledger's entries for them. Owns the mix;
// it is the same for the same number of rows. Rolling up is the product's own code (main.ts).
//
// The mix: 40 keys of 5 projects, 12 users and 6 teams; each key asks for two or three of 8 models, and two keys make a third of
// the traffic. Three models run on 8 own machines, five at three providers. Days are busier than nights. 5 % of requests fall over
// once, 1 % are hedged, 2 % fail, 2 % are left by their client; 60 % carry two tags of 3 x 5 values; 70 % name one of
// 5,000 end users, a few of them often.
import type { Sql } from 'postgres'

export const ORG_ID = '00000000-0000-4000-8000-0000000000d2'
const DAYS = 30
/** Rows per statement: each is seconds, and its sorts stay in memory. */
const CHUNK = 100_000

const uuid = (kind: string, number: string) => `md5('${kind}' || (${number})::text)::uuid`

/** Columns of a request by its number i, uniform numbers u1 … u6 in [0, 1). */
const REQUEST = `
  SELECT i, request_id, key_no, model_no, started_at, u2, u3, u4, u5,
    CASE WHEN u2 < 0.02 THEN 'upstream_error' WHEN u2 < 0.04 THEN 'client_cancelled' ELSE 'ok' END AS status,
    u3 < 0.05 AS falls_over, u3 >= 0.05 AND u3 < 0.06 AS is_hedged,
    (100 + floor(u4 * 4000))::bigint AS input, (20 + floor(u5 * 600))::bigint AS output,
    CASE WHEN u6 < 0.6 THEN 'env=' || (ARRAY['prod','test','dev'])[1 + key_no % 3] || ',feature='
      || (ARRAY['search','chat','draft','sort','alt'])[1 + (key_no + floor(u6 * 5)::int) % 5] END AS tags,
    CASE WHEN u7 < 0.7 THEN 'customer-' || floor(5000 * power(u7 / 0.7, 2))::int END AS end_user,
    CASE WHEN model_no < 3 THEN md5('backend' || (floor(u5 * 997)::int % 8))::uuid::text END AS backend_id
  FROM (SELECT i, md5('r' || i)::uuid AS request_id,
      CASE WHEN r1 < 0.33 THEN floor(r1 * 6)::int % 2 ELSE floor(r1 * 1000)::int % 40 END AS key_no, r1,
      (CASE WHEN r1 < 0.33 THEN floor(r1 * 6)::int % 2 ELSE floor(r1 * 1000)::int % 40 END * 3
        + floor(u5 * 2.4)::int) % 8 AS model_no,
      $3::timestamptz + (floor(i * 1.0 / $4 * ${DAYS})::int * interval '1 day')
        + (24 * (day_part + 0.14 * sin(6.2832 * day_part) / 6.2832) * interval '1 hour') AS started_at,
      u2, u3, u4, u5, u6, u7
    FROM (SELECT i, mod(i * 1.0 / $4 * ${DAYS}, 1)::float8 AS day_part, h(i, 1) AS r1, h(i, 2) AS u2, h(i, 3) AS u3,
      h(i, 4) AS u4, h(i, 5) AS u5, h(i, 6) AS u6, h(i, 7) AS u7
      FROM generate_series($1::bigint, $2::bigint) AS i) AS drawn) AS placed`

const SHARED = `
  '${ORG_ID}'::uuid, request_id, ${uuid('project', 'key_no % 5')}, ${uuid('key', 'key_no')}, ${uuid('user', 'key_no % 12')},
  ${uuid('team', 'key_no % 6')}, 'model-' || model_no`
const SERVED = `CASE WHEN model_no < 3 THEN 'fleet' ELSE (ARRAY['openai','anthropic','gemini'])[model_no % 3 + 1] END`
const PARTS_NAMES =
  'input_uncached, input_cache_read, input_cache_write_5m, input_cache_write_1h, output_text, output_reasoning'
const PARTS = `input - input / 3, input / 3, 0, 0, output, 0`
const PRICES = `'{"perMillion":{"inputUncached":"2000000000","inputCacheRead":"200000000","outputText":"8000000000"}}'`
const COST = '(input - input / 3) * 2000 + input / 3 * 200 + output * 8000'
const DAY = `(started_at AT TIME ZONE 'UTC')::date`

const attempts = (number: number, role: string, more: { where: string; status: string; charge: string }) => `
  SELECT ${SHARED}, ${number}, 'attempt', ${number === 1 ? SERVED : `'openai'`}, 'served-' || model_no, true, ${more.status}, 200,
    '${more.charge}', CASE WHEN ${more.status} = 'client_cancelled' THEN 'stream_partial' ELSE 'provider' END, ${PARTS}, ${COST},
    'priced', 'v1', ${PRICES}, (${COST}) / 2, ${DAY}, started_at + ${number - 1} * interval '700 ms',
    started_at + (200 + u4 * 1500 + ${number - 1} * 700) * interval '1 ms',
    started_at + (500 + u5 * 20000 + ${number - 1} * 700) * interval '1 ms', started_at + interval '25 s', 'x',
    ${uuid('key', 'key_no')}, false, '{"role":"${role}","reason":"ordered","turn":1,"standing":"closed","key":"default"}',
    ${number === 1 ? 'backend_id' : 'NULL'}, tags, input / 3 * 1800, end_user
  FROM (${REQUEST}) AS request WHERE ${more.where}`

const ATTEMPT_COLUMNS = `org_id, request_id, project_id, key_id, user_id, team_id, model_requested, attempt, kind, provider,
  model_served, stream, status, http_status, charge, usage_source, ${PARTS_NAMES}, cost_nanousd, pricing, price_version_id,
  unit_prices, provider_cost_nanousd, usage_day, started_at, first_token_at, ended_at, recorded_at, payload_hash, key_line_id,
  inconsistent, route, backend_id, tags, cache_savings_nanousd, end_user`

const STATEMENTS = [
  `INSERT INTO usage_attempts (${ATTEMPT_COLUMNS}) ${attempts(1, 'primary', {
    where: 'NOT falls_over',
    status: 'status',
    charge: 'customer',
  })} UNION ALL ${attempts(1, 'primary', { where: 'falls_over', status: `'upstream_error'`, charge: 'absorbed' })}
    UNION ALL ${attempts(2, 'fallback', { where: 'falls_over', status: 'status', charge: 'customer' })}
    UNION ALL ${attempts(2, 'hedge', { where: 'is_hedged', status: `'client_cancelled'`, charge: 'customer' })}`,
  `INSERT INTO usage_requests (org_id, request_id, project_id, key_id, user_id, team_id, model_requested, provider, model_served,
      stream, status, http_status, attempts, ${PARTS_NAMES}, cost_nanousd, usage_day, started_at, first_token_at, ended_at,
      recorded_at, payload_hash, backend_id, tags, end_user)
    SELECT ${SHARED}, CASE WHEN falls_over THEN 'openai' ELSE ${SERVED} END, 'served-' || model_no, true, status, 200,
      CASE WHEN falls_over OR is_hedged THEN 2 ELSE 1 END, ${PARTS}, ${COST}, ${DAY}, started_at,
      started_at + (200 + u4 * 1500) * interval '1 ms', started_at + (500 + u5 * 20000) * interval '1 ms',
      started_at + interval '25 s', 'x', CASE WHEN falls_over THEN NULL ELSE backend_id END, tags, end_user
    FROM (${REQUEST}) AS request`,
]

/** @param untilMs The month ends with this UTC day. */
export async function seed(sql: Sql, requests: number, untilMs: number): Promise<void> {
  const from = new Date(Math.floor(untilMs / 86_400_000) * 86_400_000 - DAYS * 86_400_000).toISOString()
  // Uniform by the number of a request and of the draw.
  await sql.unsafe(`CREATE FUNCTION h(i bigint, draw int) RETURNS float8 IMMUTABLE LANGUAGE sql
    AS $$ SELECT (hashint8extended(i, draw) & 9007199254740991) / 9007199254740992.0::float8 $$`)
  for (let first = 0; first < requests; first += CHUNK) {
    const params = [first, Math.min(first + CHUNK, requests) - 1, from, requests]
    for (const statement of STATEMENTS) await sql.unsafe(statement, params)
  }
  await sql.unsafe(
    `INSERT INTO organisations (org_id, slug, name, created_at) VALUES ($1, 'month', 'A month', now())`,
    [ORG_ID],
  )
  await sql.unsafe(
    `INSERT INTO ledger_accounts (org_id, account_id, name) SELECT $1::uuid, md5(name)::uuid, name
      FROM unnest(ARRAY['customer_credit', 'usage_revenue', 'gateway_absorbed']) AS name`,
    [ORG_ID],
  )
  await sql.unsafe(
    `INSERT INTO api_keys (org_id, key_id, project_id, name, hash, prefix, scopes, created_at)
      SELECT $1::uuid, ${uuid('key', 'n')}, ${uuid('project', 'n % 5')}, 'key ' || n, md5('a' || n) || md5('b' || n), 'psk_bench', '{}',
        now() FROM generate_series(0, 39) AS n`,
    [ORG_ID],
  )
  const side = (account: string, sign: string) =>
    `SELECT $1::uuid, md5(request_id::text || attempt)::uuid, md5(${account})::uuid, ${sign}cost_nanousd, 'usage', request_id,
      attempt, kind, ended_at FROM usage_attempts WHERE org_id = $1::uuid`
  const payer = `CASE WHEN charge = 'customer' THEN 'customer_credit' ELSE 'gateway_absorbed' END`
  await sql.unsafe(
    `INSERT INTO ledger_entries (org_id, transfer_id, account_id, amount_nanousd, purpose, request_id, attempt, kind, occurred_at)
      ${side(payer, '-')} UNION ALL ${side(`'usage_revenue'`, '')}`,
    [ORG_ID],
  )
  await sql.unsafe(
    `INSERT INTO rollup_dirty (org_id, bucket_start, marked_at)
      SELECT DISTINCT org_id, to_timestamp(floor(date_part('epoch', started_at) / 900) * 900), now() FROM usage_attempts`,
  )
  await sql.unsafe(
    `INSERT INTO ledger_days (org_id, day, made)
      SELECT DISTINCT org_id, (ended_at AT TIME ZONE 'UTC')::date, false FROM usage_attempts`,
  )
  await sql.unsafe('VACUUM ANALYZE')
}
