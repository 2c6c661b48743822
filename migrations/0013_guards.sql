-- Guards: what an organisation checks in requests and answers, and what the tools of its agents can reach.

-- One row is one content rule. An organisation's rules are replaced as a whole, in their order.
CREATE TABLE IF NOT EXISTS guard_hooks (
  org_id            uuid        NOT NULL,
  -- Stays as it is while a rule of this name is replaced.
  hook_id           uuid        NOT NULL,
  name              text        NOT NULL CHECK (length(name) BETWEEN 1 AND 63),
  -- Absent: every project of the organisation.
  project_id        uuid,
  -- Rules run by rising position.
  position          int         NOT NULL CHECK (position >= 0),
  kind              text        NOT NULL CHECK (kind IN ('regex', 'pii', 'webhook')),
  -- JSON array of 'input' and 'output'.
  stages            text        NOT NULL,
  -- JSON object of the kind's own settings (gateway/guard/hook.ts). No secrets.
  settings          text        NOT NULL,
  -- AES-256-GCM under a key derived from the Worker's SECRETS_KEK, bound to hook_id: signs what a webhook is asked.
  secret_ciphertext text CHECK ((secret_ciphertext IS NOT NULL) = (kind = 'webhook')),
  created_at        timestamptz NOT NULL,
  updated_at        timestamptz NOT NULL,
  PRIMARY KEY (org_id, hook_id)
);
-- Serves: the rules of an organisation in their order; refuses two of one name.
CREATE UNIQUE INDEX IF NOT EXISTS guard_hooks_by_name ON guard_hooks (org_id, name);

-- One row says what the tools of one name, or of names with one beginning, can reach.
CREATE TABLE IF NOT EXISTS tool_capabilities (
  org_id       uuid NOT NULL,
  -- A tool's name, or the beginning of names and '*'.
  pattern      text NOT NULL CHECK (length(pattern) BETWEEN 1 AND 129),
  -- JSON array of 'files', 'network' and 'code'.
  capabilities text NOT NULL,
  PRIMARY KEY (org_id, pattern)
);

-- One row is what an organisation says of tools that have no tag. No row: they reach nothing.
CREATE TABLE IF NOT EXISTS guard_settings (
  org_id         uuid        NOT NULL PRIMARY KEY,
  untagged_tools text        NOT NULL CHECK (untagged_tools IN ('none', 'all')),
  updated_at     timestamptz NOT NULL
);
