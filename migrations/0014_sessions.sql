-- People who are signed in to the dashboard, the one-time links by which they sign in, and which issuers of tokens they can
-- sign in with. Codes and tokens of sessions are kept as digests alone.

-- One row is one browser that is signed in. Deleted when it signs out or is taken back; rows that ended by themselves are
-- deleted a few at a time, whenever a new one is made.
CREATE TABLE IF NOT EXISTS dashboard_sessions (
  session_id   uuid        NOT NULL PRIMARY KEY,
  -- SHA-256 of the cookie's value together with ADMIN_TOKEN: a new ADMIN_TOKEN ends all sessions.
  token_hash   text        NOT NULL,
  -- Whose it is; both absent: the deployment's operator.
  org_id       uuid,
  user_id      uuid,
  -- By which issuer and subject the user signed in; absent: by a link. The session ends with either.
  issuer_id    uuid,
  subject      text,
  -- JSON array of roles, the most that the session may do beside the role that the user has now.
  bounds       text        NOT NULL,
  created_at   timestamptz NOT NULL,
  last_seen_at timestamptz NOT NULL,
  expires_at   timestamptz NOT NULL,
  -- Where it was made from, where that is known.
  address      text,
  CHECK ((org_id IS NULL) = (user_id IS NULL)),
  CHECK ((issuer_id IS NULL) = (subject IS NULL))
);
-- Serves: whose session a cookie is.
CREATE UNIQUE INDEX IF NOT EXISTS dashboard_sessions_by_token ON dashboard_sessions (token_hash);
-- Serves: the sessions of one user, or of an organisation, newest first.
CREATE INDEX IF NOT EXISTS dashboard_sessions_by_user ON dashboard_sessions (org_id, user_id, created_at);
-- Serves: the list of all sessions, newest first.
CREATE INDEX IF NOT EXISTS dashboard_sessions_by_time ON dashboard_sessions (created_at, session_id);
-- Serves: finding rows that ended.
CREATE INDEX IF NOT EXISTS dashboard_sessions_by_expiry ON dashboard_sessions (expires_at);

-- One row is one link that signs in once.
CREATE TABLE IF NOT EXISTS sign_in_links (
  -- SHA-256 of the code together with ADMIN_TOKEN.
  code_hash  text        NOT NULL PRIMARY KEY,
  link_id    uuid        NOT NULL,
  -- Whom it signs in; both absent: the operator.
  org_id     uuid,
  user_id    uuid,
  -- JSON array of roles, as of sessions: what the user could do when the link was made.
  bounds     text        NOT NULL,
  created_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  -- The session that it made; absent: not used yet.
  session_id uuid,
  CHECK ((org_id IS NULL) = (user_id IS NULL))
);
-- Serves: taking back what is open when a user is suspended.
CREATE INDEX IF NOT EXISTS sign_in_links_by_user ON sign_in_links (org_id, user_id);
-- Serves: finding rows that ended.
CREATE INDEX IF NOT EXISTS sign_in_links_by_expiry ON sign_in_links (expires_at);

-- One row lets people sign in with an issuer of tokens: this gateway as a client of that issuer. The client's id is the
-- audience of the issuer's tokens.
CREATE TABLE IF NOT EXISTS sign_in_clients (
  org_id            uuid        NOT NULL,
  issuer_id         uuid        NOT NULL,
  -- Stands in addresses: ids of issuers are unique within an organisation alone.
  client_ref        uuid        NOT NULL,
  -- AES-256-GCM under a key derived from the Worker's SECRETS_KEK, bound to client_ref; absent: a public client.
  secret_ciphertext text,
  scopes            text        NOT NULL CHECK (length(scopes) BETWEEN 1 AND 500),
  -- Offered to whoever opens the sign-in page, and not only to those who name the organisation.
  listed            boolean     NOT NULL,
  created_at        timestamptz NOT NULL,
  updated_at        timestamptz NOT NULL,
  PRIMARY KEY (org_id, issuer_id)
);
-- Serves: the client that an address names.
CREATE UNIQUE INDEX IF NOT EXISTS sign_in_clients_by_ref ON sign_in_clients (client_ref);
-- Serves: what the sign-in page offers to everybody.
CREATE INDEX IF NOT EXISTS sign_in_clients_by_listing ON sign_in_clients (listed, client_ref);
