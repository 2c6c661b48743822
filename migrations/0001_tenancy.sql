-- Who may call: organisations, their projects, their API keys and the limits on each; the machines that joined; and
-- the record of who changed what. Ids are made by the application (uuid v4), and lead with the organisation.

-- One row is one customer: the owner of budgets, of a ledger account and of projects.
CREATE TABLE IF NOT EXISTS organisations (
  org_id     uuid        NOT NULL PRIMARY KEY,
  -- Unique short name, chosen by the administrator; makes creating an organisation safe to repeat.
  slug       text        NOT NULL CHECK (length(slug) BETWEEN 1 AND 63),
  name       text        NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  created_at timestamptz NOT NULL
);
-- Serves: one organisation by its short name; refuses a second one of that name.
CREATE UNIQUE INDEX IF NOT EXISTS organisations_by_slug ON organisations (slug);
-- Serves: the list of organisations, newest first.
CREATE INDEX IF NOT EXISTS organisations_by_time ON organisations (created_at, org_id);

-- One row is one project of an organisation: a group of keys with limits of its own.
CREATE TABLE IF NOT EXISTS projects (
  org_id     uuid        NOT NULL,
  project_id uuid        NOT NULL,
  slug       text        NOT NULL CHECK (length(slug) BETWEEN 1 AND 63),
  name       text        NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  created_at timestamptz NOT NULL,
  PRIMARY KEY (org_id, project_id)
);
-- Serves: one project by its short name; refuses a second one of that name in the organisation.
CREATE UNIQUE INDEX IF NOT EXISTS projects_by_slug ON projects (org_id, slug);
-- Serves: the list of an organisation's projects, newest first.
CREATE INDEX IF NOT EXISTS projects_by_time ON projects (org_id, created_at, project_id);

-- One row is one API key. The key itself is nowhere: `hash` is its SHA-256, `prefix` its first characters, to show.
CREATE TABLE IF NOT EXISTS api_keys (
  org_id     uuid        NOT NULL,
  key_id     uuid        NOT NULL,
  project_id uuid        NOT NULL,
  name       text        NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  hash       text        NOT NULL CHECK (length(hash) = 64),
  prefix     text        NOT NULL CHECK (length(prefix) BETWEEN 1 AND 16),
  -- JSON object; {"models": [..]} names the models the key may use, {} means every model.
  scopes     text        NOT NULL,
  created_at timestamptz NOT NULL,
  expires_at timestamptz,
  revoked_at timestamptz,
  PRIMARY KEY (org_id, key_id)
);
-- Serves: authentication, which knows the hash and nothing else.
CREATE UNIQUE INDEX IF NOT EXISTS api_keys_by_hash ON api_keys (hash);
-- Serves: the list of an organisation's keys, newest first.
CREATE INDEX IF NOT EXISTS api_keys_by_time ON api_keys (org_id, created_at, key_id);

-- One row is one limit: at one scope, of one meter, over one calendar window in UTC.
CREATE TABLE IF NOT EXISTS limits (
  org_id      uuid   NOT NULL,
  scope       text   NOT NULL CHECK (scope IN ('org', 'project', 'key')),
  -- Id of the organisation, project or key.
  scope_id    uuid   NOT NULL,
  meter       text   NOT NULL CHECK (meter IN ('requests', 'concurrency', 'money')),
  -- 'none' for concurrency, which counts what runs now.
  time_window text   NOT NULL,
  max_count   bigint CHECK (max_count >= 0),
  max_nanousd bigint CHECK (max_nanousd >= 0),
  PRIMARY KEY (org_id, scope, scope_id, meter, time_window),
  CHECK (scope <> 'org' OR scope_id = org_id),
  CHECK ((meter = 'money') = (max_nanousd IS NOT NULL)),
  CHECK ((meter = 'money') = (max_count IS NULL)),
  CHECK ((meter = 'requests' AND time_window IN ('minute', 'hour', 'day'))
      OR (meter = 'concurrency' AND time_window = 'none')
      OR (meter = 'money' AND time_window IN ('day', 'month', 'lifetime')))
);
-- Serves: every limit that applies to one caller, found by the ids of its key, project and organisation.
CREATE INDEX IF NOT EXISTS limits_by_scope ON limits (org_id, scope_id);

-- One row is one act of an administrator, written in the same transaction as what it did. Never changed, never deleted.
CREATE TABLE IF NOT EXISTS audit_log (
  audit_id    uuid        NOT NULL PRIMARY KEY,
  occurred_at timestamptz NOT NULL,
  actor       text        NOT NULL,
  -- e.g. 'key.create', 'limits.replace'.
  action      text        NOT NULL,
  -- Absent for acts on what no single organisation owns: models, prices, providers.
  org_id      uuid,
  object_id   text        NOT NULL,
  request_id  text        NOT NULL,
  -- JSON object with what changed; never a secret.
  details     text        NOT NULL
);
-- Serves: the list of acts, newest first.
CREATE INDEX IF NOT EXISTS audit_log_by_time ON audit_log (occurred_at, audit_id);
-- Serves: the list of acts of one organisation, newest first.
CREATE INDEX IF NOT EXISTS audit_log_by_org ON audit_log (org_id, occurred_at, audit_id);
