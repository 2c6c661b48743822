-- The double-entry ledger. Entries are facts: inserted once, never changed. A balance is a sum over entries.
-- Amounts are integer nano-USD (1e-9 USD); they leave one account and arrive at another, so the entries of one transfer,
-- and with them the balances of an organisation, sum to zero.

-- One row is one account of one organisation; made with its first entry. Ids are derived from organisation and name.
CREATE TABLE IF NOT EXISTS ledger_accounts (
  org_id     uuid NOT NULL,
  account_id uuid NOT NULL,
  name       text NOT NULL CHECK (name IN ('customer_credit', 'usage_revenue', 'provider_cost', 'provider_payable',
                                           'gateway_absorbed')),
  PRIMARY KEY (org_id, account_id)
);
-- Serves: the account of a name; refuses a second one.
CREATE UNIQUE INDEX IF NOT EXISTS ledger_accounts_by_name ON ledger_accounts (org_id, name);

-- One row is what one transfer does to one account. Transfer ids are derived from what the transfer stands for
-- (request, attempt, kind, purpose), so a repeated write meets the same key.
CREATE TABLE IF NOT EXISTS ledger_entries (
  org_id         uuid        NOT NULL,
  transfer_id    uuid        NOT NULL,
  account_id     uuid        NOT NULL,
  amount_nanousd bigint      NOT NULL CHECK (amount_nanousd <> 0),
  purpose        text        NOT NULL CHECK (purpose IN ('usage', 'provider_cost')),
  request_id     uuid        NOT NULL,
  attempt        int         NOT NULL CHECK (attempt >= 1),
  kind           text        NOT NULL CHECK (kind IN ('attempt', 'adjustment', 'reversal')),
  occurred_at    timestamptz NOT NULL,
  PRIMARY KEY (org_id, transfer_id, account_id)
);
-- Serves: balance of one account.
CREATE INDEX IF NOT EXISTS ledger_entries_by_account ON ledger_entries (org_id, account_id, amount_nanousd);
-- Serves: the entries of one request.
CREATE INDEX IF NOT EXISTS ledger_entries_by_request ON ledger_entries (org_id, request_id);
