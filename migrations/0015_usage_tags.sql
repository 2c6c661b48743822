-- Usage by own machine and by the caller's own words, and what caches saved.

-- Which own machine computed it, the last one where an answer moved. Absent: other targets, and ends that nobody told.
ALTER TABLE usage_attempts ADD COLUMN IF NOT EXISTS backend_id text;
ALTER TABLE usage_requests ADD COLUMN IF NOT EXISTS backend_id text;
-- What the caller filed the request under (x-penstock-tags): `name=value` by name, joined by commas.
ALTER TABLE usage_attempts ADD COLUMN IF NOT EXISTS tags text;
ALTER TABLE usage_requests ADD COLUMN IF NOT EXISTS tags text;
-- What input that was read from a cache would have cost more at the uncached price. Absent: written before it was counted.
ALTER TABLE usage_attempts ADD COLUMN IF NOT EXISTS cache_savings_nanousd bigint;

-- Serves: the live log, which asks for what was recorded since it asked last.
CREATE INDEX IF NOT EXISTS usage_requests_by_record ON usage_requests (org_id, recorded_at, request_id);
-- Serves: what was done to one object.
CREATE INDEX IF NOT EXISTS audit_log_by_object ON audit_log (object_id, occurred_at);
