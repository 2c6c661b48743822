-- Usage by more than key and project, in all parts that providers bill, with what the provider itself said.

-- Who the credential belonged to, and whom the caller served: absent where unknown.
ALTER TABLE usage_attempts ADD COLUMN IF NOT EXISTS user_id uuid;
ALTER TABLE usage_attempts ADD COLUMN IF NOT EXISTS team_id uuid;
ALTER TABLE usage_attempts ADD COLUMN IF NOT EXISTS end_user text;
-- The first key of the line of rotations that the key belongs to, often the key itself: limits on a key count by it.
ALTER TABLE usage_attempts ADD COLUMN IF NOT EXISTS key_line_id uuid;
UPDATE usage_attempts SET key_line_id = key_id WHERE key_line_id IS NULL;
ALTER TABLE usage_requests ADD COLUMN IF NOT EXISTS user_id uuid;
ALTER TABLE usage_requests ADD COLUMN IF NOT EXISTS team_id uuid;
ALTER TABLE usage_requests ADD COLUMN IF NOT EXISTS end_user text;

-- Tokens beyond text, and what is billed by the piece.
ALTER TABLE usage_attempts ADD COLUMN IF NOT EXISTS input_audio bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_attempts ADD COLUMN IF NOT EXISTS input_image bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_attempts ADD COLUMN IF NOT EXISTS output_audio bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_attempts ADD COLUMN IF NOT EXISTS output_image bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_attempts ADD COLUMN IF NOT EXISTS web_search_calls bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_attempts ADD COLUMN IF NOT EXISTS image_calls bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_attempts ADD COLUMN IF NOT EXISTS tool_calls bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_requests ADD COLUMN IF NOT EXISTS input_audio bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_requests ADD COLUMN IF NOT EXISTS input_image bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_requests ADD COLUMN IF NOT EXISTS output_audio bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_requests ADD COLUMN IF NOT EXISTS output_image bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_requests ADD COLUMN IF NOT EXISTS web_search_calls bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_requests ADD COLUMN IF NOT EXISTS image_calls bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_requests ADD COLUMN IF NOT EXISTS tool_calls bigint NOT NULL DEFAULT 0;

-- The provider's own usage object as it came, cut to a bound; and whether its counts contradict each other.
ALTER TABLE usage_attempts ADD COLUMN IF NOT EXISTS raw_usage text;
ALTER TABLE usage_attempts ADD COLUMN IF NOT EXISTS inconsistent boolean NOT NULL DEFAULT false;

-- Serves: the sums that a limit on one user, team, key or end user starts from.
CREATE INDEX IF NOT EXISTS usage_attempts_by_key ON usage_attempts (org_id, key_line_id, started_at);
CREATE INDEX IF NOT EXISTS usage_attempts_by_user ON usage_attempts (org_id, user_id, started_at);
CREATE INDEX IF NOT EXISTS usage_attempts_by_team ON usage_attempts (org_id, team_id, started_at);
CREATE INDEX IF NOT EXISTS usage_attempts_by_end_user ON usage_attempts (org_id, end_user, started_at);
