-- Days above the hours of cubes: their rows stand in usage_cubes and cube_latencies too, as cubes named `day:…` whose hour_start is
-- the day's.

-- One row is a day (UTC) whose cubes are made from all of its hours (`made`), or were and have to be made again.
CREATE TABLE IF NOT EXISTS rollup_days (
  org_id    uuid        NOT NULL,
  day_start timestamptz NOT NULL,
  made      boolean     NOT NULL,
  PRIMARY KEY (org_id, day_start)
);

-- Days from before there were any, to be made in passing.
INSERT INTO rollup_days (org_id, day_start, made)
  SELECT DISTINCT org_id, to_timestamp(floor(date_part('epoch', hour_start) / 86400) * 86400), false FROM rollup_hours
  ON CONFLICT DO NOTHING;
