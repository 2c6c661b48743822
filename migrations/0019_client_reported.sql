-- Usage that clients report: calls they made past the gateway with their own keys, while it was away.

-- One row is one call of a provider by a client, in the client's own words. It is shown beside usage and is no part of it: no
-- amount is computed from it, no limit counts it, the ledger does not know it. It stays as long as usage rows do.
CREATE TABLE IF NOT EXISTS client_reported_usage (
  org_id               uuid        NOT NULL,
  -- Made by the client: however often it is posted, it is here once.
  report_id            uuid        NOT NULL,
  -- Of the credential that posted it, never of the body.
  project_id           uuid        NOT NULL,
  key_id               uuid        NOT NULL,
  -- The name that the client called it by.
  model                text        NOT NULL CHECK (length(model) BETWEEN 1 AND 128),
  provider             text        NOT NULL CHECK (length(provider) BETWEEN 1 AND 64),
  status               text        NOT NULL CHECK (status IN ('answered', 'failed', 'interrupted')),
  -- Which try of its call it was, from 1.
  attempts             int         CHECK (attempts >= 1),
  -- Why the gateway was passed.
  reason               text        CHECK (length(reason) BETWEEN 1 AND 200),
  -- `name=value` by name, joined by commas.
  tags                 text,
  input_uncached       bigint      NOT NULL CHECK (input_uncached >= 0),
  input_cache_read     bigint      NOT NULL CHECK (input_cache_read >= 0),
  input_cache_write_5m bigint      NOT NULL CHECK (input_cache_write_5m >= 0),
  input_cache_write_1h bigint      NOT NULL CHECK (input_cache_write_1h >= 0),
  input_audio          bigint      NOT NULL CHECK (input_audio >= 0),
  input_image          bigint      NOT NULL CHECK (input_image >= 0),
  output_text          bigint      NOT NULL CHECK (output_text >= 0),
  output_reasoning     bigint      NOT NULL CHECK (output_reasoning >= 0),
  output_audio         bigint      NOT NULL CHECK (output_audio >= 0),
  output_image         bigint      NOT NULL CHECK (output_image >= 0),
  web_search_calls     bigint      NOT NULL CHECK (web_search_calls >= 0),
  image_calls          bigint      NOT NULL CHECK (image_calls >= 0),
  tool_calls           bigint      NOT NULL CHECK (tool_calls >= 0),
  started_at           timestamptz NOT NULL,
  ended_at             timestamptz NOT NULL,
  recorded_at          timestamptz NOT NULL,
  PRIMARY KEY (org_id, report_id),
  CHECK (ended_at >= started_at)
);
-- Serves: what the clients of an organisation report, newest first, page by page, and its sums over a range.
CREATE INDEX IF NOT EXISTS client_reported_by_time ON client_reported_usage (org_id, started_at, report_id);
