-- Credit: what an organisation paid or was given, and whether it has to have paid before it uses.

-- 'postpaid': usage is owed. 'prepaid': usage ends where grants and the overdraft end.
ALTER TABLE organisations ADD COLUMN IF NOT EXISTS billing_mode text NOT NULL DEFAULT 'postpaid'
  CHECK (billing_mode IN ('prepaid', 'postpaid'));
ALTER TABLE organisations ADD COLUMN IF NOT EXISTS overdraft_nanousd bigint NOT NULL DEFAULT 0 CHECK (overdraft_nanousd >= 0);

-- One row is one grant of credit, or its correction (below zero). Its ledger transfer is written with it. Never changed.
CREATE TABLE IF NOT EXISTS credit_grants (
  org_id         uuid        NOT NULL,
  -- Made by the caller of the admin API, so that a repeated call grants once.
  grant_id       uuid        NOT NULL,
  kind           text        NOT NULL CHECK (kind IN ('payment', 'promotion')),
  amount_nanousd bigint      NOT NULL CHECK (amount_nanousd <> 0),
  note           text        NOT NULL CHECK (length(note) <= 500),
  occurred_at    timestamptz NOT NULL,
  PRIMARY KEY (org_id, grant_id)
);
-- Serves: the list of an organisation's grants, newest first.
CREATE INDEX IF NOT EXISTS credit_grants_by_time ON credit_grants (org_id, occurred_at, grant_id);

-- Accounts of grants beside those of usage.
ALTER TABLE ledger_accounts DROP CONSTRAINT IF EXISTS ledger_accounts_name_check,
  ADD CONSTRAINT ledger_accounts_name_check CHECK (name IN ('customer_credit', 'customer_holds',
  'usage_revenue', 'provider_cost', 'provider_payable', 'gateway_absorbed', 'promotions', 'payment_clearing'));
ALTER TABLE ledger_entries DROP CONSTRAINT IF EXISTS ledger_entries_purpose_check,
  ADD CONSTRAINT ledger_entries_purpose_check CHECK (purpose IN ('usage', 'provider_cost', 'hold', 'grant'));
-- A grant belongs to no request.
ALTER TABLE ledger_entries ALTER COLUMN request_id DROP NOT NULL;
ALTER TABLE ledger_entries ALTER COLUMN attempt DROP NOT NULL;
ALTER TABLE ledger_entries ALTER COLUMN kind DROP NOT NULL;
