-- Usage in steps of 15 minutes, for dashboards: hours and days of any time zone can be cut from them. Every row is made
-- anew from the usage rows of its quarter hour, never added to, so that no repetition can count anything twice.

-- One row is one combination of dimensions that an organisation has used. Never changed. Latencies are told apart by fewer
-- of them: there key, user and team are absent.
CREATE TABLE IF NOT EXISTS rollup_dimensions (
  org_id          uuid NOT NULL,
  -- MD5 over the columns below: the same combination meets the same key.
  dimensions_id   uuid NOT NULL,
  project_id      uuid NOT NULL,
  key_id          uuid,
  user_id         uuid,
  team_id         uuid,
  model_requested text NOT NULL,
  model_served    text NOT NULL,
  provider        text NOT NULL,
  status          text NOT NULL,
  PRIMARY KEY (org_id, dimensions_id)
);

-- One row is what one combination used in one quarter hour (UTC), by the start of the attempt or request. Parts and cost
-- are the customer's, corrections included; what the gateway absorbs stands apart. A request counts under the target
-- that ended it.
CREATE TABLE IF NOT EXISTS usage_rollups (
  org_id                uuid        NOT NULL,
  bucket_start          timestamptz NOT NULL,
  dimensions_id         uuid        NOT NULL,
  requests              bigint      NOT NULL,
  attempts              bigint      NOT NULL,
  input_uncached        bigint      NOT NULL,
  input_cache_read      bigint      NOT NULL,
  input_cache_write_5m  bigint      NOT NULL,
  input_cache_write_1h  bigint      NOT NULL,
  input_audio           bigint      NOT NULL,
  input_image           bigint      NOT NULL,
  output_text           bigint      NOT NULL,
  output_reasoning      bigint      NOT NULL,
  output_audio          bigint      NOT NULL,
  output_image          bigint      NOT NULL,
  web_search_calls      bigint      NOT NULL,
  image_calls           bigint      NOT NULL,
  tool_calls            bigint      NOT NULL,
  cost_nanousd          bigint      NOT NULL,
  absorbed_nanousd      bigint      NOT NULL,
  provider_cost_nanousd bigint      NOT NULL,
  -- Attempts whose usage was an estimate, was counted from a broken stream, contradicted itself, or had no price, when they ended.
  estimated_attempts    bigint      NOT NULL,
  partial_attempts      bigint      NOT NULL,
  inconsistent_attempts bigint      NOT NULL,
  unpriced_attempts     bigint      NOT NULL,
  first_started_at      timestamptz NOT NULL,
  last_ended_at         timestamptz NOT NULL,
  PRIMARY KEY (org_id, bucket_start, dimensions_id)
);

-- One row is how many requests of one combination and quarter hour fell into one slot of time: to the first token, and to
-- the end. Slots are the same everywhere (gateway/ledger/latency.ts), so that they add up over anything. Not by key, user
-- or team: with few requests each there would be as many slots as requests.
CREATE TABLE IF NOT EXISTS rollup_latencies (
  org_id        uuid        NOT NULL,
  bucket_start  timestamptz NOT NULL,
  dimensions_id uuid        NOT NULL,
  slot          int         NOT NULL CHECK (slot >= 0),
  first_tokens  bigint      NOT NULL,
  ends          bigint      NOT NULL,
  PRIMARY KEY (org_id, bucket_start, dimensions_id, slot)
);

-- One row is a quarter hour whose usage rows changed after its rollup was made. Written in the transaction that writes the
-- rows, deleted in the one that makes the rollup.
CREATE TABLE IF NOT EXISTS rollup_dirty (
  org_id       uuid        NOT NULL,
  bucket_start timestamptz NOT NULL,
  -- When rows last changed or making the rollup last failed: the order in which buckets are made.
  marked_at    timestamptz NOT NULL,
  PRIMARY KEY (org_id, bucket_start)
);

-- Usage from before there were rollups.
INSERT INTO rollup_dirty (org_id, bucket_start, marked_at)
  SELECT org_id, to_timestamp(floor(date_part('epoch', started_at) / 900) * 900), now() FROM usage_attempts
  UNION
  SELECT org_id, to_timestamp(floor(date_part('epoch', started_at) / 900) * 900), now() FROM usage_requests
  ON CONFLICT DO NOTHING;

-- Serves: pages and exports of the ledger by time, and its check over a range.
CREATE INDEX IF NOT EXISTS ledger_entries_by_time ON ledger_entries (org_id, occurred_at, transfer_id, account_id);
