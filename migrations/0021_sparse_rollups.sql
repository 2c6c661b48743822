-- Rollups that take less room: of some forty sums most are 0, and what is 0 is not written; the slots of a histogram stand in one row;
-- latencies and end users of quarter hours are read from usage rows; a unit names so many end users and adds up the others.

-- Absent: 0. Rows from before have zeros.
ALTER TABLE usage_rollups
  ALTER COLUMN requests DROP NOT NULL,
  ALTER COLUMN attempts DROP NOT NULL,
  ALTER COLUMN input_uncached DROP NOT NULL,
  ALTER COLUMN input_cache_read DROP NOT NULL,
  ALTER COLUMN input_cache_write_5m DROP NOT NULL,
  ALTER COLUMN input_cache_write_1h DROP NOT NULL,
  ALTER COLUMN input_audio DROP NOT NULL,
  ALTER COLUMN input_image DROP NOT NULL,
  ALTER COLUMN output_text DROP NOT NULL,
  ALTER COLUMN output_reasoning DROP NOT NULL,
  ALTER COLUMN output_audio DROP NOT NULL,
  ALTER COLUMN output_image DROP NOT NULL,
  ALTER COLUMN web_search_calls DROP NOT NULL,
  ALTER COLUMN image_calls DROP NOT NULL,
  ALTER COLUMN tool_calls DROP NOT NULL,
  ALTER COLUMN cost_nanousd DROP NOT NULL,
  ALTER COLUMN absorbed_nanousd DROP NOT NULL,
  ALTER COLUMN provider_cost_nanousd DROP NOT NULL,
  ALTER COLUMN estimated_attempts DROP NOT NULL,
  ALTER COLUMN partial_attempts DROP NOT NULL,
  ALTER COLUMN inconsistent_attempts DROP NOT NULL,
  ALTER COLUMN unpriced_attempts DROP NOT NULL,
  ALTER COLUMN fallback_attempts DROP NOT NULL,
  ALTER COLUMN fallback_nanousd DROP NOT NULL,
  ALTER COLUMN fallback_absorbed_nanousd DROP NOT NULL,
  ALTER COLUMN retry_attempts DROP NOT NULL,
  ALTER COLUMN retry_nanousd DROP NOT NULL,
  ALTER COLUMN retry_absorbed_nanousd DROP NOT NULL,
  ALTER COLUMN hedge_attempts DROP NOT NULL,
  ALTER COLUMN hedge_nanousd DROP NOT NULL,
  ALTER COLUMN hedge_absorbed_nanousd DROP NOT NULL,
  ALTER COLUMN cascade_attempts DROP NOT NULL,
  ALTER COLUMN cascade_nanousd DROP NOT NULL,
  ALTER COLUMN cascade_absorbed_nanousd DROP NOT NULL,
  ALTER COLUMN shadow_attempts DROP NOT NULL,
  ALTER COLUMN shadow_nanousd DROP NOT NULL,
  ALTER COLUMN shadow_absorbed_nanousd DROP NOT NULL,
  ALTER COLUMN cached_answers DROP NOT NULL,
  ALTER COLUMN failed_requests DROP NOT NULL,
  ALTER COLUMN cancelled_requests DROP NOT NULL,
  ALTER COLUMN interrupted_requests DROP NOT NULL,
  ALTER COLUMN cache_savings_nanousd DROP NOT NULL,
  DROP CONSTRAINT IF EXISTS usage_rollups_pkey,
  DROP COLUMN IF EXISTS first_started_at,
  DROP COLUMN IF EXISTS last_ended_at;
-- Serves: the rows of a quarter hour, which are made and read together. That no two are of one combination is the roller's doing.
CREATE INDEX IF NOT EXISTS usage_rollups_by_time ON usage_rollups (org_id, bucket_start);

DROP TABLE IF EXISTS rollup_latencies;

-- All units are made again, in passing, and answered from below until then.
UPDATE rollup_hours SET made = false WHERE made;
UPDATE rollup_days SET made = false WHERE made;
UPDATE rollup_spans SET made = false WHERE made;
DELETE FROM cube_dimensions;

-- One row is what one combination of a cube used in one hour (UTC) or longer unit; `hour_start` is the unit's. Absent: 0.
DROP TABLE IF EXISTS usage_cubes;
CREATE TABLE IF NOT EXISTS usage_cubes (
  hour_start               timestamptz NOT NULL,
  org_id                   uuid        NOT NULL,
  dimensions_id            uuid        NOT NULL,
  requests                 bigint,
  attempts                 bigint,
  input_uncached           bigint,
  input_cache_read         bigint,
  input_cache_write_5m     bigint,
  input_cache_write_1h     bigint,
  input_audio              bigint,
  input_image              bigint,
  output_text              bigint,
  output_reasoning         bigint,
  output_audio             bigint,
  output_image             bigint,
  web_search_calls         bigint,
  image_calls              bigint,
  tool_calls               bigint,
  cost_nanousd             bigint,
  absorbed_nanousd         bigint,
  provider_cost_nanousd    bigint,
  estimated_attempts       bigint,
  partial_attempts         bigint,
  inconsistent_attempts    bigint,
  unpriced_attempts        bigint,
  fallback_attempts        bigint,
  fallback_nanousd         bigint,
  fallback_absorbed_nanousd bigint,
  retry_attempts           bigint,
  retry_nanousd            bigint,
  retry_absorbed_nanousd   bigint,
  hedge_attempts           bigint,
  hedge_nanousd            bigint,
  hedge_absorbed_nanousd   bigint,
  cascade_attempts         bigint,
  cascade_nanousd          bigint,
  cascade_absorbed_nanousd bigint,
  shadow_attempts          bigint,
  shadow_nanousd           bigint,
  shadow_absorbed_nanousd  bigint,
  cached_answers           bigint,
  failed_requests          bigint,
  cancelled_requests       bigint,
  interrupted_requests     bigint,
  cache_savings_nanousd    bigint,
  -- Behind a prefix that says the level of the unit: none for hours, `day:`, `days8:`, `days64:`. Last, so that nothing is padded.
  cube                     text        NOT NULL
);
CREATE INDEX IF NOT EXISTS usage_cubes_by_unit ON usage_cubes (org_id, cube, hour_start);

-- One row is how many requests of one combination of a cube and unit fell into which slot of time (gateway/ledger/latency.ts): of each
-- of `slots`, which rise, how many first tokens and how many ends.
DROP TABLE IF EXISTS cube_latencies;
CREATE TABLE IF NOT EXISTS cube_latencies (
  hour_start    timestamptz NOT NULL,
  org_id        uuid        NOT NULL,
  dimensions_id uuid        NOT NULL,
  slots         int[]       NOT NULL,
  first_tokens  bigint[]    NOT NULL,
  ends          bigint[]    NOT NULL,
  cube          text        NOT NULL
);
CREATE INDEX IF NOT EXISTS cube_latencies_by_unit ON cube_latencies (org_id, cube, hour_start);

-- Serves: what one end user used, where a unit does not name them all.
CREATE INDEX IF NOT EXISTS usage_requests_by_end_user ON usage_requests (org_id, end_user, started_at) WHERE end_user IS NOT NULL;
