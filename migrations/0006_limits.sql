-- What callers may use: limits of every scope, meter and window, as one versioned book per organisation.

-- One row is one limit. A hard one refuses, a soft one is noted when it is passed. Counters live in the Account object.
CREATE TABLE IF NOT EXISTS limit_rules (
  org_id      uuid        NOT NULL,
  limit_id    uuid        NOT NULL,
  scope       text        NOT NULL CHECK (scope IN ('org', 'project', 'team', 'user', 'key', 'end_user')),
  -- Id of the scope; '*' gives each project, team, user, key or end user a limit of its own.
  scope_id    text        NOT NULL CHECK (length(scope_id) BETWEEN 1 AND 256),
  -- Only requests for this model name; '' means all.
  model       text        NOT NULL CHECK (length(model) <= 128),
  meter       text        NOT NULL CHECK (meter IN ('requests', 'input_tokens', 'output_tokens', 'money', 'concurrency')),
  -- 'none' for concurrency, which counts what runs now.
  time_window text        NOT NULL CHECK (time_window IN ('minute', 'hour', 'day', 'month', 'lifetime', 'none')),
  -- Name of an IANA zone: where days and months begin.
  time_zone   text        NOT NULL CHECK (length(time_zone) BETWEEN 1 AND 64),
  hard        boolean     NOT NULL,
  max_count   bigint      CHECK (max_count >= 0),
  max_nanousd bigint      CHECK (max_nanousd >= 0),
  created_at  timestamptz NOT NULL,
  PRIMARY KEY (org_id, limit_id),
  CHECK (scope <> 'org' OR scope_id <> '*'),
  CHECK ((meter = 'money') = (max_nanousd IS NOT NULL)),
  CHECK ((meter = 'money') = (max_count IS NULL)),
  CHECK ((meter = 'concurrency') = (time_window = 'none'))
);
-- Serves: the limits of one scope; refuses two that say the same thing.
CREATE UNIQUE INDEX IF NOT EXISTS limit_rules_by_meaning
  ON limit_rules (org_id, scope, scope_id, model, meter, time_window, time_zone, hard);

-- One row is the version of an organisation's rules (limits and credit). It rises in the transaction that changes them.
CREATE TABLE IF NOT EXISTS rule_books (
  org_id  uuid   NOT NULL PRIMARY KEY,
  version bigint NOT NULL CHECK (version >= 1)
);

-- What stood in `limits` before. Ids are derived, so that a repeated step meets the same key.
INSERT INTO limit_rules (org_id, limit_id, scope, scope_id, model, meter, time_window, time_zone, hard, max_count, max_nanousd, created_at)
  SELECT org_id, md5(org_id::text || scope || scope_id::text || meter || time_window)::uuid, scope, scope_id::text, '', meter,
    time_window, 'UTC', true, max_count, max_nanousd, now()
  FROM limits
  ON CONFLICT DO NOTHING;

-- One row is a limit that was passed: soft ones, and the first refusal of a hard one in each window. Never changed.
CREATE TABLE IF NOT EXISTS limit_events (
  org_id      uuid        NOT NULL,
  limit_id    uuid        NOT NULL,
  -- The id at the limit's scope that passed it.
  subject     text        NOT NULL,
  window_key  text        NOT NULL,
  kind        text        NOT NULL CHECK (kind IN ('passed', 'refused')),
  -- Requests, tokens or nano-USD, as the limit counts.
  max_value   bigint      NOT NULL,
  value       bigint      NOT NULL,
  occurred_at timestamptz NOT NULL,
  PRIMARY KEY (org_id, limit_id, subject, window_key, kind)
);
-- Serves: the list of an organisation's events, newest first.
CREATE INDEX IF NOT EXISTS limit_events_by_time ON limit_events (org_id, occurred_at, limit_id);
