-- Prices in every part, tier and length of prompt, with where they come from; what each organisation pays of them; and what
-- providers need to be understood and cut off right.

-- A price belongs to one service of a provider: 'standard', or what it calls its others ('flex', 'priority').
ALTER TABLE price_versions ADD COLUMN IF NOT EXISTS service_tier text NOT NULL DEFAULT 'standard'
  CHECK (length(service_tier) BETWEEN 1 AND 32);
-- From here on the price is unknown, unless another version has begun. Absent: until the next version begins.
ALTER TABLE price_versions ADD COLUMN IF NOT EXISTS effective_to timestamptz CHECK (effective_to > effective_from);
-- Where the price was read, for people; and on which day it stood there.
ALTER TABLE price_versions ADD COLUMN IF NOT EXISTS source text CHECK (length(source) BETWEEN 1 AND 500);
ALTER TABLE price_versions ADD COLUMN IF NOT EXISTS source_date date;
DROP INDEX IF EXISTS price_versions_by_target;
-- Serves: the version in force at a time; refuses two that start at the same instant.
CREATE UNIQUE INDEX IF NOT EXISTS price_versions_by_service ON price_versions (provider, model, service_tier, effective_from);

-- All thirteen parts; calls are priced per million of them too.
ALTER TABLE price_parts DROP CONSTRAINT IF EXISTS price_parts_part_check,
  ADD CONSTRAINT price_parts_part_check CHECK (part IN ('input_uncached', 'input_cache_read',
  'input_cache_write_5m', 'input_cache_write_1h', 'input_audio', 'input_image', 'output_text', 'output_reasoning',
  'output_audio', 'output_image', 'web_search_calls', 'image_calls', 'tool_calls'));

-- One row is the price of one part for attempts with more than so many input tokens. A part that a tier does not name keeps
-- the price of the tier below, the lowest being price_parts.
CREATE TABLE IF NOT EXISTS price_tier_parts (
  price_version_id    uuid   NOT NULL,
  above_input_tokens  bigint NOT NULL CHECK (above_input_tokens >= 1),
  part                text   NOT NULL CHECK (part IN ('input_uncached', 'input_cache_read', 'input_cache_write_5m',
    'input_cache_write_1h', 'input_audio', 'input_image', 'output_text', 'output_reasoning', 'output_audio',
    'output_image', 'web_search_calls', 'image_calls', 'tool_calls')),
  nanousd_per_million bigint NOT NULL CHECK (nanousd_per_million >= 0),
  PRIMARY KEY (price_version_id, above_input_tokens, part)
);

-- One row is what an organisation pays of the list price from one instant on, in hundredths of a per cent. Append-only.
CREATE TABLE IF NOT EXISTS price_markups (
  org_id         uuid        NOT NULL,
  markup_id      uuid        NOT NULL,
  -- '*' means every provider, every model. The model is the target's own name.
  provider       text        NOT NULL CHECK (length(provider) BETWEEN 1 AND 63),
  model          text        NOT NULL CHECK (length(model) BETWEEN 1 AND 128),
  -- Absent: the rule ends here, and a less specific one holds again.
  basis_points   int         CHECK (basis_points BETWEEN 0 AND 1000000),
  effective_from timestamptz NOT NULL,
  created_at     timestamptz NOT NULL,
  PRIMARY KEY (org_id, markup_id)
);
-- Serves: the rules in force at a time; refuses two of one kind that start at the same instant.
CREATE UNIQUE INDEX IF NOT EXISTS price_markups_by_target ON price_markups (org_id, provider, model, effective_from);
-- Serves: the list of an organisation's rules, newest first.
CREATE INDEX IF NOT EXISTS price_markups_by_time ON price_markups (org_id, created_at, markup_id);

-- In which dialect a provider tells its usage.
ALTER TABLE providers ADD COLUMN IF NOT EXISTS usage_dialect text NOT NULL DEFAULT 'openai'
  CHECK (usage_dialect IN ('openai', 'anthropic', 'gemini', 'xai', 'deepseek'));
-- What becomes of an answer that is cut off: read on for its true usage, closed and charged, or closed and borne.
ALTER TABLE providers ADD COLUMN IF NOT EXISTS cutoff text NOT NULL DEFAULT 'cancel' CHECK (cutoff IN ('drain', 'cancel', 'cancel_free'));
