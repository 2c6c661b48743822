-- Longer units above the days of cubes, tags folded name by name, and end users.

-- One row is 8 or 64 days from the epoch on (UTC) whose cubes are made from the shorter units in it (`made`), or were and have to
-- be made again. Their rows stand in usage_cubes and cube_latencies as cubes named `days8:…` and `days64:…`.
CREATE TABLE IF NOT EXISTS rollup_spans (
  org_id     uuid        NOT NULL,
  days       int         NOT NULL CHECK (days IN (8, 64)),
  span_start timestamptz NOT NULL,
  made       boolean     NOT NULL,
  PRIMARY KEY (org_id, days, span_start)
);

-- Of cubes by end user, who are in no rollup of quarter hours.
ALTER TABLE cube_dimensions ADD COLUMN IF NOT EXISTS end_user text;

-- One row is a tag's name of which a quarter hour does not tell all values apart (gateway/ledger/tag-folds.ts); `*`: of some names
-- not even whether a request has one.
CREATE TABLE IF NOT EXISTS rollup_folds (
  org_id       uuid        NOT NULL,
  bucket_start timestamptz NOT NULL,
  name         text        NOT NULL,
  PRIMARY KEY (org_id, bucket_start, name)
);
-- Serves: whether a range tells all values of a name.
CREATE INDEX IF NOT EXISTS rollup_folds_by_name ON rollup_folds (org_id, name, bucket_start);

-- Quarter hours in which tags were folded as whole texts: until they are rolled anew, which they are in passing, nothing is known.
INSERT INTO rollup_folds (org_id, bucket_start, name)
  SELECT DISTINCT r.org_id, r.bucket_start, '*' FROM rollup_dimensions d
    JOIN usage_rollups r ON r.org_id = d.org_id AND r.dimensions_id = d.dimensions_id WHERE d.tags = '*'
  ON CONFLICT DO NOTHING;
INSERT INTO rollup_dirty (org_id, bucket_start, marked_at)
  SELECT org_id, bucket_start, now() FROM rollup_folds WHERE name = '*'
  ON CONFLICT DO NOTHING;

-- The set of cubes is another: units that were made are made again, in passing, and answered from below until then.
UPDATE rollup_hours SET made = false WHERE made;
UPDATE rollup_days SET made = false WHERE made;
INSERT INTO rollup_spans (org_id, days, span_start, made)
  SELECT DISTINCT org_id, 8, to_timestamp(floor(date_part('epoch', day_start) / 691200) * 691200), false FROM rollup_days
  ON CONFLICT DO NOTHING;
INSERT INTO rollup_spans (org_id, days, span_start, made)
  SELECT DISTINCT org_id, 64, to_timestamp(floor(date_part('epoch', day_start) / 5529600) * 5529600), false FROM rollup_days
  ON CONFLICT DO NOTHING;

-- Days of the ledger, so that a balance is not the sum of all entries ever and a statement not that of a month's rows.

-- One row is a day (UTC, by the end of attempts and the time of grants) that has entries or rows: whether its sums below are made
-- (`made`), or it is read from entries and rows. Written in every transaction that writes those.
CREATE TABLE IF NOT EXISTS ledger_days (
  org_id uuid    NOT NULL,
  day    date    NOT NULL,
  made   boolean NOT NULL,
  PRIMARY KEY (org_id, day)
);

-- One row is what all entries of one day and purpose did to one account.
CREATE TABLE IF NOT EXISTS ledger_day_sums (
  org_id         uuid   NOT NULL,
  account_id     uuid   NOT NULL,
  day            date   NOT NULL,
  purpose        text   NOT NULL,
  amount_nanousd bigint NOT NULL,
  PRIMARY KEY (org_id, account_id, day, purpose)
);

-- One row is a line of the statement (gateway/ledger/statement.ts) in one day: sums over attempts that the customer pays.
CREATE TABLE IF NOT EXISTS statement_days (
  org_id               uuid   NOT NULL,
  day                  date   NOT NULL,
  -- MD5 over the columns below, up to `pricing`.
  line_id              uuid   NOT NULL,
  kind                 text   NOT NULL,
  project_id           uuid   NOT NULL,
  key_id               uuid   NOT NULL,
  model_requested      text   NOT NULL,
  provider             text   NOT NULL,
  model_served         text   NOT NULL,
  price_version_id     text,
  unit_prices          text,
  pricing              text   NOT NULL,
  attempts             bigint NOT NULL,
  guessed_attempts     bigint NOT NULL,
  cost_nanousd         bigint NOT NULL,
  input_uncached       bigint NOT NULL,
  input_cache_read     bigint NOT NULL,
  input_cache_write_5m bigint NOT NULL,
  input_cache_write_1h bigint NOT NULL,
  input_audio          bigint NOT NULL,
  input_image          bigint NOT NULL,
  output_text          bigint NOT NULL,
  output_reasoning     bigint NOT NULL,
  output_audio         bigint NOT NULL,
  output_image         bigint NOT NULL,
  web_search_calls     bigint NOT NULL,
  image_calls          bigint NOT NULL,
  tool_calls           bigint NOT NULL,
  PRIMARY KEY (org_id, day, line_id)
);

-- Serves: what ended in a part of a day: the two ends of a statement, and days that are not made.
CREATE INDEX IF NOT EXISTS usage_attempts_by_end ON usage_attempts (org_id, ended_at);

-- Days from before, to be made in passing.
INSERT INTO ledger_days (org_id, day, made)
  SELECT DISTINCT org_id, (occurred_at AT TIME ZONE 'UTC')::date, false FROM ledger_entries
  UNION SELECT DISTINCT org_id, (ended_at AT TIME ZONE 'UTC')::date, false FROM usage_attempts
  ON CONFLICT DO NOTHING;
