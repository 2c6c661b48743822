-- Cubes that were added to the set: hours and days that were made without them are made again, and answered from below until then.
UPDATE rollup_hours SET made = false WHERE made;
UPDATE rollup_days SET made = false WHERE made;
