-- What may be called: model names, the upstream providers behind them, and what each unit costs.

-- One row is one model name that callers use.
CREATE TABLE IF NOT EXISTS models (
  name       text        NOT NULL PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 128),
  -- JSON array in order of preference: [{"provider", "model", "context_tokens", "output_tokens_max"?}].
  targets    text        NOT NULL,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL
);

-- One row is one upstream that an administrator registered. No caller ever chooses a host.
CREATE TABLE IF NOT EXISTS providers (
  name              text        NOT NULL PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 63 AND name <> 'fleet'),
  kind              text        NOT NULL CHECK (kind IN ('openai_compatible')),
  base_url          text        NOT NULL,
  allow_private     boolean     NOT NULL,
  -- AES-256-GCM under a key derived from the Worker's SECRETS_KEK, bound to this row's name.
  secret_ciphertext text        NOT NULL,
  created_at        timestamptz NOT NULL,
  updated_at        timestamptz NOT NULL
);

-- One row is one version of the prices of one provider's model, in force from `effective_from` until the next one.
-- Append-only: usage rows name the version they were priced with, and history is never priced again.
CREATE TABLE IF NOT EXISTS price_versions (
  price_version_id uuid        NOT NULL PRIMARY KEY,
  provider         text        NOT NULL,
  model            text        NOT NULL,
  effective_from   timestamptz NOT NULL,
  created_at       timestamptz NOT NULL
);
-- Serves: the version in force at a time; refuses two that start at the same instant.
CREATE UNIQUE INDEX IF NOT EXISTS price_versions_by_target ON price_versions (provider, model, effective_from);
-- Serves: the list of price versions, newest first.
CREATE INDEX IF NOT EXISTS price_versions_by_time ON price_versions (created_at, price_version_id);

-- One row is the price of one usage part in one version. A missing part is an unknown price; an explicit 0 is free.
CREATE TABLE IF NOT EXISTS price_parts (
  price_version_id    uuid   NOT NULL,
  part                text   NOT NULL CHECK (part IN ('input_uncached', 'input_cache_read', 'input_cache_write_5m',
                                                      'input_cache_write_1h', 'output_text', 'output_reasoning')),
  -- Integer nano-USD (1e-9 USD) per 1,000,000 units.
  nanousd_per_million bigint NOT NULL CHECK (nanousd_per_million >= 0),
  PRIMARY KEY (price_version_id, part)
);
