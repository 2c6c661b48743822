-- What was used and what it cost. Rows are facts of the request's own time: inserted once, never changed.
-- Money is integer nano-USD (1e-9 USD); token parts are disjoint, totals are derived.

-- One row is one upstream attempt (kind `attempt`), or what became known after its hold had expired: an `adjustment`
-- adds the difference to the estimate; where the payer changed too, a `reversal` takes the estimate back first. The true
-- usage of an attempt is the sum over its rows.
CREATE TABLE IF NOT EXISTS usage_attempts (
  org_id                uuid        NOT NULL,
  request_id            uuid        NOT NULL,
  attempt               int         NOT NULL CHECK (attempt >= 1),
  kind                  text        NOT NULL CHECK (kind IN ('attempt', 'adjustment', 'reversal')),
  project_id            uuid        NOT NULL,
  key_id                uuid        NOT NULL,
  -- Catalog name of the provider, `fleet` for own backends.
  provider              text        NOT NULL,
  model_requested       text        NOT NULL,
  model_served          text        NOT NULL,
  stream                boolean     NOT NULL,
  -- `ok`, `client_cancelled`, or an error code of the protocol.
  status                text        NOT NULL,
  -- What the client saw; absent where nobody was left to see it.
  http_status           int         CHECK (http_status BETWEEN 100 AND 599),
  -- Who pays: the customer, or the gateway for an attempt that did not become the answer.
  charge                text        NOT NULL CHECK (charge IN ('customer', 'absorbed')),
  usage_source          text        NOT NULL CHECK (usage_source IN ('provider', 'stream_partial', 'estimated')),
  input_uncached        bigint      NOT NULL,
  input_cache_read      bigint      NOT NULL,
  input_cache_write_5m  bigint      NOT NULL,
  input_cache_write_1h  bigint      NOT NULL,
  output_text           bigint      NOT NULL,
  output_reasoning      bigint      NOT NULL,
  cost_nanousd          bigint      NOT NULL,
  -- `part_missing`: a used part without a price was charged at the dearest price of its side; `price_missing`: nothing
  -- to go by, charged 0.
  pricing               text        NOT NULL CHECK (pricing IN ('priced', 'part_missing', 'price_missing')),
  price_version_id      text,
  -- JSON object, part to nano-USD per million as a decimal string: the prices this row was computed with.
  unit_prices           text,
  -- What the provider charges for it, where it says so.
  provider_cost_nanousd bigint,
  -- UTC day of started_at: the day whose budgets it counts in.
  usage_day             date        NOT NULL,
  started_at            timestamptz NOT NULL,
  first_token_at        timestamptz,
  ended_at              timestamptz NOT NULL,
  recorded_at           timestamptz NOT NULL,
  -- SHA-256 of everything above, hex: tells a repeated write from another fact under the same identity.
  payload_hash          text        NOT NULL,
  PRIMARY KEY (org_id, request_id, attempt, kind),
  CHECK (kind <> 'attempt' OR (input_uncached >= 0 AND input_cache_read >= 0 AND input_cache_write_5m >= 0
    AND input_cache_write_1h >= 0 AND output_text >= 0 AND output_reasoning >= 0 AND cost_nanousd >= 0)),
  CHECK (pricing <> 'price_missing' OR kind <> 'attempt' OR cost_nanousd = 0),
  CHECK ((price_version_id IS NULL) = (unit_prices IS NULL))
);
-- Serves: usage of an organisation over a time range, and the daily sums an account is rebuilt from.
CREATE INDEX IF NOT EXISTS usage_attempts_by_time ON usage_attempts (org_id, usage_day, started_at);

-- One row is one client request, written when it ended. Usage and cost are what the customer had been charged by then;
-- later adjustments stand in usage_attempts.
CREATE TABLE IF NOT EXISTS usage_requests (
  org_id               uuid        NOT NULL,
  request_id           uuid        NOT NULL,
  project_id           uuid        NOT NULL,
  key_id               uuid        NOT NULL,
  provider             text        NOT NULL,
  model_requested      text        NOT NULL,
  model_served         text        NOT NULL,
  stream               boolean     NOT NULL,
  status               text        NOT NULL,
  http_status          int         CHECK (http_status BETWEEN 100 AND 599),
  attempts             int         NOT NULL CHECK (attempts >= 1),
  input_uncached       bigint      NOT NULL CHECK (input_uncached >= 0),
  input_cache_read     bigint      NOT NULL CHECK (input_cache_read >= 0),
  input_cache_write_5m bigint      NOT NULL CHECK (input_cache_write_5m >= 0),
  input_cache_write_1h bigint      NOT NULL CHECK (input_cache_write_1h >= 0),
  output_text          bigint      NOT NULL CHECK (output_text >= 0),
  output_reasoning     bigint      NOT NULL CHECK (output_reasoning >= 0),
  cost_nanousd         bigint      NOT NULL CHECK (cost_nanousd >= 0),
  usage_day            date        NOT NULL,
  started_at           timestamptz NOT NULL,
  first_token_at       timestamptz,
  ended_at             timestamptz NOT NULL,
  recorded_at          timestamptz NOT NULL,
  payload_hash         text        NOT NULL,
  PRIMARY KEY (org_id, request_id)
);
-- Serves: the list of requests of an organisation, newest first, page by page.
CREATE INDEX IF NOT EXISTS usage_requests_by_time ON usage_requests (org_id, started_at, request_id);
