-- Why an attempt was made where it was, beside what it used.

-- JSON object: role (primary, fallback, retry, hedge, cascade, shadow, cache), what put the target in its place, the key's
-- name, how long was waited, how it failed. Not part of payload_hash: it explains a fact and is none. NULL: written before
-- there were routes, or ended by nobody.
ALTER TABLE usage_attempts ADD COLUMN IF NOT EXISTS route text;
