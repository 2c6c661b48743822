-- Routing as data: what an operator decides about a model beyond its targets, the keys of each provider, and the history of
-- the catalog as a document.

-- JSON object: how the targets are chosen among and what happens between them (gateway/policy/model-policy.ts); absent:
-- the defaults. A target may also hold "weight", "region" and "image_tokens_max".
ALTER TABLE models ADD COLUMN IF NOT EXISTS policy text;

-- The kinds of gateway/providers/kinds.ts.
ALTER TABLE providers DROP CONSTRAINT IF EXISTS providers_kind_check,
  ADD CONSTRAINT providers_kind_check CHECK (kind IN ('openai', 'anthropic', 'gemini', 'bedrock', 'azure_openai',
  'openai_compatible'));
ALTER TABLE providers DROP CONSTRAINT IF EXISTS providers_usage_dialect_check,
  ADD CONSTRAINT providers_usage_dialect_check CHECK (usage_dialect IN ('openai', 'anthropic', 'gemini', 'xai', 'deepseek',
  'bedrock'));
-- Known deviations of a server from its dialect, by name (gateway/providers/presets.ts).
ALTER TABLE providers ADD COLUMN IF NOT EXISTS preset text CHECK (length(preset) BETWEEN 1 AND 63);
-- JSON object with what only one kind of provider needs: {"region"?, "api_version"?, "headers"?}. No secrets.
ALTER TABLE providers ADD COLUMN IF NOT EXISTS options text NOT NULL DEFAULT '{}';

-- One row is one of the keys with which a provider is called.
CREATE TABLE IF NOT EXISTS provider_keys (
  provider          text        NOT NULL,
  name              text        NOT NULL CHECK (length(name) BETWEEN 1 AND 63),
  -- AES-256-GCM under a key derived from the Worker's SECRETS_KEK, bound to provider and name.
  secret_ciphertext text        NOT NULL,
  -- Share of the requests among the provider's keys.
  weight            int         NOT NULL CHECK (weight BETWEEN 1 AND 1000),
  created_at        timestamptz NOT NULL,
  -- Absent: the key is used.
  disabled_at       timestamptz,
  PRIMARY KEY (provider, name)
);

-- The one secret that a provider had is its key `default`. It stays in its old column, which this build reads and writes no
-- more and which nothing keeps in step: isolates of the build before go on with it during a deploy and after a way back.
INSERT INTO provider_keys (provider, name, secret_ciphertext, weight, created_at)
  SELECT name, 'default', secret_ciphertext, 1, created_at FROM providers WHERE secret_ciphertext IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM provider_keys WHERE provider_keys.provider = providers.name)
  ON CONFLICT DO NOTHING;
ALTER TABLE providers ALTER COLUMN secret_ciphertext DROP NOT NULL;

-- The one row rises in every transaction that changes providers, their keys or models: what such a transaction was
-- planned on still stands when it is written.
CREATE TABLE IF NOT EXISTS catalog_revision (
  id       int    NOT NULL PRIMARY KEY CHECK (id = 1),
  revision bigint NOT NULL CHECK (revision >= 1)
);
INSERT INTO catalog_revision (id, revision) VALUES (1, 1) ON CONFLICT DO NOTHING;

-- One row is the whole catalog (providers without secrets, models) as it stood after a document was applied. Never changed;
-- the oldest are dropped when there are too many.
CREATE TABLE IF NOT EXISTS config_versions (
  -- The last one + 1, made by the application in the transaction that applies it.
  version    bigint      NOT NULL PRIMARY KEY CHECK (version >= 1),
  document   text        NOT NULL,
  -- SHA-256 of the document, hexadecimal.
  checksum   text        NOT NULL CHECK (length(checksum) = 64),
  applied_at timestamptz NOT NULL,
  actor      text        NOT NULL,
  -- For people: why. Absent: nobody said.
  note       text        CHECK (length(note) <= 500)
);
