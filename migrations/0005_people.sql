-- Who belongs to an organisation besides its keys: people and services, their roles, teams, and the issuers whose tokens
-- are taken. All of it lies within one organisation: a person in two of them is two rows that know nothing of each other.

-- One row is one person or service. Never deleted: usage and the audit log name it. Without a membership it may do nothing.
CREATE TABLE IF NOT EXISTS users (
  org_id       uuid        NOT NULL,
  user_id      uuid        NOT NULL,
  -- A service calls with API keys or with tokens of an issuer for services.
  kind         text        NOT NULL CHECK (kind IN ('person', 'service')),
  -- Unique short name: a person's e-mail address in lower case, a service's slug. Makes creating safe to repeat.
  handle       text        NOT NULL CHECK (length(handle) BETWEEN 1 AND 254),
  name         text        NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  -- What this issuer calls it in its tokens; both absent: no tokens are taken.
  issuer_id    uuid,
  subject      text        CHECK (length(subject) BETWEEN 1 AND 255),
  created_at   timestamptz NOT NULL,
  suspended_at timestamptz,
  PRIMARY KEY (org_id, user_id),
  CHECK ((issuer_id IS NULL) = (subject IS NULL))
);
-- Serves: one user by its short name; refuses a second one of that name.
CREATE UNIQUE INDEX IF NOT EXISTS users_by_handle ON users (org_id, handle);
-- Serves: the user that a token names; refuses two for one subject.
CREATE UNIQUE INDEX IF NOT EXISTS users_by_subject ON users (org_id, issuer_id, subject);
-- Serves: the list of an organisation's users, newest first.
CREATE INDEX IF NOT EXISTS users_by_time ON users (org_id, created_at, user_id);

-- One row is the role of one user. Roles and what they permit: gateway/auth/roles.ts.
CREATE TABLE IF NOT EXISTS memberships (
  org_id     uuid        NOT NULL,
  user_id    uuid        NOT NULL,
  role       text        NOT NULL CHECK (role IN ('owner', 'admin', 'billing', 'developer', 'viewer')),
  -- JSON array of project ids the user is bound to; absent: all.
  projects   text,
  created_at timestamptz NOT NULL,
  PRIMARY KEY (org_id, user_id),
  CHECK (projects IS NULL OR role IN ('developer', 'viewer'))
);
-- Serves: whether an organisation has an owner left.
CREATE INDEX IF NOT EXISTS memberships_by_role ON memberships (org_id, role);

-- One row is one team: users whose usage can be limited and read together.
CREATE TABLE IF NOT EXISTS teams (
  org_id     uuid        NOT NULL,
  team_id    uuid        NOT NULL,
  slug       text        NOT NULL CHECK (length(slug) BETWEEN 1 AND 63),
  name       text        NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  created_at timestamptz NOT NULL,
  PRIMARY KEY (org_id, team_id)
);
-- Serves: one team by its short name; refuses a second one of that name in the organisation.
CREATE UNIQUE INDEX IF NOT EXISTS teams_by_slug ON teams (org_id, slug);
-- Serves: the list of an organisation's teams, newest first.
CREATE INDEX IF NOT EXISTS teams_by_time ON teams (org_id, created_at, team_id);

-- One row is one user in one team.
CREATE TABLE IF NOT EXISTS team_members (
  org_id     uuid        NOT NULL,
  team_id    uuid        NOT NULL,
  user_id    uuid        NOT NULL,
  created_at timestamptz NOT NULL,
  PRIMARY KEY (org_id, team_id, user_id)
);
-- Serves: the teams of one user.
CREATE INDEX IF NOT EXISTS team_members_by_user ON team_members (org_id, user_id);

-- One row is one issuer of tokens (OIDC) that an organisation trusts to name its users.
CREATE TABLE IF NOT EXISTS token_issuers (
  org_id             uuid        NOT NULL,
  issuer_id          uuid        NOT NULL,
  name               text        NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  -- `iss` and `aud` of its tokens. Together they belong to one organisation of the deployment.
  issuer             text        NOT NULL CHECK (length(issuer) BETWEEN 1 AND 500),
  audience           text        NOT NULL CHECK (length(audience) BETWEEN 1 AND 255),
  -- Where its public keys are, or the keys themselves as JSON.
  jwks_uri           text,
  jwks               text,
  -- Only the operator lets the gateway fetch from a private network.
  allow_private      boolean     NOT NULL,
  -- JSON array of signature algorithms; asymmetric ones alone.
  algorithms         text        NOT NULL,
  subject_claim      text        NOT NULL CHECK (length(subject_claim) BETWEEN 1 AND 100),
  -- A claim that narrows the user's role; absent: none does.
  role_claim         text        CHECK (length(role_claim) BETWEEN 1 AND 100),
  -- The most that a token of this issuer can do, whatever the user's role.
  max_role           text        NOT NULL CHECK (max_role IN ('owner', 'admin', 'billing', 'developer', 'viewer')),
  -- Whose project usage counts for.
  project_id         uuid        NOT NULL,
  -- Names services and no people.
  service            boolean     NOT NULL,
  clock_skew_s       int         NOT NULL CHECK (clock_skew_s BETWEEN 0 AND 60),
  token_age_max_s    int         NOT NULL CHECK (token_age_max_s BETWEEN 60 AND 86400),
  created_at         timestamptz NOT NULL,
  PRIMARY KEY (org_id, issuer_id),
  CHECK ((jwks_uri IS NULL) <> (jwks IS NULL))
);
-- Serves: the issuer that a token claims to be of; refuses a second organisation the same tokens.
CREATE UNIQUE INDEX IF NOT EXISTS token_issuers_by_claims ON token_issuers (issuer, audience);

-- Whose a key is, which team it counts for, the key it replaced, the first key of its line of rotations (absent: itself),
-- whose limits all keys of the line share, and the user who made it (absent: the operator).
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS user_id uuid;
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS team_id uuid;
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS rotated_from uuid;
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS line_id uuid;
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS made_by uuid;
-- Serves: what is to be told when a user's rights change.
CREATE INDEX IF NOT EXISTS api_keys_by_user ON api_keys (org_id, user_id);
-- Serves: the key that replaced one; a key is replaced once.
CREATE UNIQUE INDEX IF NOT EXISTS api_keys_by_rotation ON api_keys (org_id, rotated_from);
-- Serves: whether a team still has keys.
CREATE INDEX IF NOT EXISTS api_keys_by_team ON api_keys (org_id, team_id);

-- Which user did it and with which key, where it was not the operator; and from where, where that is known.
ALTER TABLE audit_log ADD COLUMN IF NOT EXISTS actor_user_id uuid;
ALTER TABLE audit_log ADD COLUMN IF NOT EXISTS actor_key_id uuid;
ALTER TABLE audit_log ADD COLUMN IF NOT EXISTS address text;
