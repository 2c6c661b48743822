-- Rollups by machine and tag, with more counted, and coarser ones beside them: an answer over a month adds up thousands of rows
-- and not a million.

-- Of combinations: the caller's tags as they stand in usage rows. `*`: more than a quarter hour tells apart (rollups.ts).
ALTER TABLE rollup_dimensions ADD COLUMN IF NOT EXISTS backend_id text;
ALTER TABLE rollup_dimensions ADD COLUMN IF NOT EXISTS tags text;

-- Attempts beyond a request's first, by their role, with what was charged for them and what the gateway bore; answers out of
-- the response cache; how requests ended; what caches saved. Of rows rolled up before: 0, until they are rolled up again.
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS fallback_attempts            bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS fallback_nanousd             bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS fallback_absorbed_nanousd    bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS retry_attempts               bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS retry_nanousd                bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS retry_absorbed_nanousd       bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS hedge_attempts               bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS hedge_nanousd                bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS hedge_absorbed_nanousd       bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS cascade_attempts             bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS cascade_nanousd              bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS cascade_absorbed_nanousd     bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS shadow_attempts              bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS shadow_nanousd               bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS shadow_absorbed_nanousd      bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS cached_answers               bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS failed_requests              bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS cancelled_requests           bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS interrupted_requests         bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN IF NOT EXISTS cache_savings_nanousd        bigint NOT NULL DEFAULT 0;

-- One row is one combination of the few dimensions that one cube (gateway/ledger/cubes.ts) tells apart; the others are absent.
-- Never changed.
CREATE TABLE IF NOT EXISTS cube_dimensions (
  org_id          uuid NOT NULL,
  cube            text NOT NULL,
  -- MD5 over the columns below: the same combination meets the same key.
  dimensions_id   uuid NOT NULL,
  project_id      uuid,
  key_id          uuid,
  user_id         uuid,
  team_id         uuid,
  model_requested text,
  model_served    text,
  provider        text,
  status          text,
  backend_id      text,
  tags            text,
  PRIMARY KEY (org_id, cube, dimensions_id)
);

-- One row is what one combination of a cube used in one hour (UTC): sums of usage_rollups.
CREATE TABLE IF NOT EXISTS usage_cubes (
  org_id        uuid        NOT NULL,
  cube          text        NOT NULL,
  hour_start    timestamptz NOT NULL,
  dimensions_id uuid        NOT NULL,
  requests                 bigint NOT NULL,
  attempts                 bigint NOT NULL,
  input_uncached           bigint NOT NULL,
  input_cache_read         bigint NOT NULL,
  input_cache_write_5m     bigint NOT NULL,
  input_cache_write_1h     bigint NOT NULL,
  input_audio              bigint NOT NULL,
  input_image              bigint NOT NULL,
  output_text              bigint NOT NULL,
  output_reasoning         bigint NOT NULL,
  output_audio             bigint NOT NULL,
  output_image             bigint NOT NULL,
  web_search_calls         bigint NOT NULL,
  image_calls              bigint NOT NULL,
  tool_calls               bigint NOT NULL,
  cost_nanousd             bigint NOT NULL,
  absorbed_nanousd         bigint NOT NULL,
  provider_cost_nanousd    bigint NOT NULL,
  estimated_attempts       bigint NOT NULL,
  partial_attempts         bigint NOT NULL,
  inconsistent_attempts    bigint NOT NULL,
  unpriced_attempts        bigint NOT NULL,
  fallback_attempts        bigint NOT NULL,
  fallback_nanousd         bigint NOT NULL,
  fallback_absorbed_nanousd bigint NOT NULL,
  retry_attempts           bigint NOT NULL,
  retry_nanousd            bigint NOT NULL,
  retry_absorbed_nanousd   bigint NOT NULL,
  hedge_attempts           bigint NOT NULL,
  hedge_nanousd            bigint NOT NULL,
  hedge_absorbed_nanousd   bigint NOT NULL,
  cascade_attempts         bigint NOT NULL,
  cascade_nanousd          bigint NOT NULL,
  cascade_absorbed_nanousd bigint NOT NULL,
  shadow_attempts          bigint NOT NULL,
  shadow_nanousd           bigint NOT NULL,
  shadow_absorbed_nanousd  bigint NOT NULL,
  cached_answers           bigint NOT NULL,
  failed_requests          bigint NOT NULL,
  cancelled_requests       bigint NOT NULL,
  interrupted_requests     bigint NOT NULL,
  cache_savings_nanousd    bigint NOT NULL,
  PRIMARY KEY (org_id, cube, hour_start, dimensions_id)
);

-- One row is how many requests of one combination of a cube and hour fell into one slot of time: sums of rollup_latencies.
CREATE TABLE IF NOT EXISTS cube_latencies (
  org_id        uuid        NOT NULL,
  cube          text        NOT NULL,
  hour_start    timestamptz NOT NULL,
  dimensions_id uuid        NOT NULL,
  slot          int         NOT NULL CHECK (slot >= 0),
  first_tokens  bigint      NOT NULL,
  ends          bigint      NOT NULL,
  PRIMARY KEY (org_id, cube, hour_start, dimensions_id, slot)
);

-- One row is an hour whose cubes are made from all of its quarter hours (`made`), or were and have to be made again. An hour
-- without a row, or not made, is answered from its quarter hours.
CREATE TABLE IF NOT EXISTS rollup_hours (
  org_id     uuid        NOT NULL,
  hour_start timestamptz NOT NULL,
  made       boolean     NOT NULL,
  PRIMARY KEY (org_id, hour_start)
);

-- Hours from before there were cubes, to be made in passing.
INSERT INTO rollup_hours (org_id, hour_start, made)
  SELECT DISTINCT org_id, to_timestamp(floor(date_part('epoch', bucket_start) / 3600) * 3600), false FROM usage_rollups
  ON CONFLICT DO NOTHING;
